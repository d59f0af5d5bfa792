"""The motion branch's parts."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from molo_jax.nn import motion, ops


def test_motion_differences_subtract_the_reduced_map_from_the_next_convolved_one():
    reduced = jnp.asarray([1.0, 2.0, 4.0]).reshape(1, 3, 1, 1, 1)
    convolved = jnp.asarray([10.0, 20.0, 40.0]).reshape(1, 3, 1, 1, 1)
    differences = motion.motion_differences(reduced, convolved)
    np.testing.assert_array_equal(np.ravel(differences), [20 - 1, 40 - 2])


def test_up_block_upsamples_convolves_normalizes_and_rectifies():
    block = motion.UpBlock(3, 2, 4, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 2, 3, 3)), jnp.float32)
    y = ops.conv2d(ops.upsample(x, 4), block.conv.kernel[...], padding=1)
    mean, var = jnp.mean(y, (0, 1, 2)), jnp.var(y, (0, 1, 2))
    expected = jax.nn.relu((y - mean) / jnp.sqrt(var + 1e-5))
    np.testing.assert_allclose(block(x, train=True), expected, atol=1e-5)


def test_over_frames_treats_every_frame_alone():
    x = jnp.arange(12.0).reshape(2, 3, 1, 1, 2)
    y = motion.over_frames(lambda maps: maps[..., :1] * 10, x)
    np.testing.assert_array_equal(np.ravel(y), [0, 20, 40, 60, 80, 100])
