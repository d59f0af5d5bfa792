"""What a network costs: operations and memory of one episode, from shapes alone."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from molo_jax.engine.program import flops, output_bytes, peak_bytes, trace
from molo_jax.methods.episode import Episode


@dataclasses.dataclass(frozen=True)
class Flops:
    """Floating-point operations of the convolutions and matrix products.

    Attributes:
        forward: of the function.
        backward: of its gradient with respect to the parameters; what the gradient computes again
            counts here too.
    """

    forward: int
    backward: int

    def times(self, count: int) -> "Flops":
        """Returns the operations of so many calls."""
        return Flops(count * self.forward, count * self.backward)

    @property
    def total(self) -> int:
        """Both together."""
        return self.forward + self.backward


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a function and its gradient with respect to its parameters cost.

    Attributes:
        flops: floating-point operations.
        saved: bytes that the function keeps for its gradient, without parameters and other inputs.
        working: estimate of the most bytes that intermediate values take at any time, without
            inputs, outputs and gradients; see :func:`molo_jax.engine.program.peak_bytes`.
    """

    flops: Flops
    saved: int
    working: int


def cost(function: Callable, params: Any, *arguments: Any, padding: bool = True) -> Cost:
    """Traces a function with its gradient, and counts.

    Args:
        function: of parameters and further arguments; what it returns may be any pytree of floats.
        params: the parameters, or their shapes.
        arguments: the further arguments, or their shapes.
        padding: see :func:`molo_jax.engine.program.flops`.
    """

    def both(params, *arguments):
        result, backward = jax.vjp(lambda given: function(given, *arguments), params)
        # What the gradient is multiplied by changes no shape.
        return (result, backward), backward(result)

    program, (forward, _) = trace(both, params, *arguments)
    results, kept = (len(jax.tree.leaves(each)) for each in (forward[0], forward))
    there = program.part(program.outputs[:kept])
    whole = program.part(program.outputs[:results] + program.outputs[kept:])
    ahead = flops(there, padding=padding)
    return Cost(
        flops=Flops(ahead, flops(whole, padding=padding) - ahead),
        saved=output_bytes(there),
        working=peak_bytes(whole),
    )


def episode_shapes(*, way: int, shot: int, query: int, frames: int, side: int) -> Episode:
    """Returns the shapes of an episode.

    Args:
        way: number of classes.
        shot: support clips of a class.
        query: query clips of a class.
        frames: frames of a clip.
        side: pixels of a side of the square frames.
    """

    def clips(each):
        return jax.ShapeDtypeStruct((way * each, frames, side, side, 3), jnp.float32)

    def labels(each):
        return jax.ShapeDtypeStruct((way * each,), jnp.int32)

    return Episode(
        support=clips(shot),
        query=clips(query),
        support_labels=labels(shot),
        query_labels=labels(query),
        support_classes=labels(shot),
        query_classes=labels(query),
    )


def episode_loss(graphdef: nnx.GraphDef, n_way: int) -> Callable:
    """Returns the loss of an episode in training, of (parameters, statistics, episode)."""

    def loss(params, batch_stats, episode):
        model = nnx.merge(graphdef, params, batch_stats, copy=True)
        training = model(episode, n_way=n_way, train=True, rngs=nnx.Rngs(dropout=jax.random.key(0)))
        return model.total_loss(training.losses)

    return loss


def embedding(graphdef: nnx.GraphDef) -> Callable:
    """Returns the function from (parameters, statistics, clips) to what is kept of the clips."""
    return lambda params, batch_stats, clips: nnx.merge(graphdef, params, batch_stats).embed(clips)
