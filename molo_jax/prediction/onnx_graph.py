"""Makes the graph of a network shorter, so that runtimes find convolutions to join with others.

JAX repeats an operand until it has the shape of the other one; the operations of ONNX do that
themselves. The values stay the same.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

# Operations whose operands are repeated where they have one row, one column, and so on.
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Where", "Equal", "Greater", "Less")


def shortened_graph(model: Any) -> None:
    """Changes an `onnx.ModelProto` in place.

    Operands that are repeated for an operation that does so itself are taken as they are, the
    larger of a value and zero becomes `Relu`, and operations whose results nobody takes are left
    out.
    """
    _take_unexpanded(model.graph)
    _name_relus(model.graph)
    _leave_out_unused(model.graph)


def _take_unexpanded(graph: Any) -> None:
    shapes, makers = _shapes(graph), _makers(graph)
    for node in graph.node:
        if node.op_type not in _ELEMENTWISE:
            continue
        expanded = [name in makers and makers[name].op_type == "Expand" for name in node.input]
        # An operand that has all rows of the result.
        whole = [
            not repeated and _covers(shapes.get(name), shapes.get(node.output[0]))
            for name, repeated in zip(node.input, expanded, strict=True)
        ]
        if any(whole):
            for place, repeated in enumerate(expanded):
                if repeated:
                    node.input[place] = makers[node.input[place]].input[0]


def _name_relus(graph: Any) -> None:
    from onnx import numpy_helper

    zeros = {
        each.name
        for each in graph.initializer
        if not each.dims and each.data_type == 1 and numpy_helper.to_array(each) == np.float32(0)
    }
    for node in graph.node:
        others = [name for name in node.input if name not in zeros]
        if node.op_type == "Max" and len(node.input) == 2 and len(others) == 1:
            node.op_type = "Relu"
            node.input[:] = others


def _leave_out_unused(graph: Any) -> None:
    wanted = {value.name for value in graph.output}
    for place in reversed(range(len(graph.node))):
        node = graph.node[place]
        if wanted.intersection(node.output):
            wanted.update(node.input)
        else:
            del graph.node[place]
    for values in (graph.initializer, graph.value_info):
        for place in reversed(range(len(values))):
            if values[place].name not in wanted:
                del values[place]


def _makers(graph: Any) -> Mapping[str, Any]:
    return {name: node for node in graph.node for name in node.output}


def _shapes(graph: Any) -> Mapping[str, tuple[int | str, ...]]:
    """Returns the shapes of values where they are known; free sizes have names."""
    found = {each.name: tuple(each.dims) for each in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            sizes = value.type.tensor_type.shape.dim
            found[value.name] = tuple(size.dim_param or size.dim_value for size in sizes)
    return found


def _covers(shape: tuple[int | str, ...] | None, result: tuple[int | str, ...] | None) -> bool:
    """Whether an operand of this shape alone gives the result its shape."""
    if shape is None or result is None or len(shape) != len(result):
        return False
    # The name of a size that follows from others is made up anew for each operation.
    free = zip(shape, result, strict=True)
    return all(mine == theirs or {type(mine), type(theirs)} == {str} for mine, theirs in free)
