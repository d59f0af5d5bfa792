"""A benchmark is one record and its line in a table.

One is made here, outside the package, and goes through everything: its videos are prepared, its
configuration trains a network and evaluates it, and its checkpoint is converted.
"""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

from molo_jax import build, evaluate, prepare, train
from molo_jax.benchmarks import BENCHMARKS, benchmark, dataset_names
from molo_jax.benchmarks.record import Benchmark, ListSize, OfficialList, PublishedTraining
from molo_jax.config_checks import validate
from molo_jax.convert import convert
from molo_jax.data.store.records import Settings
from molo_jax.engine.metrics import read_metrics
from molo_jax.errors import UsageError
from molo_jax.methods.settings import METHODS, BiMHMSettings
from molo_jax.presets import config_file, preset_config
from molo_jax.weights.networks import load_weights

ROOT = Path(__file__).parents[2]
SPLITS = ("train", "val", "test")


def test_every_benchmark_has_its_name_three_lists_and_checksums_of_their_own():
    assert list(BENCHMARKS) == ["ssv2", "ssv2_small", "kinetics100", "ucf101", "hmdb51"]
    digests = set()
    for name, known in BENCHMARKS.items():
        assert known.name == name
        assert tuple(known.lists) == SPLITS
        digests |= {official.sha256 for official in known.lists.values()}
    assert len(digests) == 15
    assert all(len(digest) == 64 and int(digest, 16) for digest in digests)
    assert BENCHMARKS["ssv2"].lists["train"].size == ListSize(67013, 64, 156)
    classes = sum(known.lists["train"].size.classes for known in BENCHMARKS.values())
    assert classes == 64 * 3 + 70 + 31


def test_a_message_says_where_the_videos_are_and_how_the_lists_name_them():
    text = BENCHMARKS["hmdb51"].how_to_get
    assert "videos of HMDB51 from https://" in text
    assert text.endswith("videos/brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi.")


def test_the_benchmark_with_windows_keeps_the_frames_that_windows_show():
    kept = {name: Settings.of(name, num_frames=8).keep for name in dataset_names()}
    assert kept == dict.fromkeys(dataset_names(), "all") | {"kinetics100": "window"}


@pytest.fixture
def toy(monkeypatch, motion_data):
    """The record of three lists of three classes of four videos each."""
    lists = {}
    for split in SPLITS:
        content = (motion_data / f"splits/{split}_few_shot.txt").read_bytes()
        lists[split] = OfficialList(ListSize(12, 3, 4), hashlib.sha256(content).hexdigest())
    record = Benchmark(
        name="toy",
        title="Toy Motions",
        list_folder="toy",
        videos="https://example.org/toy",
        layout="train_motion3/0.mp4",
        root="data/toy/videos",
        lists=lists,
        seed=5,
        trainings={
            "molo": PublishedTraining(
                base_lr=2e-4,
                warmup_start_lr=1e-4,
                steps_iter=7,
                boundaries=(0, 2),
                factors=(1.0, 0.5),
                iterations=4,
                settings={"classification": 0.3},
            )
        },
    )
    # This line is what makes it known.
    monkeypatch.setitem(BENCHMARKS, record.name, record)
    return record


def small(config, out):
    """The configuration for small videos and a network that is quick to compile."""
    validate(config)
    config.data.prepared = str(out)
    config.data.num_frames, config.data.resize, config.data.crop, config.data.workers = 2, 32, 32, 1
    config.model.backbone, config.model.pretrained = "resnet18", ""
    config.train.n_way = config.eval.n_way = 3
    config.train.n_query = config.train.episodes_per_step = 1
    config.train.eval_every = 0
    config.eval.episodes = 4
    return config


def test_an_added_benchmark_is_prepared_trained_evaluated_and_converted(
    toy, motion_data, tmp_path, capsys, caplog
):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["prepare"])
    wanted = {"dataset": "toy", "videos": f"{motion_data}/videos", "out": str(tmp_path / "out")}
    wanted |= {"splits_dir": f"{motion_data}/splits", "resize": 32, "workers": 1, "num_frames": 2}
    wanted |= {"n_way": 3, "n_shot": 1, "train_n_query": 1}
    with flagsaver.flagsaver(**wanted):
        prepare.main(["prepare"])
    said = capsys.readouterr().out
    assert "every class has enough videos for the episodes asked" in said
    assert "python -m molo_jax.main --config=configs/toy_5shot.py" in said
    # The lists are the official ones.
    assert "results with it cannot be compared" not in caplog.text
    described = json.loads(
        (tmp_path / "out/few_shot_videos/toy/1.0.0/dataset_info.json").read_text()
    )
    assert described["description"] == "Toy Motions, the few-shot splits of the MoLo code."
    assert described["location"] == {"urls": ["https://example.org/toy"]}

    config = small(preset_config("toy", shots=1), tmp_path / "out")
    assert (config.seed, config.data.root, config.train.steps) == (5, "data/toy/videos", 1)
    assert (config.optimizer.base_lr, config.method.classification) == (2e-4, 0.3)
    train.train(build.training(config), tmp_path / "run")
    (line,) = read_metrics(tmp_path / "run")
    assert (line["step"], line["kind"]) == (1, "train")
    (result,) = evaluate.evaluate(
        build.evaluation(config), tmp_path / "run", trained_here=True
    ).values()
    record = json.loads((tmp_path / "run/eval_test_3way_1shot.json").read_text())
    assert record["dataset"] == "toy"
    assert record["accuracy"] == result.accuracy
    assert load_weights(tmp_path / "run").meta["trained_on"][-1]["dataset"] == "toy"

    said = convert(tmp_path / "run", tmp_path / "toy.pth")
    assert "\ntrained   1 steps on toy\n" in said
    convert(tmp_path / "toy.pth", tmp_path / "back")
    assert load_weights(tmp_path / "back").step == 1


class OwnSettings(BiMHMSettings):
    """A method that is one more line in the table."""

    method = "own"


def test_a_method_without_published_settings_on_a_benchmark_is_refused(toy, monkeypatch):
    monkeypatch.setitem(METHODS, "own", OwnSettings)
    with pytest.raises(UsageError, match="no published settings of the method 'hyrsm' on a bench"):
        preset_config("toy", "hyrsm", shots=1)
    # A method of its own is trained as HyRSM, by one line in the table of methods.
    with pytest.raises(UsageError, match="no published settings of the method 'own' on a bench"):
        preset_config("toy", "own", shots=1)
    config, like = (preset_config("ssv2", name, shots=5) for name in ("own", "hyrsm"))
    assert config.optimizer == like.optimizer
    assert (config.train.n_shot, config.train.n_query, config.train.steps) == (5, 3, 10_000)
    assert dataset_names() == (*list(BENCHMARKS)[:5], "toy", "synthetic", "folder")
    with pytest.raises(UsageError, match="'toys' is no benchmark; choose one of ssv2, ssv2_small"):
        benchmark("toys")


def test_its_official_lists_are_taken_from_the_cache(toy, motion_data, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shutil.copytree(motion_data / "splits", tmp_path / "molo_jax/splits/toy")
    config = preset_config("toy", shots=5)
    config.data.source, config.data.root = "videos", f"{motion_data}/videos"
    assert build.open_split(config, "test").split.classes == (3, 5, 8)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_has_a_configuration_for_one_shot_and_one_for_five(name):
    for shots in (1, 5):
        path = ROOT / config_file(name, shots=shots)
        assert f'return preset_config("{name}", method, shots={shots})' in path.read_text()
    assert (ROOT / config_file("folder")).is_file()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_trained_on_every_benchmark(method):
    for name in BENCHMARKS:
        for shots in (1, 5):
            config = preset_config(name, method, shots=shots)
            validate(config)
            assert (config.method.name, config.dataset.name) == (method, name)
            assert config.train.n_shot == (1 if method == "molo" else shots)
