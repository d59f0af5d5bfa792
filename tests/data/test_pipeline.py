import itertools
import os
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from molo_jax.data.clips import dataset as dataset_module
from molo_jax.data.clips.episodes import EpisodeSampler
from molo_jax.data.pipeline import EPISODE_FIELDS, clip_batches, episode_batches
from molo_jax.data.video.decode import BadVideoError, decode_clip
from molo_jax.data.video.frames import segment_frames
from molo_jax.errors import MoloError, UsageError

WAY, SHOT, QUERY, FRAMES, SIDE, LENGTH = 2, 1, 3, 5, 24, 17
SPOILED = {"2_1", "2_4", "11_0", "40_3"}


def make_sampler(dataset, **changes):
    arguments = {"seed": 1, "n_way": WAY, "n_shot": SHOT, "n_query": QUERY, "num_frames": FRAMES}
    return EpisodeSampler.from_split(dataset.split, **{**arguments, **changes})


def stream(dataset, sampler=None, **changes):
    arguments = {
        "start": 0,
        "stop": 6,
        "batch_size": 2,
        "workers": 2,
        "prefetch": 1,
        "resize": SIDE,
        "sampling": "segments",
    }
    sampler = sampler or make_sampler(dataset)
    return episode_batches(dataset, sampler, **{**arguments, **changes})


def collect(batches) -> dict[str, np.ndarray]:
    """All batches joined along the episode axis."""
    parts = list(batches)
    return {field: np.concatenate([part[field] for part in parts]) for field in EPISODE_FIELDS}


def assert_same(first, second):
    for field in EPISODE_FIELDS:
        np.testing.assert_array_equal(first[field], second[field], err_msg=field)


def video_codes(dataset) -> dict[tuple[int, int], int]:
    """The code of every video: videos were numbered in the order of the list."""
    places = [(c, v) for c, size in enumerate(dataset.class_sizes) for v in range(size)]
    return {place: code for code, place in enumerate(places)}


def test_batches_hold_the_frames_and_labels_of_the_sampled_episodes(open_dataset, read_codes):
    dataset = open_dataset()
    sampler, codes = make_sampler(dataset), video_codes(dataset)
    batches = list(stream(dataset, sampler, start=3, stop=9, batch_size=3))
    assert [batch["index"].tolist() for batch in batches] == [[3, 4, 5], [6, 7, 8]]
    assert batches[0]["support"].shape == (3, WAY * SHOT, FRAMES, SIDE, SIDE, 3)
    assert batches[0]["query"].shape == (3, WAY * QUERY, FRAMES, SIDE, SIDE, 3)
    for field, kind in EPISODE_FIELDS.items():
        assert batches[0][field].dtype == kind
    for batch, place in itertools.product(batches, range(3)):
        episode = sampler.resolve(sampler(int(batch["index"][place])))
        for role, clips in (("support", episode.support), ("query", episode.query)):
            for pixels, clip in zip(batch[role][place], clips, strict=True):
                frames = segment_frames(LENGTH, clip.draws).tolist()
                assert read_codes(pixels) == (frames, [codes[clip.video]] * FRAMES)
        for field in ("support_labels", "query_labels", "support_classes", "query_classes"):
            assert batch[field][place].tolist() == getattr(episode, field).tolist()


def test_workers_prefetching_and_batch_size_change_nothing(open_dataset):
    expected = collect(stream(open_dataset(), workers=1, prefetch=0, batch_size=1))
    for changes in ({"workers": 4, "prefetch": 3}, {"workers": 0, "batch_size": 3}):
        assert_same(collect(stream(open_dataset(), **changes)), expected)


def test_a_slow_episode_does_not_lose_its_turn(open_dataset, monkeypatch):
    calls = itertools.count()

    def slow_at_first(*arguments, **limits):
        if next(calls) == 0:
            time.sleep(0.5)
        return decode_clip(*arguments, **limits)

    monkeypatch.setattr(dataset_module, "decode_clip", slow_at_first)
    indices = collect(stream(open_dataset(), batch_size=1, workers=3))["index"]
    assert indices.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_stream_that_starts_later_gives_the_same_episodes(open_dataset):
    whole = collect(stream(open_dataset(), stop=7))
    later = collect(stream(open_dataset(), start=4, stop=7))
    assert_same(later, {field: values[4:] for field, values in whole.items()})
    assert whole["index"].tolist() == [0, 1, 2, 3, 4, 5, 6]  # a shorter last batch


def test_an_endless_stream_goes_on(open_dataset):
    dataset = open_dataset()
    with closing(stream(dataset, start=10**6, stop=None)) as batches:
        indices = [next(batches)["index"].tolist() for _ in range(3)]
    assert indices == [[10**6 + i, 10**6 + i + 1] for i in (0, 2, 4)]


def test_hosts_get_contiguous_shares_of_every_batch(open_dataset):
    dataset = open_dataset()
    whole = list(stream(dataset, start=2, stop=10, batch_size=4))
    shares = [
        list(stream(dataset, start=2, stop=10, batch_size=4, process_index=p, process_count=2))
        for p in range(2)
    ]
    assert [len(share) for share in shares] == [2, 2]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert first["index"].tolist() == batch["index"][:2].tolist()
        assert_same(batch, {f: np.concatenate([first[f], second[f]]) for f in EPISODE_FIELDS})


def test_bad_videos_are_left_out_of_their_classes_whatever_the_workers(
    open_dataset, spoiled_videos, read_codes
):
    datasets = [open_dataset(spoiled_videos, on_bad_video="skip") for _ in range(2)]
    one, four = (
        collect(stream(dataset, stop=24, workers=workers))
        for dataset, workers in zip(datasets, (1, 4), strict=True)
    )
    assert_same(one, four)
    for dataset in datasets:
        assert dataset.bad_count == 4
        assert {Path(path).stem for path in dataset.bad_videos()} == SPOILED
    codes = video_codes(datasets[0])
    code_class = {code: place[0] for place, code in codes.items()}
    shown = set()
    for role in ("support", "query"):
        clips = one[role].reshape(-1, FRAMES, SIDE, SIDE, 3)
        classes = one[f"{role}_classes"].ravel()
        for clip, class_position in zip(clips, classes, strict=True):
            code = read_codes(clip)[1][0]
            assert code_class[code] == class_position
            shown.add(code)
    bad = {codes[place] for place in ((0, 1), (0, 4), (2, 0), (3, 3))}
    assert shown == set(codes.values()) - bad


def test_bad_videos_are_left_out_alike_after_a_restart(open_dataset, spoiled_videos):
    whole = collect(stream(open_dataset(spoiled_videos, on_bad_video="skip"), stop=12))
    for start in (5, 10):
        fresh = open_dataset(spoiled_videos, on_bad_video="skip")
        later = collect(stream(fresh, start=start, stop=12, batch_size=1))
        assert_same(later, {field: values[start:] for field, values in whole.items()})


def test_episodes_without_a_bad_video_are_those_of_the_whole_data(open_dataset, spoiled_videos):
    dataset = open_dataset(spoiled_videos, on_bad_video="skip")
    sampler = make_sampler(dataset)
    spoiled, whole = (collect(stream(d, stop=12)) for d in (dataset, open_dataset()))
    untouched = [
        not any(dataset.is_bad(*clip.video) for clip in (*episode.support, *episode.query))
        for episode in (sampler.resolve(sampler(index)) for index in range(12))
    ]
    assert 0 < sum(untouched) < 12
    for index in np.flatnonzero(untouched):
        np.testing.assert_array_equal(spoiled["query"][index], whole["query"][index])
    np.testing.assert_array_equal(spoiled["query_labels"], whole["query_labels"])


@pytest.fixture
def one_spoiled(video_tree, tmp_path):
    """All videos, of which 11_2 is empty."""
    for path in (video_tree / "videos").iterdir():
        os.link(path, tmp_path / path.name)
    (tmp_path / "11_2.mp4").unlink()
    (tmp_path / "11_2.mp4").touch()
    return tmp_path


@pytest.mark.parametrize("workers", [1, 4])
def test_by_default_the_first_bad_video_ends_the_stream_as_itself(
    open_dataset, one_spoiled, workers
):
    dataset = open_dataset(one_spoiled)
    sampler = make_sampler(dataset, seed=0)
    episodes = [sampler.resolve(sampler(index)) for index in range(40)]
    first = next(e.index for e in episodes if (2, 2) in {c.video for c in (*e.support, *e.query)})
    assert first > 0
    batches = stream(dataset, sampler, stop=40, batch_size=1, workers=workers)
    for index in range(first):
        assert next(batches)["index"].tolist() == [index]
    with pytest.raises(BadVideoError) as error:
        next(batches)
    assert error.value.path == str(one_spoiled / "11_2.mp4")
    assert str(error.value) == f"bad video {error.value.path}: the file is empty (0 bytes)"


def test_a_class_left_with_too_few_videos_ends_the_stream_and_later_ones(open_dataset, one_spoiled):
    dataset = open_dataset(one_spoiled, on_bad_video="skip")
    sampler = make_sampler(dataset, n_query=4)  # class 11 has 5 videos
    message = (
        r"class 11 of split train has 4 usable videos \(5 listed, 1 left out as bad\); "
        r"1-shot with 4 queries needs 5"
    )
    with pytest.raises(MoloError, match=message):
        collect(stream(dataset, sampler, stop=40))
    with pytest.raises(MoloError, match=message):
        stream(dataset, sampler)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"workers": -1}, "workers is -1; expected at least 0"),
        ({"prefetch": -2}, "prefetch is -2; expected at least 0"),
        ({"resize": 0}, "resize is 0; expected at least 1"),
        ({"batch_size": 3, "process_count": 2}, "batch of 3 episodes cannot be shared by 2"),
        ({"stop": 7, "process_count": 2}, "7 episodes are no whole number of batches of 2"),
    ],
)
def test_arguments_out_of_range_are_refused_at_the_call(open_dataset, changes, message):
    with pytest.raises(UsageError, match=message):
        stream(open_dataset(), **changes)


def test_closing_early_is_quick_and_leaves_no_threads(open_dataset):
    dataset = open_dataset()

    def use_and_close():
        unused = stream(dataset, stop=None, workers=3)
        used = stream(dataset, stop=None, workers=3, prefetch=2)
        next(used)
        start = time.perf_counter()
        used.close()
        unused.close()
        assert next(used, None) is None
        return time.perf_counter() - start

    use_and_close()
    before, python_before = len(os.listdir("/proc/self/task")), threading.active_count()
    assert max(use_and_close() for _ in range(5)) < 5
    deadline = time.monotonic() + 5  # threads of the pool end a moment after the iterator
    while len(os.listdir("/proc/self/task")) > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(os.listdir("/proc/self/task")) <= before
    assert threading.active_count() == python_before


PROGRAM = """
from molo_jax.data.clips.dataset import VideoDataset
from molo_jax.data.clips.episodes import EpisodeSampler
from molo_jax.data.pipeline import episode_batches
root = {root!r}
data = VideoDataset.open(
    {videos!r}, root + "/splits", "train", on_bad_video="fail", how_to_get=""
)
sampler = EpisodeSampler.from_split(
    data.split, seed=0, n_way=4, n_shot=1, n_query=3, num_frames=5
)
batches = episode_batches(
    data, sampler, start=0, stop=None, batch_size=1, workers=3, prefetch=4, resize=96,
    sampling="segments",
)
while True:
    print(next(batches)["index"].tolist())
    {then}
"""


def run_program(video_tree, videos: Path, then: str) -> subprocess.CompletedProcess:
    code = PROGRAM.format(root=str(video_tree), videos=str(videos), then=then)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_a_program_that_ends_with_an_open_stream_ends_cleanly(video_tree):
    result = run_program(video_tree, video_tree / "videos", "break")
    assert (result.returncode, result.stdout, result.stderr) == (0, "[0]\n", "")


def test_a_program_that_dies_of_a_bad_video_ends(video_tree, one_spoiled):
    result = run_program(video_tree, one_spoiled, "pass")
    assert result.returncode == 1
    last_line = result.stderr.strip().splitlines()[-1]
    path = one_spoiled / "11_2.mp4"
    assert last_line.endswith(f"BadVideoError: bad video {path}: the file is empty (0 bytes)")


def test_memory_stays_bounded_over_many_episodes(open_dataset):
    dataset = open_dataset()
    sampler = make_sampler(dataset)
    with closing(stream(dataset, sampler, stop=None, batch_size=1, resize=64)) as batches:
        for _ in range(25):
            next(batches)
        before = resident_megabytes()
        for _ in range(75):  # 600 videos, 37 MB of clips
            next(batches)
        assert resident_megabytes() - before < 10


def resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def clips_of(dataset, requests, **changes):
    arguments = {
        "batch_size": 4,
        "workers": 3,
        "prefetch": 1,
        "resize": SIDE,
        "sampling": "segments",
    }
    return list(clip_batches(dataset, requests, **{**arguments, **changes}))


def test_clips_come_in_the_order_of_the_requests_in_full_batches(open_dataset, read_codes):
    dataset = open_dataset()
    sampler, codes = make_sampler(dataset, frame_draw="video"), video_codes(dataset)
    videos = [(3, 1), (0, 0), (2, 4), (1, 2), (0, 6), (3, 1)]
    requests = [sampler.clip(*video) for video in videos]
    batches = clips_of(dataset, requests)
    assert [batch.positions.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, -1, -1]]
    assert [batch.ok.tolist() for batch in batches] == [[True] * 4, [True, True, False, False]]
    clips = np.concatenate([batch.clips for batch in batches])
    assert (clips.shape, clips.dtype) == ((8, FRAMES, SIDE, SIDE, 3), np.uint8)
    for clip, video, request in zip(clips, videos, requests, strict=False):
        frames = segment_frames(LENGTH, request.draws).tolist()
        assert read_codes(clip) == (frames, [codes[video]] * FRAMES)
    assert not clips[6:].any()


def test_hosts_get_contiguous_shares_of_every_batch_of_clips(open_dataset):
    dataset = open_dataset()
    sampler = make_sampler(dataset, frame_draw="video")
    requests = [sampler.clip(0, video) for video in range(5)]
    (whole, rest) = clips_of(dataset, requests)
    shares = [clips_of(dataset, requests, process_index=p, process_count=2) for p in range(2)]
    positions = [[batch.positions.tolist() for batch in share] for share in shares]
    assert positions == [[[0, 1], [4, -1]], [[2, 3], [-1, -1]]]
    assert [batch.ok.tolist() for batch in shares[1]] == [[True, True], [False, False]]
    for batch, parts in zip((whole, rest), zip(*shares, strict=True), strict=True):
        np.testing.assert_array_equal(batch.clips, np.concatenate([part.clips for part in parts]))


def test_a_batch_of_clips_that_hosts_cannot_share_is_refused(open_dataset):
    dataset = open_dataset()
    requests = [make_sampler(dataset, frame_draw="video").clip(0, 0)]
    with pytest.raises(UsageError, match="a batch of 4 clips cannot be shared by 3 processes"):
        clips_of(dataset, requests, process_count=3)


def test_static_clips_repeat_their_middle_frame(open_dataset, read_codes):
    dataset = open_dataset()
    requests = [
        make_sampler(dataset, frame_draw="video").clip(*video) for video in ((0, 0), (2, 4))
    ]
    (moving,), (still,) = (
        clips_of(dataset, requests, static=static, batch_size=2) for static in (False, True)
    )
    for moving_clip, still_clip in zip(moving.clips, still.clips, strict=True):
        frames, codes = read_codes(moving_clip)
        assert read_codes(still_clip) == ([frames[FRAMES // 2]] * FRAMES, codes)


def test_no_clips_make_no_batches(open_dataset):
    assert clips_of(open_dataset(), []) == []


def test_a_bad_clip_is_marked_where_bad_videos_are_left_out(open_dataset, spoiled_videos):
    dataset = open_dataset(spoiled_videos, on_bad_video="skip")
    sampler = make_sampler(dataset, frame_draw="video")
    requests = [sampler.clip(*video) for video in ((0, 0), (0, 1), (2, 0), (2, 1))]
    (batch,) = clips_of(dataset, requests)
    assert batch.positions.tolist() == [0, 1, 2, 3]
    assert batch.ok.tolist() == [True, False, False, True]
    assert batch.clips.any(axis=(1, 2, 3, 4)).tolist() == [True, False, False, True]
    assert dataset.is_bad(0, 1)


def test_a_bad_clip_ends_the_stream_by_default(open_dataset, one_spoiled):
    dataset = open_dataset(one_spoiled)
    sampler = make_sampler(dataset, frame_draw="video")
    with pytest.raises(BadVideoError, match=r"11_2\.mp4: the file is empty"):
        clips_of(dataset, [sampler.clip(2, 1), sampler.clip(2, 2)])
    with pytest.raises(UsageError, match="batch_size is 0"):
        clips_of(dataset, [sampler.clip(2, 1)], batch_size=0)
