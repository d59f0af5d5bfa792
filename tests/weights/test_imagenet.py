"""The files of a run are looked for at its start, and what is missing is said with its remedies."""

import dataclasses
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from molo_jax.backbones import BACKBONES
from molo_jax.config import base_config
from molo_jax.errors import MoloError
from molo_jax.weights import imagenet

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(monkeypatch, tmp_path):
    """A configuration that asks for ImageNet weights, which the internet does not have."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(imagenet, "_IMAGENET_URL", "http://127.0.0.1:9/")
    digest = hashlib.sha256(b"weights").hexdigest()
    info = dataclasses.replace(BACKBONES["resnet18"], weights_file="x.pth", weights_digest=digest)
    monkeypatch.setitem(BACKBONES, "resnet18", info)
    config = base_config()
    config.model.backbone, config.model.pretrained = "resnet18", "imagenet"
    return config


def check_sources(config, workdir, *, trains):
    imagenet.check_sources(
        workdir,
        trains=trains,
        init_from=config.init_from,
        pretrained=config.model.pretrained,
        backbone=config.model.backbone,
    )


def test_imagenet_weights_that_cannot_be_had_stop_a_training_with_three_ways_out(config, tmp_path):
    digest, place = hashlib.sha256(b"weights").hexdigest(), tmp_path / "cache/molo_jax/x.pth"
    with pytest.raises(MoloError) as error:
        check_sources(config, tmp_path, trains=True)
    assert re.sub(r" \(\[.*refused\)", "", str(error.value)) == (
        "http://127.0.0.1:9/x.pth cannot be downloaded; get it elsewhere and put it at"
        f" {place} (its SHA-256 is {digest}), or give its place with"
        " --config.model.pretrained=PATH, or begin with random weights:"
        " --config.model.pretrained="
    )
    # Each of the three is enough.
    config.model.pretrained = ""
    check_sources(config, tmp_path, trains=True)
    (tmp_path / "mine.pth").write_bytes(b"weights")
    config.model.pretrained = str(tmp_path / "mine.pth")
    check_sources(config, tmp_path, trains=True)
    place.write_bytes(b"weights")
    config.model.pretrained = "imagenet"
    check_sources(config, tmp_path, trains=True)


def test_a_run_that_needs_no_imagenet_weights_asks_for_none(config, tmp_path):
    check_sources(config, tmp_path, trains=False)
    (tmp_path / "checkpoints/12").mkdir(parents=True)
    check_sources(config, tmp_path, trains=True)
    (tmp_path / "run").mkdir()
    config.init_from = str(tmp_path / "run")
    check_sources(config, tmp_path / "other", trains=True)


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("source", ["none.pth", "none"])
def test_an_absent_init_from_is_named(config, tmp_path, trains, source):
    config.init_from = str(tmp_path / source)
    with pytest.raises(MoloError, match=rf"{tmp_path}/{source} does not exist$"):
        check_sources(config, tmp_path, trains=trains)


def test_an_absent_file_and_a_pipe_as_pretrained_are_named(config, tmp_path):
    config.model.pretrained = str(tmp_path / "x.pth")
    with pytest.raises(MoloError, match=r"x\.pth does not exist$"):
        check_sources(config, tmp_path, trains=True)
    os.mkfifo(tmp_path / "x.pth")
    with pytest.raises(MoloError, match=r"x\.pth is a named pipe \(FIFO\), not a PyTorch file$"):
        check_sources(config, tmp_path, trains=True)


# A failed command ends its process at once: nothing behind `cli.run` would be executed.
PROGRAM = """
import sys
from molo_jax import cli, main
from molo_jax.weights import imagenet
imagenet._IMAGENET_URL = "http://127.0.0.1:9/"
end_process = cli.end_process


def say_and_end(code):
    print(sorted({"jax", "tensorflow"} & sys.modules.keys()))
    end_process(code)


cli.end_process = say_and_end
cli.run(main.main)
"""


def test_the_command_says_it_before_it_imports_and_opens_anything(tmp_path):
    flags = [f"--config={ROOT}/configs/folder.py", f"--workdir={tmp_path}/run"]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "no_proxy": "*"}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *flags],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert result.returncode == 1
    assert result.stdout == "[]\n"
    log, error = result.stderr.splitlines()
    assert "downloading http://127.0.0.1:9/resnet50-0676ba61.pth" in log
    assert error.startswith("error: http://127.0.0.1:9/resnet50-0676ba61.pth cannot be downloaded")
