"""The profile of a step on a CPU: every millisecond is in one row, under the right name."""

import re
import sys
from pathlib import Path

import pytest
from programs import run

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
SCRIPT = FOLDER / "cpu_profile.py"
SIZES = (
    *("--backbone=resnet18", "--crop=32", "--frames=2", "--way=2", "--query=1"),
    "--remat=none",
)
COLUMNS = 4


@pytest.fixture
def modules(monkeypatch):
    """The benchmark's modules, as the script imports them."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import _cpu_profile

    yield _cpu_profile
    sys.modules.pop("_cpu_profile", None)


def test_a_step_of_both_is_taken_apart(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    result = run(SCRIPT, *SIZES)
    assert result.returncode == 0, result.stderr
    found = re.findall(r"^\| (.+?) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", result.stdout, re.M)
    rows = {name: [int(value) for value in values] for name, *values in found}
    sums = rows.pop("sum")
    for column in range(COLUMNS):
        values = [row[column] for row in rows.values()]
        assert sums[column] == pytest.approx(sum(values), abs=len(values))
    # The stem, the 3x3 convolutions of the four stages, and what both have beside them.
    sizes = [("7x7", 32), ("3x3", 8), ("3x3", 4), ("3x3", 2), ("3x3", 1)]
    names = {f"convolution {kernel} of maps of {side} pixels a side" for kernel, side in sizes}
    decoder = "decoder: upsampling with its convolution"
    assert rows.keys() >= names | {decoder, "batch normalization and ReLU", "max pooling"}
    assert re.search(r"^JAX's program needs \d+ MiB", result.stdout, re.M)


def test_time_is_divided_among_what_runs_and_goes_on_with_what_began_last(modules):
    million = 1_000_000
    events = [
        (0, 4 * million, "a"),
        (2 * million, 4 * million, "b"),
        (9 * million, 10 * million, "a"),
    ]
    # a alone, both, b although nothing is recorded, a.
    assert modules.spread(events) == {"a": 2 + 1 + 1, "b": 1 + 5}


def test_an_operation_belongs_to_the_innermost_part_and_to_its_direction(modules):
    program = """
  %fusion.1 = f32[2]{0} fusion(%a), metadata={op_name="jit(f)/jvp(vmap(conv_3x3_on_56))/dot"}
  ROOT dot.2 = f32[2]{0} dot(%a, %b), metadata={op_name="jit(f)/transpose(jvp())/batch_norm/mul"}
  %copy.3 = f32[2]{0} copy(%a)
  %while.4 = (f32[2]{0}, s32[]) while(%t), metadata={op_name="jit(f)/max_pool/while"}
"""
    milliseconds = {"fusion.1": 1.0, "dot.2": 2.0, "copy.3": 4.0, "while.4": 8.0, "unknown": 16.0}
    assert modules.by_part(milliseconds, program) == {
        ("convolution 3x3 of maps of 56 pixels a side", "forward"): 1.0,
        ("batch normalization and ReLU", "gradient"): 2.0,
        (modules.OTHER, "forward"): 20.0,
    }


@pytest.mark.parametrize(
    ("names", "shapes", "expected"),
    [
        (
            ["aten::mkldnn_convolution"],
            [(16, 3, 224, 224), (64, 3, 7, 7)],
            ("convolution 7x7 of maps of 224 pixels a side", "forward"),
        ),
        (
            ["aten::convolution_backward"],
            [(16, 128, 28, 28), (16, 64, 56, 56), (128, 64, 3, 3)],
            ("convolution 3x3 of maps of 56 pixels a side", "gradient"),
        ),
        (
            ["aten::convolution_backward"],
            [(28, 128, 14, 14), (28, 64, 14, 14), (128, 64, 3, 3)],
            ("decoder: upsampling with its convolution", "gradient"),
        ),
        (
            ["aten::mul", "Optimizer.step#Adam.step"],
            [(3,)],
            ("optimizer, norm of the gradient", "forward"),
        ),
        (
            ["aten::native_batch_norm_backward", "autograd::engine: NativeBatchNormBackward0"],
            [(16, 64, 56, 56)],
            ("batch normalization and ReLU", "gradient"),
        ),
        (["aten::copy_"], [(3,)], ("everything else", "forward")),
    ],
)
def test_an_operation_of_pytorch_is_named_by_its_operands(modules, names, shapes, expected):
    shapes = [*shapes, (), ()] if len(shapes) > 1 else shapes
    assert modules.torch_part(names, shapes, 224) == expected


def test_a_mistake_is_one_line_and_exit_code_2():
    result = run(SCRIPT, "--crop=100")
    assert result.returncode == 2
    assert result.stderr == "error: --crop is 100; expected a multiple of 32\n"
