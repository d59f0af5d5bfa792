"""The backbone's structure: parameter counts and shapes as torchvision's, values of one block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from molo_jax.backbones import BACKBONES, resnet

# Parameters of torchvision's networks less their classifiers (fc: 513000, 513000, 2049000).
PARAMETERS = {"resnet18": 11176512, "resnet34": 21284672, "resnet50": 23508032}


@pytest.mark.parametrize("name", BACKBONES)
def test_parameter_count_is_that_of_torchvision_without_classifier(name):
    model = nnx.eval_shape(lambda: BACKBONES[name].build(nnx.Rngs(0)))
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(int(np.prod(leaf.shape)) for leaf in leaves) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "width"), [("resnet18", 512), ("resnet34", 512), ("resnet50", 2048)]
)
def test_maps_shrink_by_four_and_then_by_two_at_each_later_stage(name, width):
    model = nnx.eval_shape(lambda: BACKBONES[name].build(nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    frames = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)
    run = lambda s, x: nnx.merge(graphdef, s)(x, set_sizes=(2,), train=False)  # noqa: E731
    maps = jax.eval_shape(run, state, frames)
    sizes = {key: value.shape[1:3] for key, value in maps.items()}
    assert sizes == {
        "pool": (16, 24),
        "layer1": (16, 24),
        "layer2": (8, 12),
        "layer3": (4, 6),
        "layer4": (2, 3),
    }
    assert maps["layer4"].shape[-1] == width == BACKBONES[name].width


def test_the_stride_of_a_bottleneck_sits_on_its_3x3_convolution():
    block = nnx.eval_shape(lambda: resnet.Bottleneck(8, 4, 2, rngs=nnx.Rngs(0)))
    assert (block.conv1.stride, block.conv2.stride, block.conv3.stride) == (1, 2, 1)


def test_a_basic_block_with_zero_residual_is_the_rectified_shortcut():
    @jax.jit
    def run(x):
        block = resnet.BasicBlock(6, 6, 1, rngs=nnx.Rngs(0))
        block.bn2.scale[...] = jnp.zeros(6)
        return block(x, set_sizes=(2,), train=False)

    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 5, 6)), jnp.float32)
    np.testing.assert_array_equal(run(x), np.maximum(x, 0))
