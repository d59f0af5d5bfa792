"""What a training run carries from step to step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Int

from molo_jax.methods.settings import Settings


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Parameters, batch-normalization statistics, optimizer state and number of finished steps."""

    params: nnx.State
    batch_stats: nnx.State
    opt_state: optax.OptState
    step: Int[Array | np.ndarray | jax.ShapeDtypeStruct, ""]


def create_model(settings: Settings, seed: int) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """Initializes a network.

    Args:
        settings: those of the network's method.
        seed: fixes every initial parameter.

    Returns:
        The module's structure, its parameters and its batch-normalization statistics.
    """

    @jax.jit
    def init(key):
        return nnx.split(settings.build(nnx.Rngs(key)), nnx.Param, nnx.BatchStat)[1:]

    abstract = nnx.eval_shape(lambda: settings.build(nnx.Rngs(0)))
    params, batch_stats = init(jax.random.key(seed))
    return nnx.graphdef(abstract), params, batch_stats


def create_state(
    params: nnx.State, batch_stats: nnx.State, optimizer: optax.GradientTransformation
) -> TrainState:
    """The state before the first step."""
    return TrainState(
        params=params,
        batch_stats=batch_stats,
        opt_state=jax.jit(optimizer.init)(params),
        step=jnp.zeros((), jnp.int32),
    )


def count_parameters(params: nnx.State) -> int:
    """Number of trainable scalars."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
