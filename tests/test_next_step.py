"""What comes after a preparation: a command that runs, and the weights that it needs."""

from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

from molo_jax import prepare  # noqa: F401  (defines the flags)
from molo_jax.next_step import next_step
from molo_jax.weights.imagenet import imagenet_place

ROOT = Path(__file__).parents[1]
ALL = ("train", "val", "test")


@pytest.fixture
def say(monkeypatch, tmp_path):
    """The lines after a preparation with some flags, of a folder if no other data set is named."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["prepare"])
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def lines(splits=ALL, losses=False, **values):
        with flagsaver.flagsaver(**({"dataset": "folder", "out": "a b"} | values)):
            return next_step(splits, losses).splitlines()

    return lines


COMMAND = "next      python -m molo_jax.main --config=configs/folder.py"


def test_the_command_has_what_is_not_as_in_the_configuration(say):
    prepared = "--config.data.prepared='a b'"
    assert say()[0] == f"{COMMAND} {prepared}"
    assert say(n_way=3, losses=True)[0] == (
        f"{COMMAND} {prepared} --config.train.n_way=3 --config.eval.n_way=3"
        " --config.data.on_bad_video=skip"
    )
    # The crop of the configuration, 224, would be larger than these frames.
    assert say(resize=100)[0].endswith("--config.data.resize=100 --config.data.crop=96")
    assert say(resize=240)[0].endswith("--config.data.resize=240")


def test_the_command_does_what_there_are_splits_for(say):
    assert say(("train",))[0] == (
        f"{COMMAND} --mode=train --config.data.prepared='a b' --config.train.eval_every=0"
    )
    lines = say(("test",))
    assert lines == [
        f"{COMMAND} --mode=eval --config.data.prepared='a b' --config.init_from=TRAINED",
        "TRAINED   the work folder or the weights of a trained network",
    ]


@pytest.mark.parametrize(("dataset", "config"), [("folder", "folder"), ("ssv2", "ssv2_5shot")])
def test_three_ways_are_named_where_the_weights_are_not_in_the_cache(say, dataset, config):
    address, path = imagenet_place("resnet50")
    lines = say(dataset=dataset)
    assert f"--config=configs/{config}.py" in lines[0]
    assert lines[1:5] == [
        "weights   the training starts from ImageNet weights, which it will download; without"
        " internet, one of these:",
        f"  put {address} at {path}",
        "  --config.model.pretrained=PATH   such a file elsewhere",
        "  --config.model.pretrained=       random weights",
    ]


def test_nothing_is_said_of_weights_that_are_there_or_not_used(say):
    path = imagenet_place("resnet50")[1]
    assert len(say()) == 5
    path.parent.mkdir(parents=True)
    path.touch()
    assert len(say()) == 1
    path.unlink()
    assert len(say(dataset="synthetic")) == 1
