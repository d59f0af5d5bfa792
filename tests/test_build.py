import dataclasses
import json
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from molo_jax import build
from molo_jax.config import base_config
from molo_jax.data.lists import official
from molo_jax.data.store.prepared import PreparedDataset
from molo_jax.data.store.records import (
    Listed,
    Manifest,
    Outcome,
    Settings,
    manifest_path,
    prepared_folder,
)
from molo_jax.engine import mesh
from molo_jax.errors import MoloError, UsageError
from molo_jax.methods.settings import MoLoSettings, TRXSettings, own_fields
from molo_jax.methods.trx import TRX


def test_the_methods_settings_take_every_field_from_their_section():
    config = base_config()
    config.model.backbone = "resnet34"
    values = {
        "matching": "otam",
        "smoothing": 0.25,
        "streams": "motion",
        "positional_a": 7.0,
        "positional_b": 0.5,
        "motion_weight": 0.2,
        "single_direction": True,
        "dropout_position": 0.01,
        "dropout_attention": 0.02,
        "dropout_feedforward": 0.03,
        "classification": 0.5,
        "contrast": 0.25,
        "reconstruction": 0.125,
    }
    assert values.keys() == own_fields(MoLoSettings).keys()
    config.method.update(values)
    expected = MoLoSettings(num_classes=31, backbone="resnet34", **values)
    assert build.method_settings(config, 31) == expected


def test_trx_takes_its_number_of_frames_from_the_data():
    config = base_config("trx")
    assert "frames" not in config.method
    config.data.num_frames = 5
    settings = build.method_settings(config, 31)
    assert settings == TRXSettings(31, "resnet50", frames=5)
    # 5 frames have 10 pairs and 10 triples.
    assert len(TRX.fixed_buffers(settings)) == 2 + 10 + 10


def test_the_optimizer_takes_its_rate_its_decay_and_its_moments_from_the_configuration():
    config = base_config()
    config.optimizer.update(schedule="cosine", base_lr=0.5, warmup_steps=0)
    config.optimizer.update(weight_decay=0.25, b1=0.5, b2=0.75, eps=2.0)
    config.train.steps = 10
    # By its official name the second is a batch normalization, which does not decay.
    params = nnx.State({"conv1": {"kernel": nnx.Param(jnp.full((1, 1), 4.0))}})
    params["layer1"] = nnx.State({"bn1": {"scale": nnx.Param(jnp.full((1,), 4.0))}})

    def first_update(name):
        config.optimizer.name = name
        optimizer = build.optimizer(config)
        grads = jax.tree.map(lambda x: jnp.full_like(x, 3.0), params)
        updates = optimizer.update(grads, optimizer.init(params), params)[0]
        return float(updates["conv1"]["kernel"][...][0, 0]), float(
            updates["layer1"]["bn1"]["scale"][...][0]
        )

    np.testing.assert_allclose(first_update("sgd"), [-0.5 * (3 + 1), -0.5 * 3], rtol=1e-6)
    # The first step of Adam is gradient / (|gradient| + eps), whatever the decay rates are.
    np.testing.assert_allclose(first_update("adam"), [-0.5 * 4 / 6, -0.5 * 3 / 5], rtol=1e-6)


def test_the_official_schedule_counts_accumulation_iterations_a_step():
    config = base_config()
    config.optimizer.accumulation = 2
    config.optimizer.update(base_lr=0.8, warmup_start_lr=0.4, steps_iter=10)
    # Step 2 ends with iteration 5, halfway from 0.4 to 0.8.
    assert build.schedule(config)(jnp.int32(2)) == np.float32(0.6)


def test_the_cosine_schedule_ends_with_the_training():
    config = base_config()
    config.optimizer.update(schedule="cosine", base_lr=0.8, warmup_steps=4)
    config.train.steps = 10
    rates = jax.vmap(build.schedule(config))(jnp.array([1, 7, 10]))
    np.testing.assert_allclose(rates, [0.4, 0.4, 0], atol=1e-7)


def devices_of_hosts(*counts):
    """Devices as they may be listed: with the hosts' numbers mixed."""
    made = [
        types.SimpleNamespace(process_index=host, id=100 * host + number)
        for host, count in enumerate(counts)
        for number in range(count)
    ]
    return made[::-1]


@pytest.fixture
def train_devices(monkeypatch):
    """Returns the devices of a training as `(host, number)`, by what there is and what is set."""

    def used(counts, episodes, microbatch):
        monkeypatch.setattr(build, "all_devices", lambda: devices_of_hosts(*counts))
        monkeypatch.setattr(build, "make_mesh", list)
        config = base_config()
        config.train.episodes_per_step, config.train.microbatch = episodes, microbatch
        return [(each.process_index, each.id % 100) for each in build.train_mesh(config)]

    return used


@pytest.mark.parametrize(
    ("episodes", "microbatch", "available", "used"),
    [(16, 2, 8, 8), (16, 4, 8, 4), (6, 1, 4, 3), (1, 1, 8, 1), (12, 1, 8, 6)],
)
def test_as_many_devices_are_used_as_share_the_episodes_evenly(
    train_devices, episodes, microbatch, available, used
):
    assert train_devices([available], episodes, microbatch) == [(0, n) for n in range(used)]


@pytest.mark.parametrize(
    ("episodes", "microbatch", "available", "of_each"),
    [
        (16, 2, (4, 4), 4),
        (12, 1, (8, 8), 6),
        # The first 6 of 12 devices would leave a host without any.
        (6, 1, (4, 4, 4), 2),
        (4, 1, (2, 2, 2, 2), 1),
    ],
)
def test_every_host_has_the_same_number_of_devices_in_training(
    train_devices, caplog, episodes, microbatch, available, of_each
):
    expected = [(host, n) for host in range(len(available)) for n in range(of_each)]
    assert train_devices(available, episodes, microbatch) == expected
    some_unused = len(expected) < sum(available)
    assert (f"uses {len(expected)} of {sum(available)} devices" in caplog.text) == some_unused


def test_episodes_that_cannot_be_spread_over_the_hosts_are_refused(train_devices):
    message = (
        "train.episodes_per_step=6 cannot be spread over 4 processes, each of which computes a"
        " multiple of train.microbatch=1; make train.episodes_per_step a multiple of 4, or start"
        " fewer processes"
    )
    with pytest.raises(UsageError, match=message):
        train_devices((2, 2, 2, 2), 6, 1)
    with pytest.raises(UsageError, match="a multiple of 8, or start fewer"):
        train_devices((1, 1), 4, 4)


def test_processes_with_different_numbers_of_devices_do_not_train(train_devices):
    message = "process 1 has 8 devices and process 0 has 4; a training needs the same number"
    with pytest.raises(UsageError, match=message):
        train_devices((4, 8), 12, 1)


def test_an_evaluation_uses_the_same_number_of_devices_of_every_host(monkeypatch):
    monkeypatch.setattr(mesh, "all_devices", lambda: devices_of_hosts(3, 2))
    monkeypatch.setattr(build, "make_mesh", list)
    found = [(each.process_index, each.id % 100) for each in build.evaluation_mesh()]
    assert found == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_window_is_in_the_middle_outside_training_and_its_clips_are_the_same_everywhere(
    motion_data,
):
    config = base_config()
    config.data.source = "videos"
    config.data.root, config.data.split_dir = (
        str(motion_data / "videos"),
        str(motion_data / "splits"),
    )
    dataset = build.open_split(config, "test")
    assert build.eval_sampling(config) == "segments"
    assert build.eval_sampler(config, dataset, n_way=3, n_shot=2).frame_draw == "episode"
    config.data.sampling = "window"
    assert build.eval_sampling(config) == "window_middle"
    assert build.eval_sampler(config, dataset, n_way=3, n_shot=2).frame_draw == "video"


def test_empty_split_dir_means_the_official_lists_which_are_fetched(motion_data, monkeypatch):
    config = base_config()
    config.dataset.name = "hmdb51"
    config.data.source = "videos"
    config.data.root, config.data.split_dir = str(motion_data / "videos"), ""
    fetched = []

    def fetch_lists(name):
        fetched.append(name)
        return motion_data / "splits"

    monkeypatch.setattr(official, "fetch_lists", fetch_lists)
    dataset = build.open_split(config, "val")
    assert dataset.split.path == str(motion_data / "splits/val_few_shot.txt")
    assert fetched == ["hmdb51"]


def test_other_lists_of_a_benchmark_are_named_in_a_warning(motion_data, caplog):
    config = base_config()
    config.data.source = "videos"
    config.data.root, config.data.split_dir = (
        str(motion_data / "videos"),
        str(motion_data / "splits"),
    )
    build.open_split(config, "test")
    assert "official" not in caplog.text
    config.dataset.name = "ucf101"
    build.open_split(config, "test")
    assert "test_few_shot.txt is not the official list (12 videos of 3 classes" in caplog.text


def test_without_videos_no_list_is_fetched_and_without_official_lists_one_must_be_named():
    config = base_config()
    config.data.source = "videos"
    config.dataset.name, config.data.root, config.data.split_dir = "ssv2", "/nowhere", ""
    with pytest.raises(MoloError, match="the video folder /nowhere does not exist"):
        build.open_split(config, "test")
    config.dataset.name = "folder"
    with pytest.raises(UsageError, match="there are no official lists of 'folder'; name the"):
        build.open_split(config, "test")


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize(
    ("line", "shared"),
    [
        ("test77//train_motion5/2.mp4", "video 'train_motion5/2.mp4'"),
        ("test77//other/train_motion5/9.mp4", "class 'train_motion5'"),
    ],
)
def test_videos_are_not_opened_by_lists_that_share_a_class_or_a_video(
    motion_data, tmp_path, caplog, split, line, shared
):
    shutil.copytree(motion_data / "splits", tmp_path / "splits")
    with (tmp_path / "splits/test_few_shot.txt").open("a") as file:
        file.write(f"{line}\n")
    config = base_config()
    config.data.source, config.data.on_bad_video = "videos", "skip"
    config.data.root, config.data.split_dir = str(motion_data / "videos"), str(tmp_path / "splits")
    message = (
        rf"test_few_shot.txt and .*train_few_shot.txt share the {shared}.*classes=warn goes on"
    )
    with pytest.raises(MoloError, match=message):
        build.open_split(config, split)
    config.eval.on_trained_classes = "warn"
    assert len(build.open_split(config, split).split.classes) == 3 + (split == "test")
    assert f"share the {shared}" in caplog.text


def test_prepared_videos_are_not_opened_if_two_of_their_splits_share_a_class(monkeypatch, tmp_path):
    """The test split is of another division than the train split, which was not prepared anew."""
    folder = prepared_folder(tmp_path, "folder")
    folder.mkdir(parents=True)
    names = {"train": ("wave", "jump"), "test": ("run", "jump")}
    for split, classes in names.items():
        records = folder / f"few_shot_videos-{split}.array_record-00000-of-00001"
        records.write_bytes(b"")
        listed = tuple(
            Listed(f"{name}/{split}{number}", class_id, name)
            for class_id, name in enumerate(classes)
            for number in range(2)
        )
        outcomes = (Outcome(3),) * len(listed)
        Manifest(Settings.of("folder"), split, listed, outcomes, 0).write(manifest_path(records))
    lists = PreparedDataset.lists(tmp_path, "folder")
    assert {split: listed.class_names for split, listed in lists.items()} == names
    monkeypatch.setattr(PreparedDataset, "open", lambda *_, **__: Opened())
    config = base_config()
    config.data.prepared = str(tmp_path)
    message = f"the test split of {folder} and the train split of {folder} share the class 'jump';"
    with pytest.raises(MoloError, match=message):
        build.open_split(config, "train")
    config.eval.on_trained_classes = "warn"
    assert isinstance(build.open_split(config, "train"), Opened)


class Opened:
    """Stands in for prepared videos."""

    def check_use(self, **_):
        pass


def test_a_split_with_too_few_videos_for_the_shots_is_refused_before_training(motion_data):
    config = base_config()
    config.data.source = "videos"
    config.data.root, config.data.split_dir = (
        str(motion_data / "videos"),
        str(motion_data / "splits"),
    )
    dataset = build.open_split(config, "test")
    with pytest.raises(MoloError, match=r"class 3 .*4 .*4-shot with 1 query needs 5"):
        build.eval_sampler(config, dataset, n_way=3, n_shot=4)


def test_augmentation_takes_crop_and_strengths_from_the_configuration(monkeypatch):
    used = []

    def train_views(key, support, query, crop, strengths, normalization):
        used.append((crop, strengths, normalization))
        return support + 1, query + 2

    monkeypatch.setattr(build, "train_views", train_views)
    config = base_config()
    config.data.crop = 64
    strengths = {"flip": 0.1, "brightness": 0.2, "contrast": 0.3, "saturation": 0.4}
    strengths |= {"hue": 0.45, "gray": 0.6}
    config.augment.update(strengths)
    names = ("support", "query", "support_labels", "query_labels")
    arrays = {name: jnp.full(3, place) for place, name in enumerate(names)}
    arrays |= {"support_classes": jnp.full(3, 4), "query_classes": jnp.full(3, 5)}
    episode = build.train_preprocess(config)(arrays, jax.random.key(0))
    assert used == [(64, build.AugmentConfig(**strengths), (0.45, 0.225))]
    fields = dataclasses.asdict(episode)
    assert {name: int(value[0]) for name, value in fields.items()} == {
        "support": 1,
        "query": 3,
        "support_labels": 2,
        "query_labels": 3,
        "support_classes": 4,
        "query_classes": 5,
    }


def test_an_episodes_key_depends_on_the_seed_and_on_its_index_alone():
    config = base_config()
    config.seed = 5
    data = [jax.random.key_data(build.train_key(config)(index)) for index in (3, 3, 4)]
    np.testing.assert_array_equal(data[0], data[1])
    assert (data[0] != data[2]).any()
    config.seed = 6
    assert (jax.random.key_data(build.train_key(config)(3)) != data[0]).any()


def small(motion_data):
    config = base_config()
    config.model.backbone, config.data.source = "resnet18", "videos"
    config.data.root, config.data.split_dir = f"{motion_data}/videos", f"{motion_data}/splits"
    config.train.n_way, config.train.n_query, config.eval.n_way = 3, 2, 3
    config.train.episodes_per_step = 2
    return config


@pytest.fixture(scope="module")
def usual(motion_data):
    return build.training(small(motion_data)).validation


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 3),
        ("train.n_way", 2),
        ("train.n_shot", 2),
        ("train.val_episodes", 7),
        ("eval.n_query", 2),
        ("eval.frame_draw", "video"),
        ("eval.precision", "bf16"),
        ("data.num_frames", 3),
        ("data.sampling", "window"),
        ("data.resize", 288),
        ("data.crop", 192),
        ("data.on_bad_video", "skip"),
        ("val list", "one class less"),
        ("train.steps", 7),
        ("train.precision", "bf16"),
        ("eval.n_way", 2),
    ],
)
def test_a_validation_is_another_one_by_what_its_accuracy_depends_on_and_nothing_else(
    usual, motion_data, tmp_path, key, value
):
    config = small(motion_data)
    if key == "val list":
        shutil.copytree(motion_data / "splits", tmp_path / "splits")
        path = tmp_path / "splits/val_few_shot.txt"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
        config.data.split_dir = str(tmp_path / "splits")
    else:
        config.update_from_flattened_dict({key: value})
    now = build.training(config).validation
    changed = {name for name in now if now[name] != usual[name]}
    no_matter = ("train.steps", "train.precision", "eval.n_way")
    assert changed == (set() if key in no_matter else {key})
    assert json.loads(json.dumps(now)) == now


def test_without_validation_the_val_split_is_not_opened(motion_data, tmp_path):
    shutil.copytree(motion_data / "splits", tmp_path / "splits")
    (tmp_path / "splits/val_few_shot.txt").unlink()
    config = small(motion_data)
    config.data.split_dir = str(tmp_path / "splits")
    with pytest.raises(MoloError, match=r"val_few_shot\.txt"):
        build.training(config)
    config.train.eval_every = 0
    parts = build.training(config)
    assert (parts.scored, parts.validated, parts.validation) == (None, None, {})


def test_the_parts_of_an_evaluation_have_the_values_of_their_keys(motion_data):
    config = small(motion_data)
    config.eval.update(n_way=2, n_query=3, episodes=11, shots=(1,), controls=("static",))
    config.eval.update(clip_batch=5, episode_batch=6, cache_mib=7, precision="bf16")
    config.data.update(num_frames=4, resize=64, crop=32, workers=3, prefetch=4)
    config.seed, config.init_from = 9, "x.pth"
    made = build.evaluation(config)
    data = made.data
    assert (made.n_query, made.episodes, list(data.samplers)) == (3, 11, [(2, 1)])
    assert (data.clip_batch, data.episode_batch, data.cache_mib) == (5, 6, 7)
    assert data.precision.name == "bf16"
    reading = {"sampling": "segments", "resize": 64, "workers": 3, "prefetch": 4}
    assert (data.num_frames, data.reading) == (4, reading)
    assert (made.seed, made.init_from, made.controls) == (9, "x.pth", ("static",))
    assert made.clips == {"num_frames": 4, "sampling": "segments", "resize": 64, "crop": 32}
    assert made.config == config.to_dict()
    assert data.preprocess(np.zeros((1, 4, 64, 64, 3), np.uint8)).shape == (1, 4, 32, 32, 3)
