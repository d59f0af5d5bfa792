"""Functions written as plain operations compute what they computed before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from molo_jax.nn import matching, ops
from molo_jax.prediction.plain import plain


def _normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def _operations(function, *arguments):
    return {e.primitive.name for e in jax.make_jaxpr(function)(*arguments).eqns}


def _symbolic(shape):
    return jax.ShapeDtypeStruct(export.symbolic_shape(shape), jnp.float32)


def _alignment(x):
    return matching.otam(x, smoothing=0.1)


def _running(x):
    return lax.cumlogsumexp(x, axis=1, reverse=True), lax.cumlogsumexp(x, axis=0)


def _loop(x):
    def body(carry, row):
        return carry * 0.5 + row, (row[1:], carry)

    return lax.scan(body, jnp.ones(x.shape[1]), x, reverse=True)


def _custom(x):
    return ops.relu(x), jnp.logaddexp(x, 2 * x), jax.jit(lambda y: y * 2)(x)


@pytest.mark.parametrize(
    ("function", "shape", "gone"),
    [
        (_alignment, (3, 2, 5, 4), {"scan", "cumlogsumexp", "custom_jvp_call", "jit"}),
        (_running, (4, 6), {"cumlogsumexp"}),
        (_loop, (5, 3), {"scan"}),
        (_custom, (4, 6), {"custom_vjp_call", "custom_jvp_call", "jit"}),
    ],
)
def test_calls_and_loops_are_written_out_with_the_same_values(function, shape, gone):
    x = jnp.asarray(_normal(1, *shape))
    written = plain(function, x)
    assert gone & _operations(function, x)
    assert not _operations(written, x) & gone
    for mine, theirs in zip(written(x), jax.tree.leaves(function(x)), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_allclose(mine, theirs, atol=1e-6, rtol=1e-6)


def test_running_sums_of_exponentials_stay_within_the_range_of_float32():
    x = np.float32([[-2000, 3000, 2999, -1e30], [90, 90, -90, 100]])
    (found,) = plain(lambda v: lax.cumlogsumexp(v, axis=1), x)(x)
    np.testing.assert_allclose(found, np.logaddexp.accumulate(x.astype(float), 1), rtol=1e-6)


def test_what_depends_on_weights_alone_is_computed_and_what_nobody_needs_is_left_out():
    weights = jnp.asarray(_normal(2, 6))

    def function(x):
        unused = jnp.sin(x)
        del unused
        return x * jnp.exp(weights * 2)

    x = _symbolic("n, 6")
    assert _operations(plain(function, x), x) <= {"broadcast_in_dim", "mul"}
    assert "exp" in _operations(function, x)


def test_sizes_of_inputs_stay_free():
    x = _symbolic("n, 6")
    written = plain(lambda x: jnp.mean(x, axis=0) + jnp.arange(x.shape[0])[:, None], x)
    assert "dim_as_value" in _operations(written, x)
    exported = export.export(jax.jit(written))(x)
    for count in (1, 4):
        value = _normal(3, count, 6)
        expected = value.mean(axis=0) + np.arange(count)[:, None]
        np.testing.assert_allclose(exported.call(value)[0], expected, atol=1e-6)


def test_a_block_of_a_known_place_is_a_slice_and_not_gathered():
    x = _symbolic("n, 4, 6")

    def blocks(x):
        return x[:, 1:, 2], x[..., :-1], x[:, -1], x[:, ::2]

    written = plain(blocks, x)
    assert "gather" in _operations(blocks, x)
    exported = export.export(jax.jit(written))(x)
    value = _normal(4, 3, 4, 6)
    for found, expected in zip(exported.call(value), blocks(value), strict=True):
        np.testing.assert_array_equal(found, expected)
