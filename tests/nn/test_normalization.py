"""The written-out gradient of batch normalization, against differentiating its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from molo_jax.nn.normalization import normalize_sets
from molo_jax.nn.ops import traced_for

SETS = (2, 3)
SHAPE = (sum(SETS), 4, 3, 6)


@pytest.fixture(autouse=True, params=["cpu", "cuda"])
def platform(request):
    """The formulation for a CPU, and that for a GPU, which a CPU computes as well."""
    with traced_for(request.param):
        yield request.param


def plain(x, scale, bias):
    """The same by its formula; JAX differentiates it."""
    parts = []
    for part in (x[: SETS[0]], x[SETS[0] :]):
        mean = part.mean(axis=(0, 1, 2))
        var = jnp.square(part - mean).mean(axis=(0, 1, 2))
        parts.append((part - mean) / jnp.sqrt(var + 1e-5) * scale + bias)
    return jnp.concatenate(parts)


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    x = 3 + rng.standard_normal(SHAPE) * np.arange(1, 7)
    return (*map(jnp.asarray, (x, rng.standard_normal(6), rng.standard_normal(6))),)


def test_values_and_all_gradients_are_those_of_the_formula_in_float64():
    with jax.enable_x64(True):
        arguments, weights = inputs(), jnp.asarray(np.random.default_rng(1).standard_normal(SHAPE))

        def gradients(normalize):
            return jax.grad(lambda *a: jnp.sum(jnp.sin(normalize(*a)) * weights), argnums=(0, 1, 2))

        y, means, variances = normalize_sets(*arguments, SETS)
        np.testing.assert_allclose(y, plain(*arguments), rtol=1e-12, atol=1e-12)
        x = np.asarray(arguments[0])
        np.testing.assert_allclose(means[1], x[2:].mean((0, 1, 2)), rtol=1e-12)
        np.testing.assert_allclose(variances[0], x[:2].var((0, 1, 2)), rtol=1e-12)
        ours = gradients(lambda *a: normalize_sets(*a, SETS)[0])(*arguments)
        for one, other in zip(ours, gradients(plain)(*arguments), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


def test_the_gradient_is_right_for_many_episodes_at_once():
    with jax.enable_x64(True):
        episodes = [inputs(seed)[0] for seed in range(3)]
        _, scale, bias = inputs()
        loss = lambda x: jnp.sum(jnp.cos(normalize_sets(x, scale, bias, SETS)[0]))  # noqa: E731
        together = jax.vmap(jax.grad(loss))(jnp.stack(episodes))
        alone = [jax.grad(loss)(x) for x in episodes]
        np.testing.assert_allclose(together, jnp.stack(alone), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_it_keeps_its_input_and_numbers_of_each_channel(kind):
    x = jax.ShapeDtypeStruct(SHAPE, kind)
    channel = jax.ShapeDtypeStruct(SHAPE[-1:], "float32")
    kept = jax.eval_shape(
        lambda *a: jax.vjp(lambda *b: normalize_sets(*b, SETS)[0], *a)[1], x, channel, channel
    )
    leaves = [(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(kept)]
    assert [leaf for leaf in leaves if len(leaf[0]) == 4] == [(SHAPE, kind)]
    assert all(leaf in (((6,), "float32"), ((2, 6), "float32")) for leaf in leaves[1:])


def test_bfloat16_maps_are_summed_and_normalized_in_float32_and_rounded_once():
    rng = np.random.default_rng(2)
    x = jnp.asarray(100 + rng.standard_normal((4, 16, 16, 2)), jnp.bfloat16)
    y, means, _ = normalize_sets(x, jnp.ones(2), jnp.zeros(2), (4,))
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(means[0], exact.mean((0, 1, 2)), rtol=1e-6)
    expected = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-5)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=2**-8, atol=1e-5)
