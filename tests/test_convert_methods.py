"""Every method from a PyTorch file to a checkpoint and back."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from made_weights import official_tensors, variables

from molo_jax.backbones import BACKBONES, BackboneInfo
from molo_jax.convert import convert
from molo_jax.engine.checkpoint import Checkpoints
from molo_jax.errors import MoloError
from molo_jax.methods.settings import METHODS, ProtoNetSettings
from molo_jax.weights import torch_files
from molo_jax.weights.networks import abstract_network, filled, fixed_buffers, load_weights
from molo_jax.weights.torch_map import export_tensors

TESTS = Path(__file__).parent
# Memory that all conversions together may need.
MOST_BYTES = 3 * 10**9
# Tensors of the official files: those of ResNet-18 are 120.
TENSORS = {
    "molo": 171,
    "protonet": 120,
    "bi_mhm": 120,
    "otam": 120,
    # Two encodings and 28 pairs and 56 triples of 8 frames beside 16 weights.
    "trx": 120 + 16 + 2 + 28 + 56,
    "hyrsm": 120 + 16 + 1,
    "hyrsm_pp": 120 + 16 + 1,
}

# Runs the command again and again in one process, whose peak memory comes out.
PROGRAM = """
import shutil, sys
from pathlib import Path

from made_weights import official_tensors
from own_memory import peak_bytes

from molo_jax import cli, convert
from molo_jax.methods.settings import METHODS
from molo_jax.weights import torch_files

source, checkpoint, back = (Path(sys.argv[1]) / name for name in ("a.pth", "checkpoint", "b.pth"))

def run(*arguments):
    convert.main(cli.parse_flags(["convert", *map(str, arguments)], ("SRC", "DST")))

for method in METHODS:
    tensors = {f"head.{name}": value for name, value in official_tensors(method=method).items()}
    torch_files.write(source, official_tensors(method=method))
    run(source, checkpoint, f"--method={method}")
    run(checkpoint, back)
    found = torch_files.read(back).tensors
    assert list(found) == list(tensors), method
    for name, value in tensors.items():
        same = (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        assert same and found[name].tobytes() == value.tobytes(), (method, name)
    print("compared", method, len(found))
    for path in (source, back):
        path.unlink()
    shutil.rmtree(checkpoint)
print("peak", peak_bytes())
"""


def test_the_command_brings_every_method_there_and_back_bit_for_bit_in_little_memory(tmp_path):
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, cwd=TESTS.parent
    )
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    compared = {row[1]: int(row[2]) for row in rows if row[:1] == ["compared"]}
    assert compared == TENSORS
    assert compared.keys() == METHODS.keys()
    titles = [" ".join(row[1:]) for row in rows if row[:1] == ["method"]]
    assert titles == [known.title for known in METHODS.values() for _ in ("there", "back")]
    (peak,) = (int(row[1]) for row in rows if row[:1] == ["peak"])
    assert 10**8 < peak < MOST_BYTES


def test_an_official_file_of_trx_tells_its_number_of_frames(tmp_path):
    for frames in (3, 5, 8, 12):
        settings = METHODS["trx"](num_classes=1, backbone="resnet18", frames=frames)
        tensors = export_tensors(variables(method="trx"), fixed_buffers(settings))
        torch_files.write(tmp_path / f"{frames}.safetensors", tensors)
        assert load_weights(tmp_path / f"{frames}.safetensors").settings == settings
    # Not even the pairs of one number of frames.
    del tensors["transformers.0.tuples.65"]
    torch_files.write(tmp_path / "x.safetensors", tensors)
    with pytest.raises(MoloError, match=r"transformers\.0\.pe\.pe has shape \(1, 18, 512\)"):
        load_weights(tmp_path / "x.safetensors")
    shutil.rmtree(tmp_path)


def test_a_file_of_one_stream_tells_which(tmp_path):
    for stream in ("appearance", "motion"):
        settings = METHODS["molo"](num_classes=2, backbone="resnet18", streams=stream)
        values = {}
        for state in abstract_network(settings)[1:]:
            for path, leaf in nnx.to_flat_state(state):
                values[path] = np.zeros(leaf.shape, leaf.dtype)
        tensors = export_tensors(values, fixed_buffers(settings))
        torch_files.write(tmp_path / f"{stream}.safetensors", tensors)
        assert load_weights(tmp_path / f"{stream}.safetensors").settings == settings
    # A file that lacks one parameter of a stream is damaged, and no other ablation.
    for name in ("scale_motion", "class_token_motion"):
        fewer = {key: value for key, value in official_tensors().items() if key != name}
        torch_files.write(tmp_path / "x.safetensors", fewer)
        with pytest.raises(MoloError, match=f"missing in the file: {name}$"):
            load_weights(tmp_path / "x.safetensors")
    shutil.rmtree(tmp_path)


class Linear(nnx.Module):
    """A backbone of one's own."""

    def __init__(self, info, *, rngs):
        self.linear = nnx.Linear(3, info.width, rngs=rngs)


def test_a_network_on_a_backbone_without_official_names_is_not_exported(tmp_path, monkeypatch):
    info = BackboneInfo("own", Linear, width=8, stride=2, output="features")
    monkeypatch.setitem(BACKBONES, "own", info)
    settings = ProtoNetSettings(num_classes=2, backbone="own")
    _, params, statistics = abstract_network(settings)
    values = {path: np.zeros(leaf.shape, np.float32) for path, leaf in nnx.to_flat_state(params)}
    model = {"params": jax.device_get(filled(params, values)), "batch_stats": statistics}
    meta = {"architecture": settings.to_json(), "config": {}}
    with Checkpoints(tmp_path / "own") as checkpoints:
        checkpoints.save(3, meta=meta, model=model)
    message = (
        r"own/3 cannot become a PyTorch file: the official code has no backbone own, so its tensors"
        r" have no names there; it has resnet18, resnet34, resnet50$"
    )
    for name in ("x.pth", "x.safetensors"):
        with pytest.raises(MoloError, match=message):
            convert(tmp_path / "own", tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
