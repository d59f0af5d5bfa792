"""A traced function as one flat list of operations, and what can be counted in that list.

Nothing is computed or compiled: JAX traces a function with shapes alone, and this module reads the
result. Floating-point operations are those of convolutions and matrix products, a multiplication
and an addition as two. Bytes are those of the arrays that a compiler has to keep.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

# Operations whose result is their operand under another shape or name.
_SAME = frozenset(
    {
        *("copy", "expand_dims", "name", "optimization_barrier", "reshape", "squeeze"),
        "stop_gradient",
    }
)
# Operations that a compiler merges with those that use the result, instead of storing the result.
_MERGED = frozenset(
    {
        *("abs", "add", "add_any", "and", "bitcast_convert_type", "broadcast_in_dim", "ceil"),
        *("clamp", "concatenate", "convert_element_type", "cos", "div", "dynamic_slice", "eq"),
        *("erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "integer_pow"),
        *("iota", "is_finite", "le", "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne"),
        *("neg", "not", "or", "pad", "pow", "reduce_precision", "rem", "rev", "round", "rsqrt"),
        *("select_n", "shift_left", "shift_right_arithmetic", "shift_right_logical", "sign"),
        *("sin", "slice", "split", "sqrt", "square", "sub", "tan", "tanh", "transpose", "xor"),
    }
)
# Of these, what costs nothing to compute again for each that uses it.
_REPEATED = frozenset({"broadcast_in_dim", "iota"})
_REDUCTIONS = ("reduce_", "argmax", "argmin")
# Operations that hold other operations and repeat or choose them.
_LOOPS = frozenset({"scan", "while", "cond"})


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """An array of the program."""

    shape: tuple[int, ...]
    dtype: Any

    @property
    def bytes(self) -> int:
        """Memory that the array takes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
    """A step of the program; constants are not among its inputs."""

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    params: dict[str, Any]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def is_merged(self) -> bool:
        """Whether a compiler computes it together with what uses its result."""
        return self.name in _MERGED

    @property
    def is_reduction(self) -> bool:
        """Whether it reads its operand once, so that the operand need not be stored for it."""
        return self.name.startswith(_REDUCTIONS)


@dataclasses.dataclass(frozen=True)
class Program:
    """The operations of a function, in their order; what no output depends on is left out.

    Attributes:
        inputs: its arguments.
        operations: in their order.
        outputs: its results; None for a constant.
    """

    inputs: tuple[Value, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[Value | None, ...]

    @property
    def results(self) -> set[Value]:
        """The outputs that are no constants."""
        return {each for each in self.outputs if each is not None}

    def part(self, outputs: Sequence[Value | None]) -> "Program":
        """Returns the program that computes only some of the outputs."""
        asked = Program(self.inputs, self.operations, tuple(outputs))
        needed, kept = asked.results, []
        for operation in reversed(self.operations):
            if needed.intersection(operation.outputs):
                needed.update(operation.inputs)
                kept.append(operation)
        return dataclasses.replace(asked, operations=tuple(reversed(kept)))


def trace(function: Callable, *arguments: Any) -> tuple[Program, Any]:
    """Traces a function.

    Args:
        function: of arrays in any pytrees.
        arguments: arrays or their shapes (`jax.ShapeDtypeStruct`).

    Returns:
        The program, and the shapes of what the function returns.
    """
    # A new function object, for JAX remembers what it traced whatever context that was in.
    jaxpr, shapes = jax.make_jaxpr(lambda *given: function(*given), return_shape=True)(*arguments)
    return flat(jaxpr), shapes


def flat(jaxpr: ClosedJaxpr | Jaxpr) -> Program:
    """Writes out every function that a traced program calls.

    Loops and choices (`scan`, `while`, `cond`) stay one operation each.
    """
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    operations: list[Operation] = []
    inputs = [_value(each) for each in jaxpr.invars]
    known = dict(zip(jaxpr.invars, inputs, strict=True))
    outputs = _write_out(jaxpr, known, operations)
    return Program(tuple(inputs), tuple(operations), tuple(outputs)).part(outputs)


def _value(variable: Any) -> Value:
    return Value(tuple(variable.aval.shape), variable.aval.dtype)


def _write_out(
    jaxpr: Jaxpr, known: dict[Any, Value | None], operations: list[Operation]
) -> list[Value | None]:
    """Appends the operations of a function; returns its results, None for a constant."""
    known = {**known, **{each: _value(each) for each in jaxpr.constvars}}

    def read(atom):
        return None if isinstance(atom, Literal) else known[atom]

    for equation in jaxpr.eqns:
        given, inner = [read(atom) for atom in equation.invars], _called(equation)
        if inner is not None:
            arguments = dict(zip(inner.invars, given, strict=True))
            results = _write_out(inner, arguments, operations)
        else:
            results = [_value(each) for each in equation.outvars]
            operations.append(
                Operation(
                    equation.primitive.name,
                    tuple(each for each in given if each is not None),
                    tuple(results),
                    equation.params,
                    tuple(tuple(atom.aval.shape) for atom in equation.invars),
                )
            )
        known.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _called(equation: Any) -> Jaxpr | None:
    """Returns the function that an equation calls once, if that is what the equation does."""
    if equation.primitive.name in _LOOPS:
        return None
    for key in ("jaxpr", "call_jaxpr"):
        found = equation.params.get(key)
        found = found.jaxpr if isinstance(found, ClosedJaxpr) else found
        if isinstance(found, Jaxpr) and len(found.invars) == len(equation.invars):
            return found
    return None


# Floating-point operations


def flops(program: Program, *, padding: bool = True) -> int:
    """Counts the floating-point operations of the convolutions and matrix products.

    A loop counts as often as it runs (`while`, whose number of runs is not known, once), a choice
    as its largest branch.

    Args:
        program: what is counted.
        padding: whether products with the zeros that pad a map count, as in papers and in PyTorch's
            counter; XLA's count leaves them out.
    """
    return sum(_operation_flops(each, padding) for each in program.operations)


def _operation_flops(operation: Operation, padding: bool) -> int:
    params = operation.params
    if operation.name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = operation.shapes[0]
        return 2 * _size(operation) * math.prod(left[axis] for axis in contracted)
    if operation.name == "conv_general_dilated":
        return _convolution_flops(operation, padding)
    runs = params["length"] if operation.name == "scan" else 1
    return runs * max((flops(each, padding=padding) for each in _bodies(operation)), default=0)


def _size(operation: Operation) -> int:
    return math.prod(operation.outputs[0].shape)


def _convolution_flops(operation: Operation, padding: bool) -> int:
    """Counts two for each product of an element of the map and one of the kernel."""
    params, (left, right) = operation.params, operation.shapes
    numbers, out = params["dimension_numbers"], operation.outputs[0].shape
    pairs = 1
    for axis, (left_axis, right_axis, out_axis) in enumerate(
        zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)
    ):
        size, kernel, positions = left[left_axis], right[right_axis], out[out_axis]
        holes = params["lhs_dilation"][axis]
        if padding:
            # With holes in the map it is the gradient of a convolution with a stride, which has as
            # many products as that convolution.
            pairs *= (size if holes > 1 else positions) * kernel
            continue
        low, stride = params["padding"][axis][0], params["window_strides"][axis]
        taps = np.arange(kernel) * params["rhs_dilation"][axis]
        place = np.arange(positions)[:, None] * stride + taps - low
        inside = (place >= 0) & (place <= (size - 1) * holes) & (place % holes == 0)
        pairs *= int(inside.sum())
    channels = right[numbers.rhs_spec[1]] * out[numbers.out_spec[1]]
    return 2 * out[numbers.out_spec[0]] * channels * pairs


# Memory


def output_bytes(program: Program) -> int:
    """Sums the outputs that are neither inputs nor another output in another shape."""
    origin = _origins(program)
    given = set(program.inputs)
    return sum(each.bytes for each in {origin.get(o, o) for o in program.results} - given)


def _origins(program: Program) -> dict[Value, Value]:
    """Maps what is another value in another shape to that value."""
    origin: dict[Value, Value] = {}
    for operation in program.operations:
        if operation.name in _SAME:
            for given, result in zip(operation.inputs, operation.outputs, strict=False):
                origin[result] = origin.get(given, given)
    return origin


def peak_bytes(program: Program) -> int:
    """Estimates the most memory that intermediate values take at any time.

    The operations run in their order. A value lives from the operation that makes it to the last
    one that reads it. A value that is computed element by element is not stored where a single
    operation reads it, and that one works element by element too or sums: a compiler merges the
    two, and what the value is computed from lives on instead. Inputs and outputs of the program are
    not counted, nor is what the algorithm of a convolution needs beside its operands.
    """
    stored, last = _lifetimes(program)
    ends: dict[int, list[Value]] = {}
    for value, time in last.items():
        ends.setdefault(time, []).append(value)
    free = {*program.inputs, *program.results}
    live = peak = 0
    for time, operation in enumerate(program.operations):
        made = sum(v.bytes for v in operation.outputs if v in stored and v not in free)
        made_inside = max((peak_bytes(each) for each in _bodies(operation)), default=0)
        ended = sum(v.bytes for v in ends.get(time, ()) if v not in free)
        if operation.is_merged:
            # Element by element, the result can take the place of what is read for the last time.
            live += made - ended
            peak = max(peak, live)
        else:
            peak = max(peak, live + made + made_inside)
            live += made - ended
    return peak


def _lifetimes(program: Program) -> tuple[set[Value], dict[Value, int]]:
    """Returns the values that are stored, and the time of each one's last use."""
    stored = _stored(program)
    sources: dict[Value, frozenset[Value]] = {each: frozenset({each}) for each in program.inputs}
    last: dict[Value, int] = {}
    for time, operation in enumerate(program.operations):
        read = frozenset().union(*(sources.get(each, frozenset()) for each in operation.inputs))
        if operation.name in _SAME:
            for given, result in zip(operation.inputs, operation.outputs, strict=False):
                sources[result] = sources.get(given, frozenset())
            continue
        for result in operation.outputs:
            sources[result] = frozenset({result}) if result in stored else read
        if not operation.is_merged or stored.intersection(operation.outputs):
            last.update(dict.fromkeys([*read, *stored.intersection(operation.outputs)], time))
    return stored, last


def _stored(program: Program) -> set[Value]:
    """Returns the values that a compiler has to store."""
    whole, stored = program.results, set()
    readers: dict[Value, int] = {}
    for operation in reversed(program.operations):
        if operation.name in _SAME:
            for given, result in zip(operation.inputs, operation.outputs, strict=False):
                readers[given] = readers.get(given, 0) + readers.get(result, 0)
                whole |= {given} if result in whole else set()
            continue
        for given in set(operation.inputs):
            readers[given] = readers.get(given, 0) + 1
        if not operation.is_merged and not operation.is_reduction:
            whole.update(operation.inputs)
        if operation.name not in _REPEATED:
            several = {each for each in operation.outputs if readers.get(each, 0) > 1}
            stored |= several if operation.is_merged else set(operation.outputs)
        stored.update(whole.intersection(operation.outputs))
    return stored


def _bodies(operation: Operation) -> list[Program]:
    """Returns the programs that a loop or a choice runs."""
    keys = {"scan": ("jaxpr",), "while": ("body_jaxpr",)}.get(operation.name, ())
    choices = operation.params["branches"] if operation.name == "cond" else ()
    return [flat(each) for each in (*(operation.params[key] for key in keys), *choices)]
