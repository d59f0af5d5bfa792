"""The formulations for a CPU against XLA's convolution and its gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from molo_jax.nn import convolution

# Maps, side, channels, features, kernel, stride, padding.
CASES = {
    "one map at a time": (3, 29, 2, 3, 3, 1, 1),
    "several maps at a time": (6, 14, 2, 20, 3, 1, 1),
    "stem": (2, 21, 3, 8, 7, 2, 3),
    "stride 2": (4, 13, 2, 3, 3, 2, 1),
    "small maps": (4, 4, 2, 3, 3, 1, 1),
    "one matrix": (4, 2, 2, 3, 3, 1, 1),
    "1x1, fewer channels": (3, 5, 2, 7, 1, 1, 0),
    "1x1, fewer features": (3, 5, 7, 2, 1, 2, 0),
}


def operands(case, *leading):
    n, side, channels, features, size, stride, padding = CASES[case]
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((*leading, n, side, side, channels)))
    kernel = jnp.asarray(rng.standard_normal((size, size, channels, features)))
    static = {"stride": stride, "padding": padding, "precision": "highest"}
    rows, columns = convolution.out_size((side, side), (size, size), stride, padding)
    of_y = jnp.asarray(rng.standard_normal((*leading, n, rows, columns, features)))
    return (x, kernel, of_y), static


def library(static):
    """XLA's gradients."""
    convolve = functools.partial(convolution.by_xla, **static)
    return lambda x, kernel, of_y: jax.vjp(convolve, x, kernel)[1](of_y)


@pytest.mark.parametrize("case", CASES)
def test_the_gradients_on_a_cpu_are_those_of_xla(case):
    with jax.enable_x64(True):
        given, static = operands(case)
        ours = convolution.gradient_on_cpu(*given, **static)
        for one, other in zip(ours, library(static)(*given), strict=True):
            assert one.dtype == other.dtype == jnp.float64
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("case", ["several maps at a time", "1x1, fewer features"])
@pytest.mark.parametrize("shared", [False, True])
def test_every_episode_has_its_own_gradient(case, shared):
    with jax.enable_x64(True):
        (x, kernel, of_y), static = operands(case, 3)
        x, axis = (x[0], None) if shared else (x, 0)
        gradient = functools.partial(convolution.gradient_on_cpu, **static)
        ours, theirs = (
            jax.vmap(each, in_axes=(axis, None, 0))(x, kernel, of_y)
            for each in (gradient, library(static))
        )
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("case", ["one map at a time", "1x1, fewer channels"])
def test_sums_of_bfloat16_are_float32_and_rounded_once(case):
    with jax.enable_x64(True):
        given, static = operands(case)
        given = [each.astype(jnp.bfloat16) for each in given]
        _, of_kernel = convolution.gradient_on_cpu(*given, **static)
        _, exact = library(static)(*(each.astype(jnp.float64) for each in given))
        assert of_kernel.dtype == jnp.bfloat16
        np.testing.assert_allclose(of_kernel.astype(jnp.float64), exact, rtol=2**-8, atol=1e-3)


def test_patches_of_a_wide_kernel_are_multiplied_as_a_matrix():
    shapes = (32, 7, 7, 2048), (3, 3, 2048, 768)
    assert convolution.fast_on_cpu(*shapes, 1, 1) is convolution._patches
    narrow = (32, 7, 7, 512), (3, 3, 512, 512)
    assert convolution.fast_on_cpu(*narrow, 1, 1) is convolution.by_xla
