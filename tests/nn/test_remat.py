"""What is computed again changes no number, and is not kept."""

import jax
import numpy as np
import pytest
import thin
from flax import nnx
from jax import export

from molo_jax.engine.state import create_model
from molo_jax.methods.settings import METHODS
from molo_jax.nn import remat
from molo_jax.nn.ops import traced_for
from molo_jax.nn.precision import FLOAT32


def test_the_setting_holds_inside_its_block_and_nothing_is_recomputed_outside():
    assert not remat.recomputes(remat.BLOCK)
    with remat.using("full"):
        assert remat.recomputes(remat.BLOCK)
        assert remat.recomputes(remat.STAGE)
        with remat.using("blocks"):
            assert remat.recomputes(remat.BLOCK)
            assert not remat.recomputes(remat.STAGE)
        assert remat.recomputes(remat.STAGE)
    assert not remat.recomputes(remat.BLOCK)


def some_arrays():
    """An episode of small frames."""
    rng = np.random.default_rng(0)
    clips = {name: rng.standard_normal((1, 2, 3, 32, 32, 3)) for name in ("support", "query")}
    arrays = {name: np.arange(2, dtype=np.int32)[None] for name in thin.arrays()}
    return arrays | {k: np.float32(v) for k, v in clips.items()} | {"index": np.int32([7])}


@pytest.mark.parametrize("method", METHODS)
def test_gradients_losses_statistics_and_dropout_are_those_without(network, method):
    del network
    graphdef, *states = create_model(thin.settings(method), seed=1)
    # Blocks are a part of full.
    without, again = (
        jax.jit(thin.gradient(graphdef, FLOAT32, name))(*states, some_arrays())
        for name in ("none", "full")
    )
    (grads, metrics, updates), (again_grads, again_metrics, again_updates) = without, again
    assert again_metrics.keys() == metrics.keys()
    for name, value in metrics.items():
        np.testing.assert_allclose(again_metrics[name], value, rtol=1e-5, err_msg=name)
    for one, other in ((updates, again_updates), (grads, again_grads)):
        for (path, left), (_, right) in zip(
            nnx.to_flat_state(one), nnx.to_flat_state(other), strict=True
        ):
            left, right = np.asarray(left[...]), np.asarray(right[...])
            scale = np.linalg.norm(left) + 1e-6
            assert np.linalg.norm(left - right) <= 1e-4 * scale, path
    counts = [
        value[...].item()
        for path, value in nnx.to_flat_state(again_updates)
        if path[-1] == "num_batches_tracked"
    ]
    # Twice in the backbone, for its two sets, although it ran twice.
    assert counts.count(2) == 12


def test_a_program_for_cuda_keeps_apart_what_is_computed_again(network):
    graphdef, *states = network("molo")
    barriers = {}
    for name in remat.REMATS:
        run = jax.jit(thin.gradient(graphdef, FLOAT32, name))
        with traced_for("cuda"):
            program = export.export(run, platforms=["cuda"])(*states, thin.arrays()).mlir_module()
        barriers[name] = program.count("stablehlo.optimization_barrier")
    assert barriers["none"] == 0
    # The stem, four blocks, three of the decoder, the motion step, two encoders.
    assert barriers["blocks"] >= 11
    assert barriers["full"] >= barriers["blocks"] + 4
