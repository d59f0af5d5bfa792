import contextlib
import unittest.mock

import jax
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import molo_torch_ref
from molo_jax.engine.cost import cost, embedding, episode_loss, episode_shapes
from molo_jax.engine.program import Program, flops, trace
from molo_jax.methods.settings import METHODS
from molo_jax.nn.ops import traced_for
from molo_jax.weights.networks import abstract_network

CLASSES = 7


def network(method="molo", backbone="resnet18"):
    return abstract_network(METHODS[method](num_classes=CLASSES, backbone=backbone))


def sizes_of(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


COMPILED = ({"way": 2, "frames": 4, "side": 128}, {"way": 3, "frames": 2, "side": 96})


@pytest.fixture(scope="module", params=COMPILED, ids=lambda sizes: f"crop {sizes['side']}")
def counted_and_compiled(request):
    graphdef, *state = network()
    episode = episode_shapes(shot=1, query=1, **request.param)
    loss = episode_loss(graphdef, request.param["way"])
    with traced_for("cpu"):
        counted = cost(loss, *state, episode, padding=False)
    # On a CPU, XLA otherwise orders operations for speed, whatever memory that takes.
    order = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    program = jax.jit(jax.grad(loss)).lower(*state, episode).compile(compiler_options=order)
    return counted, program, sizes_of((*state, episode)), sizes_of(state[0])


def test_the_operations_are_those_of_the_compiler_but_for_what_is_no_product(counted_and_compiled):
    counted, program, *_ = counted_and_compiled
    compiler = program.cost_analysis()["flops"]
    # The compiler also counts additions, comparisons and so on, one for each element, and on a CPU
    # those of the patches that gradients by kernels are products of.
    assert counted.flops.total < compiler < 1.08 * counted.flops.total


def test_the_estimated_peak_is_within_a_quarter_of_what_the_compiler_allots(counted_and_compiled):
    counted, program, inputs, gradients = counted_and_compiled
    found = program.memory_analysis()
    whole = found.temp_size_in_bytes + found.argument_size_in_bytes + found.output_size_in_bytes
    assert inputs + gradients + counted.working == pytest.approx(whole, rel=0.25)


def torch_convolutions(method, backbone, *, way, query, frames, side, gradient):
    """Counts the reference's convolutions, apart from those of MoLo's decoder behind upsampling."""
    options = {"num_classes": CLASSES} if method == "molo" else {}
    with torch.device("meta"):
        model = molo_torch_ref.make_network(method, backbone=backbone, **options).train()
        sets = [torch.empty(way * each, frames, 3, side, side) for each in (1, query)]
        labels = torch.empty(way, dtype=torch.long)
    # The choice of a class's shots depends on the labels, which have no values here.
    by_order = {
        "molo_torch_ref.matching.prototypes": lambda tokens, labels, n_way: tokens,
        "molo_torch_ref.protonet.class_means": lambda scores, labels, n_way: scores,
    }
    with contextlib.ExitStack() as stack:
        for name, function in by_order.items():
            stack.enter_context(unittest.mock.patch(name, function))
        counter = stack.enter_context(FlopCounterMode(display=False))
        output = model(*sets, labels, way)
        if gradient:
            output.logits.sum().backward()
    counts = counter.get_flop_counts()
    decoder = sum(sum(counts.get(f"MoLo.up{n}", {}).values()) for n in (1, 2, 3))
    return sum(n for kind, n in counts["Global"].items() if "convolution" in str(kind)) - decoder


def convolutions(program):
    kept = [each for each in program.operations if each.name == "conv_general_dilated"]
    return flops(Program(program.inputs, tuple(kept), program.outputs))


SIZES = {"way": 5, "query": 2, "frames": 4, "side": 64}


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_the_convolutions_of_molo_have_the_operations_that_pytorch_counts(backbone):
    graphdef, *state = network("molo", backbone)
    with traced_for("cuda"):
        program, _ = trace(episode_loss(graphdef, 5), *state, episode_shapes(shot=1, **SIZES))
    assert convolutions(program) == torch_convolutions("molo", backbone, gradient=False, **SIZES)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_forward_and_backward_have_the_operations_that_pytorch_counts(backbone):
    graphdef, params, batch_stats = network("protonet", backbone)
    loss = episode_loss(graphdef, 5)
    with traced_for("cuda"):
        episode = episode_shapes(shot=1, **SIZES)
        program, _ = trace(jax.grad(loss), params, batch_stats, episode)
        counted = cost(loss, params, batch_stats, episode).flops
    found = torch_convolutions("protonet", backbone, gradient=True, **SIZES)
    assert convolutions(program) == found
    # The rest are the products of the frames' features.
    assert found < counted.total < 1.001 * found
    assert counted.backward == pytest.approx(2 * counted.forward, rel=0.1)


def test_an_episode_costs_what_its_clips_cost_each_by_itself():
    graphdef, *state = network("protonet")
    episode = episode_shapes(shot=1, **SIZES)
    clip = jax.ShapeDtypeStruct((1, *episode.query.shape[1:]), episode.query.dtype)
    with traced_for("cuda"):
        alone = cost(embedding(graphdef), *state, clip).flops
        whole = cost(episode_loss(graphdef, 5), *state, episode).flops
    assert whole.forward == pytest.approx(15 * alone.forward, rel=1e-3)
    assert whole.backward == pytest.approx(15 * alone.backward, rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_counted(method):
    graphdef, *state = network(method)
    with traced_for("cuda"):
        counted = cost(episode_loss(graphdef, 5), *state, episode_shapes(shot=1, **SIZES))
        clip = jax.ShapeDtypeStruct((1, 4, 64, 64, 3), "float32")
        alone = flops(trace(embedding(graphdef), *state, clip)[0])
    # Beside what is computed for each of the 15 clips by itself there are relation and decoder.
    assert 15 * alone * 0.999 < counted.flops.forward < 1.5 * 15 * alone
    assert 1.8 * counted.flops.forward < counted.flops.backward < 2.1 * counted.flops.forward
    assert 0.8 * counted.saved < counted.working < 1.2 * counted.saved
