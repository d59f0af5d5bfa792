"""PyTorch's side of the benchmark: its switches change speed and memory, and not the meaning."""

import dataclasses
from pathlib import Path

import pytest
import torch

from molo_jax.errors import MoloError

FOLDER = Path(__file__).parents[1] / "benchmarks"
SWITCHES = ("autocast", "channels_last", "compile", "checkpoint")
OPTIONS = {"backbone": "resnet18", "crop": 64, "frames": 2, "way": 2, "shot": 1, "query": 1}
# Largest relative errors: of each loss, and of the norm of the whole gradient, which normalizations
# over as few values as here amplify.
AUTOCAST = {"loss": 0.01, "gradient": 0.4}


@pytest.fixture
def torch_side(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import _torch

    return _torch


@dataclasses.dataclass(frozen=True)
class Pass:
    """Forward and backward of one episode; `kept` are the bytes that autograd saved between."""

    losses: dict[str, float]
    gradients: dict[str, torch.Tensor]
    statistics: dict[str, torch.Tensor]
    kept: int
    benchmark: object


def computed(torch_side, *chosen, precision="float32"):
    """Computes an episode without dropout, with some of the switches."""
    options = OPTIONS | {"episodes": 1, "precision": precision}
    options |= {switch: switch in chosen for switch in SWITCHES}
    benchmark = torch_side.Benchmark(options)
    model = benchmark._ready().train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    sizes = []

    def pack(tensor):
        sizes.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = torch_side.episode_losses(model, benchmark._episode(0), OPTIONS["way"])
    losses["total"].backward()
    return Pass(
        losses={name: value.item() for name, value in losses.items()},
        gradients={name: p.grad for name, p in model.named_parameters() if p.grad is not None},
        statistics=dict(model.named_buffers()),
        kept=sum(sizes),
        benchmark=benchmark,
    )


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """The tensors are small, and threads that wait for each other take time from other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def plain():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import _torch

        return computed(_torch)


def norm(tensors):
    return sum(t.double().square().sum() for t in tensors).sqrt().item()


def gradient_error(gradients, expected):
    assert gradients.keys() == expected.keys()
    differences = [gradients[name] - expected[name] for name in expected]
    return norm(differences) / norm(expected.values())


@pytest.mark.parametrize("switches", [("channels_last",), ("channels_last", "checkpoint")])
def test_checkpoints_and_channels_last_change_nothing(torch_side, plain, switches):
    other = computed(torch_side, *switches)
    assert other.losses == pytest.approx(plain.losses, rel=1e-5)
    assert gradient_error(other.gradients, plain.gradients) < 1e-4
    # Also the running statistics move once, though checkpoints compute every block twice.
    for name, value in plain.statistics.items():
        torch.testing.assert_close(other.statistics[name], value, rtol=1e-4, atol=1e-5)
    assert int(other.statistics["backbone.4.0.bn1.num_batches_tracked"]) == 2
    model = other.benchmark._model
    assert not model.backbone[0].weight.is_contiguous()
    assert model.backbone[4][0].bn1.momentum == 0.1
    # Only checkpoints keep less.
    assert (other.kept < 0.7 * plain.kept) == ("checkpoint" in switches)


def test_autocast_stays_within_its_bounds(torch_side, plain):
    other = computed(torch_side, "autocast", precision="bf16")
    for name, value in other.losses.items():
        assert value == pytest.approx(plain.losses[name], rel=AUTOCAST["loss"]), name
    error = gradient_error(other.gradients, plain.gradients)
    # Above the rounding of float32: bf16 is what was computed in.
    assert 1e-3 < error < AUTOCAST["gradient"]
    assert all(gradient.dtype == torch.float32 for gradient in other.gradients.values())
    assert all(array.dtype == "float32" for array in other.benchmark.scores())


def test_the_losses_leave_no_trace_in_the_statistics(torch_side):
    options = OPTIONS | {"episodes": 1, "precision": "float32"}
    benchmark = torch_side.Benchmark(options | dict.fromkeys(SWITCHES, False))
    benchmark.losses()
    assert int(benchmark._model.backbone[1].num_batches_tracked) == 0


def test_a_machine_that_cannot_compile_is_one_line(torch_side):
    with (
        torch._inductor.config.patch({"cpp.cxx": (None, "/no/such/compiler")}),
        pytest.raises(MoloError) as error,
    ):
        torch_side.check_compiler(torch.device("cpu"))
    message = str(error.value)
    assert message.startswith("torch.compile does not work on this machine (")
    assert message.endswith("install g++, or measure without the switch compile of PyTorch")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("precision", "tf32"), [("float32", False), ("tf32", True), ("bf16", True)]
)
def test_convolutions_are_tf32_unless_jax_computes_in_float32(torch_side, precision, tf32):
    before = torch.backends.cudnn.allow_tf32
    try:
        options = OPTIONS | {"episodes": 1, "precision": precision}
        torch_side.Benchmark(options | dict.fromkeys(SWITCHES, False))
        assert torch.backends.cudnn.allow_tf32 == tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = before
