"""The generated dataset: motions as defined, frames that say nothing, resumable files."""

import hashlib
import json

import av
import numpy as np
import pytest
from scipy import stats

from molo_jax.data import synthetic
from molo_jax.data.lists.splits import read_split
from molo_jax.errors import MoloError

FEW = {"train": 1, "val": 1, "test": 2}
SECONDS = np.arange(20) / synthetic.FRAME_RATE


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    synthetic.generate(folder, seed=5, videos_per_class=FEW, workers=2)
    return folder


def _digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_splits_have_the_benchmark_numbers_of_disjoint_classes():
    classes = synthetic.classes()
    assert {split: len(motions) for split, motions in classes.items()} == {
        "train": 64,
        "val": 12,
        "test": 24,
    }
    assert len({motion for motions in classes.values() for motion in motions}) == 100


def test_the_split_lists_name_every_video_with_its_class(dataset):
    for split, count in FEW.items():
        listed = read_split(dataset / "splits" / f"{split}_few_shot.txt", split)
        assert listed.classes == tuple(range(synthetic.SPLIT_CLASSES[split]))
        assert listed.class_sizes == (count,) * synthetic.SPLIT_CLASSES[split]
        for motion, videos in zip(synthetic.classes()[split], listed.videos, strict=True):
            for video in videos:
                assert video.name.startswith(f"{motion.name}/")
                assert (dataset / "videos" / video.name).is_file()


def test_videos_are_h264_of_two_to_three_seconds(dataset):
    for path in sorted((dataset / "videos").rglob("*.mp4"))[:5]:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert 2.0 <= stream.frames / stream.average_rate <= 3.0


def test_a_video_holds_the_rendered_frames_in_order(dataset):
    split = read_split(dataset / "splits" / "test_few_shot.txt", "test")
    job = synthetic._Job("test", 3, 1, seed=5)
    assert split.videos[3][1].name == job.name
    rendered = synthetic.render(job.motion, job.rng()).astype(np.float32)
    with av.open(str(dataset / "videos" / job.name)) as container:
        decoded = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    assert decoded.shape == rendered.shape
    errors = np.abs(decoded[:, None].astype(np.float32) - rendered[None]).mean(axis=(2, 3, 4))
    np.testing.assert_array_equal(errors.argmin(axis=1), np.arange(len(rendered)))


def test_generation_is_a_pure_function_of_the_seed(dataset, tmp_path):
    for seed, name in ((5, "same"), (6, "other")):
        synthetic.generate(tmp_path / name, seed=seed, videos_per_class=FEW, workers=1)
    assert _digests(tmp_path / "same") == _digests(dataset)
    video = synthetic._Job("train", 0, 0, seed=5).name
    assert _digests(tmp_path / "other")[f"videos/{video}"] != _digests(dataset)[f"videos/{video}"]


def test_interrupted_generation_resumes_without_touching_whole_videos(dataset, tmp_path):
    folder = tmp_path / "resumed"
    synthetic.generate(folder, seed=5, videos_per_class=FEW, workers=2)
    whole = folder / "videos" / synthetic._Job("val", 2, 0, seed=5).name
    missing = folder / "videos" / synthetic._Job("test", 7, 1, seed=5).name
    (missing.parent / f".{missing.name}.123.part").write_bytes(missing.read_bytes()[:50])
    missing.unlink()
    before = whole.stat().st_mtime_ns
    synthetic.generate(folder, seed=5, videos_per_class=FEW, workers=2)
    assert whole.stat().st_mtime_ns == before
    assert _digests(folder) == _digests(dataset)


def test_a_folder_made_with_other_settings_is_refused(dataset):
    with pytest.raises(
        MoloError, match=r"holds a dataset made with .*'seed': 5.*'seed': 6.* delete"
    ):
        synthetic.generate(dataset, seed=6, videos_per_class=FEW)
    assert json.loads((dataset / "dataset.json").read_text())["seed"] == 5


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MoloError, match=r"cannot write the dataset in .*file"):
        synthetic.generate(tmp_path / "file", videos_per_class=FEW)


def _paths(trajectory, count=400):
    rng = np.random.default_rng(0)
    return np.stack([synthetic._path(trajectory, SECONDS, rng, 1.0) for _ in range(count)])


@pytest.mark.parametrize("trajectory", synthetic.TRAJECTORIES)
def test_positions_are_uniform_at_every_instant_whatever_the_trajectory(trajectory):
    paths = _paths(trajectory)
    for instant in (0, 7, 19):
        for axis in (0, 1):
            assert stats.kstest(paths[:, axis, instant], "uniform").pvalue > 1e-3


@pytest.mark.parametrize("growth", synthetic.GROWTHS)
def test_log_sizes_are_uniform_at_every_instant_whatever_the_growth(growth):
    rng = np.random.default_rng(0)
    radii = np.stack([synthetic._radius(growth, SECONDS, rng, 1.0) for _ in range(400)])
    low, high = np.log(synthetic._RADII)
    for instant in (0, 7, 19):
        level = (np.log(radii[:, instant]) - low) / (high - low)
        assert stats.kstest(level, "uniform").pvalue > 1e-3


def _steps(trajectory):
    return (np.diff(_paths(trajectory, 5), axis=2) + 0.5) % 1.0 - 0.5


def test_straight_motion_goes_its_way_at_constant_speed():
    step = synthetic._TRAVEL_SPEED / synthetic.FRAME_RATE
    np.testing.assert_allclose(_steps("right"), np.full((5, 2, 19), [[step], [0.0]]), atol=1e-9)
    np.testing.assert_allclose(_steps("up"), np.full((5, 2, 19), [[0.0], [-step]]), atol=1e-9)
    diagonal = step / np.sqrt(2)
    expected = np.full((5, 2, 19), [[-diagonal], [diagonal]])
    np.testing.assert_allclose(_steps("down_left"), expected, atol=1e-9)


def test_circles_turn_opposite_ways_as_seen_on_the_screen():
    for trajectory, sign in (("circle_left", 1.0), ("circle_right", -1.0)):
        x, y = np.moveaxis(_steps(trajectory), 1, 0)
        cross = x[:, :-1] * -y[:, 1:] + y[:, :-1] * x[:, 1:]
        assert np.all(sign * cross > 0)


def test_a_swing_stays_on_its_line_and_comes_back():
    x, y = np.moveaxis(_steps("swing_rising"), 1, 0)
    np.testing.assert_allclose(x, -y, atol=1e-9)
    assert np.all((x > 0.01).any(axis=1) & (x < -0.01).any(axis=1))
    assert np.abs(_steps("swing_horizontal")[:, 1]).max() < 1e-9


def test_growing_and_shrinking_objects_change_by_the_same_ratio_each_frame():
    rng = np.random.default_rng(0)
    low, high = np.log(synthetic._RADII)
    for growth, sign in (("grow", 1), ("shrink", -1)):
        change = np.diff(np.log(synthetic._radius(growth, SECONDS, rng, 1.0)))
        expected = sign * (high - low) * synthetic._GROWTH_SPEED / synthetic.FRAME_RATE
        restarts = np.sign(change) != sign
        np.testing.assert_allclose(change[~restarts], expected, rtol=1e-6)
        assert restarts.sum() <= 2


def test_a_damaged_note_of_the_settings_is_one_clear_error(tmp_path):
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(MoloError, match="holds a dataset made with unknown settings"):
        synthetic.generate(tmp_path, videos_per_class=FEW)


def test_a_long_note_of_the_settings_is_quoted_with_its_length(tmp_path):
    (tmp_path / "dataset.json").write_text(f'"{"x" * 5000}"')
    with pytest.raises(MoloError, match=r"made with 'x{120}'… \(5,000 characters\), asked for is"):
        synthetic.generate(tmp_path, videos_per_class=FEW)
