"""Shorter graphs compute the same."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from molo_jax.prediction.onnx_graph import shortened_graph

FLOAT = TensorProto.FLOAT


def _model(nodes, shapes, constants):
    """A model with the input x (n, 3), the output y, and values of known shapes."""
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, [output]) for kind, inputs, output in nodes],
        "graph",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", FLOAT, shapes.pop("y"))],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
        value_info=[
            helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in shapes.items()
        ],
    )
    opset = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10)


def _shortened(model):
    """Returns the kinds of the operations afterwards; the values must be those of before."""
    x = np.float32([[-1, 2, 0], [3, -4, 5]])
    before, after = model.SerializeToString(), model
    shortened_graph(after)
    onnx.checker.check_model(after, full_check=True)
    values = [
        onnxruntime.InferenceSession(content).run(None, {"x": x})[0]
        for content in (before, after.SerializeToString())
    ]
    np.testing.assert_array_equal(*values)
    return [node.op_type for node in after.graph.node]


ROW = {"row": np.float32([[1, 2, 3]])}
REPEATED = [("Shape", ["x"], "size"), ("Expand", ["row", "size"], "wide")]


def test_an_operand_is_not_repeated_for_an_operation_that_does_so_itself():
    nodes = [*REPEATED, ("Sub", ["x", "wide"], "y")]
    # The names of free sizes differ from operation to operation.
    model = _model(nodes, {"wide": ["n", 3], "y": ["m", 3]}, {**ROW, "unused": np.float32(2)})
    assert _shortened(model) == ["Sub"]
    assert list(model.graph.node[0].input) == ["x", "row"]
    assert [each.name for each in model.graph.initializer] == ["row"]
    assert list(model.graph.value_info) == []


def test_an_operand_that_alone_gives_the_result_its_shape_stays_repeated():
    nodes = [*REPEATED, ("Mul", ["wide", "two"], "y")]
    model = _model(nodes, {"wide": ["n", 3], "y": ["n", 3]}, {**ROW, "two": np.float32(2)})
    assert _shortened(model) == ["Shape", "Expand", "Mul"]
    column = {"column": np.float32([[1], [2]])}
    nodes = [*REPEATED, ("Add", ["wide", "column"], "y")]
    model = _model(nodes, {"wide": ["n", 3], "y": ["n", 3]}, ROW | column)
    assert _shortened(model) == ["Shape", "Expand", "Add"]


def test_the_larger_of_a_value_and_zero_is_relu_and_that_of_others_is_not():
    constants = {"zero": np.float32(0), "one": np.float32(1)}
    nodes = [("Max", ["zero", "x"], "a"), ("Max", ["a", "one"], "y")]
    model = _model(nodes, {"a": ["n", 3], "y": ["n", 3]}, constants)
    assert _shortened(model) == ["Relu", "Max"]
