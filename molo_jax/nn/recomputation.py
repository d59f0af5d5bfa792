"""Computing a part of the network again for its gradient, in a way that XLA keeps on a CPU.

JAX separates the second computation from the first by a barrier. XLA for the CPU removes the
barrier before it merges equal computations, so that there the first one would be kept after all.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array


def tied_to_gradient(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function that keeps its arguments alone, and is computed again for its gradient.

    Before the second computation, zero times the gradient of the results is added to the arrays.
    That changes no finite number, and nothing of the second computation can be known before that
    gradient is.

    Args:
        function: changes nothing but the variables of the modules among its arguments.
        arguments: modules, random numbers and arrays.
    """
    arrays = {n: x for n, x in enumerate(arguments) if isinstance(x, jax.Array)}
    modules = {n: x for n, x in enumerate(arguments) if n not in arrays}
    graphdef, params, others = nnx.split(modules, nnx.Param, ...)

    def pure(params, others, arrays):
        # A copy, or the call would change the variables that are kept for the second one.
        given = nnx.merge(graphdef, params, others, copy=True)
        result = function(*(arrays[n] if n in arrays else given[n] for n in range(len(arguments))))
        return result, nnx.state(given, nnx.Not(nnx.Param))

    @jax.custom_vjp
    def run(*operands):
        return pure(*operands)

    def backward(operands, cotangents):
        params, others, arrays = operands
        zero = sum(_zero(each) for each in jax.tree.leaves(cotangents))
        arrays = jax.tree.map(lambda x: x + zero.astype(x.dtype), arrays)
        return jax.vjp(pure, params, others, arrays)[1](cotangents)

    run.defvjp(lambda *operands: (pure(*operands), operands), backward)
    result, changed = run(params, others, arrays)
    nnx.update(modules, changed)
    return result


def _zero(cotangent: Array) -> Array | float:
    """Zero, computed from an array; a plain zero where the array is that of an integer."""
    if cotangent.dtype == jax.dtypes.float0:
        return 0.0
    return 0.0 * jnp.sum(cotangent.ravel()[:1]).astype(jnp.float32)
