"""A traced function as a row of plain operations, each of which has a counterpart in ONNX.

Functions inside of functions are put in line, loops of a known length are written out, what
depends on the weights alone is computed, and a few operations are written in terms of others.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend import core

# The primitives that call a function, and where that is among their parameters.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
# Its value depends on the sizes of the inputs, although it has no operands.
_OF_SIZES = "dim_as_value"


def plain(function: Callable[..., Any], *arguments: Any) -> Callable[..., list[Any]]:
    """Returns a function that computes the same by plain operations.

    Args:
        function: takes and returns pytrees of arrays.
        arguments: their shapes and types; sizes may be symbolic.

    Returns:
        A function from the leaves of the arguments to the leaves of the results. It is traced with
        arrays of the same shapes.
    """
    leaves, structure = jax.tree.flatten(arguments)
    traced = jax.make_jaxpr(lambda *xs: function(*jax.tree.unflatten(structure, xs)))(*leaves)
    return lambda *values: _evaluate(traced.jaxpr, traced.consts, values)


def _evaluate(jaxpr: Any, consts: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    found = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *values), strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, core.Literal) else found[variable]

    for equation in _needed(jaxpr):
        results = _apply(equation, [read(each) for each in equation.invars])
        found |= zip(equation.outvars, results, strict=True)
    return [read(each) for each in jaxpr.outvars]


def _needed(jaxpr: Any) -> list[Any]:
    """Returns the equations that the results depend on."""
    wanted, kept = set(map(id, jaxpr.outvars)), []
    for equation in reversed(jaxpr.eqns):
        if any(id(each) in wanted for each in equation.outvars):
            kept.append(equation)
            wanted |= set(map(id, equation.invars))
    return kept[::-1]


def _apply(equation: Any, values: list[Any]) -> Sequence[Any]:
    name, parameters = equation.primitive.name, equation.params
    if name in _CALLS:
        called = parameters[_CALLS[name]]
        return _evaluate(called.jaxpr, called.consts, values)
    if _is_known(equation, values):
        with jax.ensure_compile_time_eval():
            return _bound(equation, values)
    if name == "scan" and isinstance(parameters["length"], int):
        return _written_out(parameters, values)
    if name == "cumlogsumexp":
        return [_running_logsumexp(*values, parameters["axis"], parameters["reverse"])]
    if name == "pad" and all(least >= 0 and not inner for least, inner in _edges(parameters)):
        return [_padded(*values, parameters["padding_config"])]
    if name == "gather" and _is_slice(equation, values):
        return [_sliced(equation, *values)]
    return _bound(equation, values)


def _bound(equation: Any, values: list[Any]) -> Sequence[Any]:
    results = equation.primitive.bind(*values, **equation.params)
    return results if equation.primitive.multiple_results else [results]


def _is_known(equation: Any, values: list[Any]) -> bool:
    """Whether the results depend on the weights alone: on no input, and on no size of one."""
    sizes = [size for each in equation.outvars for size in each.aval.shape]
    return (
        equation.primitive.name != _OF_SIZES
        and not any(isinstance(value, jax.core.Tracer) for value in values)
        and all(isinstance(size, int) for size in sizes)
    )


def _written_out(parameters: dict[str, Any], values: list[Any]) -> Sequence[Any]:
    """Repeats the body of a loop; of each step, the results are stacked."""
    body, length = parameters["jaxpr"], parameters["length"]
    consts, carried = parameters["num_consts"], parameters["num_carry"]
    fixed, carry, rows = values[:consts], values[consts:][:carried], values[consts + carried :]
    steps = range(length)[::-1] if parameters["reverse"] else range(length)
    found = {}
    for step in steps:
        row = [lax.index_in_dim(each, step, axis=0, keepdims=False) for each in rows]
        results = _evaluate(body.jaxpr, body.consts, [*fixed, *carry, *row])
        carry, found[step] = results[:carried], results[carried:]
    columns = zip(*(found[step] for step in range(length)), strict=True)
    stacked = [lax.concatenate([lax.expand_dims(x, (0,)) for x in each], 0) for each in columns]
    return [*carry, *stacked]


def _running_logsumexp(x: Any, axis: int, reverse: bool) -> Any:
    """Sums exponentials along an axis of a known size, one position after the other.

    The exponentials themselves would leave the range of float32.
    """
    places = range(x.shape[axis])
    parts = [lax.slice_in_dim(x, place, place + 1, axis=axis) for place in places]
    parts = parts[::-1] if reverse else parts
    sums = parts[:1]
    for part in parts[1:]:
        larger, smaller = lax.max(sums[-1], part), lax.min(sums[-1], part)
        sums.append(larger + lax.log1p(lax.exp(smaller - larger)))
    return lax.concatenate(sums[::-1] if reverse else sums, axis)


def _edges(parameters: dict[str, Any]) -> list[tuple[int, int]]:
    """Returns the smaller padding of each axis, and the one between its values."""
    return [(min(low, high), inner) for low, high, inner in parameters["padding_config"]]


def _padded(x: Any, value: Any, edges: Sequence[tuple[int, int, int]]) -> Any:
    for axis, (low, high, _) in enumerate(edges):
        shapes = [(*x.shape[:axis], size, *x.shape[axis + 1 :]) for size in (low, high)]
        before, after = (lax.broadcast_in_dim(value, shape, ()) for shape in shapes)
        parts = [part for part, size in ((before, low), (x, 1), (after, high)) if size]
        x = lax.concatenate(parts, axis)
    return x


def _is_slice(equation: Any, values: list[Any]) -> bool:
    """Whether a gathering takes one block, whose place is known."""
    numbers = equation.params["dimension_numbers"]
    batching = numbers.operand_batching_dims
    return not isinstance(values[1], jax.core.Tracer) and values[1].ndim == 1 and not batching


def _sliced(equation: Any, operand: Any, indices: Any) -> Any:
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    starts = [0] * operand.ndim
    for axis, start in zip(numbers.start_index_map, np.asarray(indices).tolist(), strict=True):
        starts[axis] = start
    limits = [start + size for start, size in zip(starts, sizes, strict=True)]
    return lax.squeeze(lax.slice(operand, starts, limits), numbers.collapsed_slice_dims)
