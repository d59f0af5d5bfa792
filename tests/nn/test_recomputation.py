"""Computing again on a CPU: the same gradients, with less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from molo_jax.backbones.resnet import BasicBlock
from molo_jax.nn import remat
from molo_jax.nn.layers import recomputed
from molo_jax.nn.recomputation import tied_to_gradient

NORM = {"set_sizes": (2, 4), "train": True}


def gradient(setting, blocks):
    """Gradient of some residual blocks by their parameters, and their statistics."""
    graphdef, params, others = nnx.split(blocks, nnx.Param, ...)

    @jax.jit
    def compute(params, others, x):
        def loss(params):
            given = nnx.merge(graphdef, params, others, copy=True)
            y = x
            for block in given:
                y = recomputed(remat.BLOCK, lambda block, y: block(y, **NORM), block, y)
            return jnp.sum(jnp.sin(y)), nnx.state(given, nnx.BatchStat)

        with remat.using(setting):
            return jax.grad(loss, has_aux=True)(params)

    return compute, params, others


@pytest.fixture(scope="module")
def compiled():
    """The compiled programs of both settings, and what they compute."""
    blocks = nnx.List([BasicBlock(8, 8, 1, rngs=nnx.Rngs(0)) for _ in range(10)])
    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, 16, 16, 8)), jnp.float32)
    programs = {}
    for setting in ("none", "blocks"):
        compute, *states = gradient(setting, blocks)
        program = compute.lower(*states, x).compile()
        programs[setting] = program, program(*states, x)
    return programs


def test_gradients_and_statistics_are_those_of_computing_once(compiled):
    (_, once), (_, again) = compiled.values()
    assert jax.tree.structure(once) == jax.tree.structure(again)
    for one, other in zip(jax.tree.leaves(once), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    counts = [x for x in jax.tree.leaves(again) if jnp.issubdtype(x.dtype, jnp.integer)]
    assert [x.item() for x in counts] == [2] * 20


def test_the_program_for_a_cpu_keeps_the_inputs_of_the_blocks_alone(compiled):
    needed = [each.memory_analysis().temp_size_in_bytes for each, _ in compiled.values()]
    assert needed[1] < 0.6 * needed[0]


class Noise(nnx.Module):
    def __call__(self, x, rngs):
        return {"noisy": x * nnx.Dropout(0.5)(jnp.ones_like(x), rngs=rngs), "count": x.shape[0]}


def test_the_second_computation_draws_the_same_numbers_and_the_state_moves_once():
    def twice(x):
        rngs = nnx.Rngs(dropout=1)

        def noise(x):
            return tied_to_gradient(lambda noise, x, rngs: noise(x, rngs), Noise(), x, rngs)

        return noise(x)["noisy"], noise(x)["noisy"]

    def run(x):
        y, back, later = jax.vjp(twice, x, has_aux=True)
        return y, back(jnp.ones_like(y))[0], later

    x = jnp.full((4, 5), 3.0)
    y, of_x, later = jax.jit(run)(x)
    np.testing.assert_allclose(of_x, y / x)
    assert set(np.unique(of_x)) == {0.0, 2.0}
    assert not np.array_equal(y, later)


def test_a_gradient_that_is_no_number_stays_none():
    square = lambda x: tied_to_gradient(lambda x: x * x, x)  # noqa: E731
    _, back = jax.vjp(square, jnp.ones(3))
    assert np.isnan(back(jnp.full(3, jnp.nan))[0]).all()
