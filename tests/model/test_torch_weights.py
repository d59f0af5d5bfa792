"""The map between our variables and official tensors."""

import json
import pathlib

import numpy as np
import pytest
from flax import nnx

from molo_jax.model import MoLo, MoLoConfig, torch_weights

GOLDEN = pathlib.Path(__file__).parents[2] / "parity_tests" / "golden"


def _shapes(backbone="resnet18"):
    config = MoLoConfig(num_classes=64, backbone=backbone)
    model = nnx.eval_shape(lambda: MoLo(config, rngs=nnx.Rngs(0)))
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    return {path: tuple(value.shape) for path, value in nnx.to_flat_state(state)}


def _tensors(shapes):
    tensors = {}
    for number, (path, shape) in enumerate(shapes.items()):
        value = number + np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        tensors[torch_weights.official_name(path)] = torch_weights.to_official(path, value)
    return tensors


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_every_variable_has_its_own_official_name(backbone):
    shapes = _shapes(backbone)
    assert len({torch_weights.official_name(path) for path in shapes}) == len(shapes)


def test_names_and_decay_are_those_of_the_recorded_run():
    with np.load(GOLDEN / "r18_steps.npz") as recorded:
        names = {k.removeprefix("param/") for k in recorded.files if k.startswith("param/")}
        buffers = {k.removeprefix("stat/") for k in recorded.files if k.startswith("stat/")}
        no_decay = set(json.loads(str(recorded["meta"]))["no_decay"])
    paths = {torch_weights.official_name(path): path for path in _shapes()}
    ours = {name for name in paths if not name.endswith("num_batches_tracked")}
    assert ours == names | buffers
    assert {name for name in names if not torch_weights.decays(paths[name])} == no_decay


def test_layouts_are_transposed_to_output_first():
    kernel = np.arange(24.0).reshape(1, 2, 3, 4)
    official = torch_weights.to_official(("motion_up", "kernel"), kernel)
    assert official.shape == (4, 3, 1, 2)
    assert official[3, 1, 0, 1] == kernel[0, 1, 1, 3]
    np.testing.assert_array_equal(
        torch_weights.from_official(("motion_up", "kernel"), official), kernel
    )


def test_import_inverts_export_bit_for_bit():
    shapes = _shapes()
    tensors = _tensors(shapes)
    imported = torch_weights.import_tensors(tensors | {"pe.pe": np.zeros((1, 20, 512))}, shapes)
    exported = torch_weights.export_tensors(imported)
    assert exported.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(exported[name], value)


def test_import_names_missing_unexpected_and_misshapen_tensors():
    shapes = _shapes()
    tensors = _tensors(shapes)
    del tensors["scale"]
    tensors["outc.conv.weight"] = np.zeros((3, 15, 1, 1))
    tensors["fc.weight"] = np.zeros(2)
    with pytest.raises(
        ValueError, match=r"missing scale; unexpected fc\.weight; outc\.conv\.weight"
    ) as e:
        torch_weights.import_tensors(tensors, shapes)
    assert "(3, 15, 1, 1), expected (3, 16, 1, 1)" in str(e.value)
