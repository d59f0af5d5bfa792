"""Official checkpoints through the command, into the JAX network, and back into PyTorch."""

import functools
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from molo_jax import evaluate
from molo_jax.convert import convert
from molo_jax.engine.mesh import make_mesh
from molo_jax.methods.episode import Episode
from molo_jax.methods.settings import MoLoSettings
from molo_jax.weights import torch_files, torch_map
from molo_jax.weights.networks import abstract_network, fixed_buffers
from molo_torch_ref import MoLo, load_official
from parity_tests.golden import recipe
from parity_tests.tolerances import GOLDEN

FOLDER = pathlib.Path(__file__).parent / "golden"
# As the official cfg text begins; nothing reads it.
FIXED = "pe.pe"
CFG = "DATA:\n  NUM_INPUT_FRAMES: 8\n"
LOGITS = GOLDEN["eval", "resnet18"].outputs


@functools.cache
def recorded():
    """Returns the settings, values and running statistics of the recorded evaluation."""
    with np.load(FOLDER / "r18_eval.npz") as file:
        values = {key: file[key] for key in file.files}
    stats = {k.removeprefix("stats/"): v for k, v in values.items() if k.startswith("stats/")}
    return json.loads(str(values["meta"])), values, stats


@functools.cache
def reference_state(backbone, num_classes):
    """Returns names, shapes and dtypes of the PyTorch network's state_dict, in its order."""
    with torch.device("meta"):
        state = MoLo(num_classes=num_classes, backbone=backbone).state_dict()
    return {name: (tuple(t.shape), str(t.dtype)) for name, t in state.items()}


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """An official checkpoint with the weights of the recorded evaluation."""
    meta, _, stats = recorded()
    state = MoLo(num_classes=meta["num_class"], backbone=meta["backbone"]).state_dict()
    for name, tensor in state.items():
        if name in stats:
            tensor.copy_(torch.from_numpy(np.asarray(stats[name])))
        elif name.endswith("num_batches_tracked"):
            tensor.fill_(1234)
        elif name != FIXED:
            tensor.copy_(torch.from_numpy(recipe.weight(name, tuple(tensor.shape))))
    path = tmp_path_factory.mktemp("official") / "checkpoint_epoch_00010.pyth"
    content = {
        "epoch": 10,
        "model_state": {f"head.{name}": tensor for name, tensor in state.items()},
        "optimizer_state": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 1e-4}]},
        "cfg": CFG,
    }
    torch.save(content, path)
    return path, state


@pytest.fixture(scope="module")
def converted(official, tmp_path_factory):
    """The folder that the command makes of it."""
    folder = tmp_path_factory.mktemp("converted") / "molo"
    command = [sys.executable, "-m", "molo_jax.convert", str(official[0]), str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "backbone  resnet18\nclasses   64\n" in result.stdout
    return folder


def test_an_official_checkpoint_gives_the_recorded_logits(official, converted, tmp_path):
    meta, values, _ = recorded()
    raw = recipe.episode(meta["seed"], meta["way"], meta["shot"], meta["query"], meta["num_class"])
    support, query = (jnp.asarray(np.moveaxis(raw[key], 2, -1)) for key in ("support", "query"))

    @functools.partial(jax.jit, static_argnums=0)
    def run(graphdef, params, batch_stats):
        model = nnx.merge(graphdef, params, batch_stats)
        names = ("support_labels", "query_labels", "support_real", "query_real")
        episode = Episode(support, query, *(jnp.asarray(raw[name]) for name in names))
        output = model.forward(episode, n_way=meta["way"], train=False, reconstruct=False)
        return output.scores.match, output.class_logits

    found = []
    for source in (converted, official[0]):
        network = evaluate.load_network(
            str(source), tmp_path, MoLoSettings(0, meta["backbone"]), make_mesh()
        )
        found.append(run(network.graphdef, network.params, network.batch_stats))
    np.testing.assert_allclose(found[0][0], values["out/logits"], rtol=LOGITS)
    scale = np.abs(values["out/class_logits"]).max()
    np.testing.assert_allclose(found[0][1], values["out/class_logits"], atol=LOGITS * scale)
    for through_folder, directly in zip(*found, strict=True):
        np.testing.assert_array_equal(through_folder, directly)


@pytest.mark.parametrize(
    ("name", "layout"), [("x.pyth", None), ("x.pth", "bare"), ("x.safetensors", None)]
)
def test_the_way_back_is_bit_exact_and_loads_strictly(official, converted, tmp_path, name, layout):
    path = tmp_path / name
    convert(converted, path, layout=layout)
    model = MoLo(num_classes=64, backbone="resnet18")
    load_official(model, path)
    loaded = model.state_dict()
    assert list(loaded) == list(official[1])
    for key, tensor in official[1].items():
        assert loaded[key].dtype == tensor.dtype
        assert loaded[key].numpy().tobytes() == tensor.numpy().tobytes(), key
    if name.endswith("yth"):
        content = torch.load(path, weights_only=True)
        before = torch.load(official[0], weights_only=True)
        assert list(content) == list(before)
        assert list(content["model_state"]) == list(before["model_state"])
        assert (content["epoch"], content["cfg"]) == (10, CFG)
    path.unlink()


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50"])
def test_an_export_has_every_tensor_of_the_pytorch_network_and_no_other(backbone):
    variables = {}
    for state in abstract_network(MoLoSettings(num_classes=31, backbone=backbone))[1:]:
        for path, leaf in nnx.to_flat_state(state):
            variables[path] = np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
    fixed = fixed_buffers(MoLoSettings(num_classes=31, backbone=backbone))
    exported = torch_map.export_tensors(variables, fixed)
    ours = {n: (value.shape, f"torch.{value.dtype}") for n, value in exported.items()}
    assert list(ours.items()) == list(reference_state(backbone, 31).items())
    assert torch_map.recognize(exported) == ("molo", backbone, 31)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_the_positional_encoding_is_that_of_pytorch_bit_for_bit(backbone):
    # On the CPU, where the buffer gets its values.
    encoding = MoLo(num_classes=1, backbone=backbone).pe.pe.numpy()
    ours = fixed_buffers(MoLoSettings(1, backbone))[FIXED]
    assert (ours.dtype, ours.shape) == (encoding.dtype, encoding.shape)
    np.testing.assert_array_equal(ours, encoding)


def test_the_reference_reads_every_layout_that_is_written(tmp_path):
    state = MoLo(num_classes=3, backbone="resnet18").state_dict()
    tensors = {name: tensor.numpy() for name, tensor in state.items()}
    for name, layout in (("a.pth", "official"), ("b.pth", "bare"), ("c.safetensors", "bare")):
        torch_files.write(tmp_path / name, tensors, layout=layout)
        model = MoLo(num_classes=3, backbone="resnet18")
        load_official(model, tmp_path / name)
        for key, tensor in model.state_dict().items():
            assert torch.equal(tensor, state[key])
        (tmp_path / name).unlink()
