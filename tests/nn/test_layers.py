"""Layers against hand-worked values."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from molo_jax.nn import layers


def _batch_norm(x, set_sizes, train=True):
    norm = layers.BatchNorm(x.shape[-1])
    return norm, norm(jnp.asarray(x, jnp.float32), set_sizes=set_sizes, train=train)


def test_batch_norm_normalizes_each_set_with_its_own_biased_statistics():
    x = np.array([1.0, 3.0, 10.0, 20.0, 30.0]).reshape(5, 1, 1, 1)
    _, y = _batch_norm(x, (2, 3))
    deviation = np.sqrt(200 / 3 + 1e-5)
    expected = [-1 / np.sqrt(1 + 1e-5), 1 / np.sqrt(1 + 1e-5), -10 / deviation, 0, 10 / deviation]
    np.testing.assert_allclose(np.ravel(y), expected, atol=1e-6)


def test_batch_norm_tracks_sets_in_order_with_the_unbiased_variance():
    x = np.array([1.0, 3.0, 10.0, 20.0, 30.0]).reshape(5, 1, 1, 1)
    norm, _ = _batch_norm(x, (2, 3))
    np.testing.assert_allclose(norm.mean[...], [0.9 * (0.1 * 2) + 0.1 * 20], rtol=1e-6)
    np.testing.assert_allclose(norm.var[...], [0.9 * (0.9 + 0.1 * 2) + 0.1 * 100], rtol=1e-6)
    assert int(norm.num_batches_tracked[...]) == 2


def test_batch_norm_in_evaluation_uses_and_keeps_the_running_statistics():
    norm = layers.BatchNorm(1)
    norm.mean[...], norm.var[...] = jnp.asarray([2.0]), jnp.asarray([4.0])
    norm.scale[...], norm.bias[...] = jnp.asarray([3.0]), jnp.asarray([1.0])
    y = norm(jnp.full((1, 1, 2, 1), 6.0), set_sizes=(1,), train=False)
    np.testing.assert_allclose(np.ravel(y), 3 * 4 / np.sqrt(4 + 1e-5) + 1, rtol=1e-6)
    assert int(norm.num_batches_tracked[...]) == 0


def test_batch_norm_keeps_precision_far_from_zero():
    x = 1000.0 + np.array([-1.0, 1.0] * 8).reshape(16, 1, 1, 1)
    norm, y = _batch_norm(x, (16,))
    np.testing.assert_allclose(np.ravel(y), [-1, 1] * 8, atol=1e-4)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * 16 / 15, rtol=1e-4)


def test_temporal_conv_equals_the_direct_sum_over_time_and_space():
    conv = layers.TemporalConv3d(3, 2, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).standard_normal((2, 5, 4, 3, 3)).astype(np.float32)
    kernel = np.asarray(conv.kernel[...], np.float64)
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))
    expected = np.zeros((2, 5, 4, 3, 2))
    for t in range(5):
        for i in range(4):
            for j in range(3):
                window = padded[:, t : t + 3, i : i + 3, j : j + 3]
                expected[:, t, i, j] = np.einsum("vthwc,thwcf->vf", window, kernel)
    np.testing.assert_allclose(conv(jnp.asarray(x)), expected + conv.bias[...], atol=1e-5)


def test_default_initialization_is_uniform_within_the_torch_bound():
    conv = layers.Conv2d(50, 40, 3, use_bias=True, rngs=nnx.Rngs(1))
    bound = 1 / np.sqrt(9 * 50)
    kernel = np.asarray(conv.kernel[...])
    assert np.abs(kernel).max() <= bound
    np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.02)
    assert np.abs(conv.bias[...]).max() <= bound


def test_residual_kernels_have_the_fan_out_deviation():
    conv = layers.Conv2d(50, 40, 3, kernel_init=layers.he_fan_out, rngs=nnx.Rngs(1))
    np.testing.assert_allclose(np.std(conv.kernel[...]), np.sqrt(2 / (9 * 40)), rtol=0.02)


def test_layer_norm_uses_the_torch_epsilon():
    norm = layers.layer_norm(2, rngs=nnx.Rngs(0))
    small = 1e-3
    y = norm(jnp.asarray([[small, -small]]))
    np.testing.assert_allclose(y[0, 0], small / np.sqrt(small**2 + 1e-5), rtol=1e-5)
