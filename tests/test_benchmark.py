"""The benchmark: its numbers fit together, and it says what is wrong with an option."""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from molo_jax import training_cost as summary
from molo_jax.config import base_config
from molo_jax.errors import MoloError
from molo_jax.nn.precision import current

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
SCRIPT = FOLDER / "train_step.py"
SIZES = {"backbone": "resnet18", "crop": 32, "frames": 2, "way": 2, "shot": 1, "query": 1}
TINY = [f"--{name}={value}" for name, value in SIZES.items()] + ["--steps=2", "--warmup=0"]
TITLES = {"evaluation": "evaluation forward", "training": "training step"}
BOTH = ("jax", "torch")
# `conftest.py` has set how programs are compiled. Without a rush for the cores.
QUICK = {
    "OMP_WAIT_POLICY": "passive",
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONPATH": str(ROOT),
}


def run(*command):
    environment = os.environ | QUICK
    return subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, env=environment
    )


def table(printed, title):
    """The cells of the rows of a table, without its head."""
    lines = printed.split(f"\n{title}\n")[1].split("\n\n")[0].splitlines()
    return [re.split(r" {2,}", line) for line in lines[1:]]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What the benchmark prints and writes for both frameworks."""
    path = tmp_path_factory.mktemp("benchmark") / "numbers.json"
    result = run(SCRIPT, *TINY, f"--json={path}", "--peak=2TFLOPS")
    assert result.returncode == 0, result.stderr
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    return result.stdout, json.loads(path.read_text())


@pytest.fixture
def modules(monkeypatch):
    """The benchmark's modules, as the script imports them."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import train_step

    return train_step


@pytest.mark.parametrize("phase", TITLES)
def test_the_printed_ratio_is_the_quotient_of_the_printed_rates(measured, phase):
    printed, numbers = measured
    (cells,), (row,) = table(printed, TITLES[phase]), numbers["rows"]
    assert cells[:2] == ["float32", "eager float32"] == list(row["variant"].values())
    ours, theirs, ratio = map(float, cells[2:5])
    assert ratio == pytest.approx(ours / theirs, rel=1e-2)
    recorded = row[phase]
    assert recorded["ratio"] == pytest.approx(ratio, rel=1e-2)
    seconds = [recorded[name]["seconds_per_episode"] for name in BOTH]
    pairs = [theirs / ours for ours, theirs in zip(*seconds, strict=True)]
    assert recorded["ratio_range"] == pytest.approx([min(pairs), max(pairs)])
    assert len(pairs) == 2


@pytest.mark.parametrize("phase", TITLES)
def test_the_utilization_follows_from_the_operations_and_the_peak(measured, phase):
    printed, numbers = measured
    operations = numbers["operations_per_episode"][phase]
    (cells,), (row,) = table(printed, TITLES[phase]), numbers["rows"]
    for name, shown in zip(BOTH, cells[-2:], strict=True):
        found = row[phase][name]
        assert found["utilization"] == operations * found["episodes_per_second"] / 2e12
        assert found["tflops"] == pytest.approx(2 * found["utilization"])
        assert shown == f"{100 * found['utilization']:.1f} %"


def test_both_compute_the_same_before_they_are_timed(measured):
    printed, numbers = measured
    assert "same computation: loss" in printed
    (row,) = numbers["rows"]
    assert 0 <= row["difference"]["loss"] < 1e-4
    assert 0 <= row["difference"]["scores"] < 1e-4
    ours, theirs = (row["devices"][name]["parameters"] for name in BOTH)
    assert ours == theirs
    # The network alone is larger than this, and so is each process.
    peaks = [row["peak_memory"][name]["bytes"] for name in BOTH]
    assert min(peaks) > 4 * ours
    (cells,) = table(printed, "training step")
    assert cells[6:8] == [f"{peak / 2**20:.0f}" for peak in peaks]


def test_jax_trains_in_the_precision_and_with_the_recomputation_of_the_variant(
    modules, monkeypatch
):
    import _jax

    given = {}
    monkeypatch.setattr(_jax, "make_train_step", lambda *_, **named: given.update(named))
    variant = {"precision": "bf16", "remat": "full"}
    benchmark = _jax.Benchmark(SIZES | variant | {"episodes": 2, "microbatch": 1})
    benchmark._training()
    assert given["precision"] == _jax.PRECISIONS["bf16"]
    assert given["remat"] == "full"
    seen = []
    monkeypatch.setattr(_jax.nnx, "merge", lambda *_, **named: Seeing(seen))
    benchmark._forward(benchmark._params, benchmark._stats, benchmark._episode(0))
    assert [each.name for each in seen] == ["bf16"]


class Seeing:
    """Stands in for a network: notes the precision that it is traced in."""

    def __init__(self, seen):
        self.seen, self.scores, self.class_logits = seen, self, jnp.zeros(2)
        self.match = self.class_logits

    def forward(self, *_, **named):
        self.seen.append(current())
        return self


class Planted:
    """Stands in for a process: PyTorch takes three times as long as JAX."""

    seconds: dict[str, float] = {"jax": 0.25, "torch": 0.75}  # noqa: RUF012
    unable: tuple[str, ...] = ()

    def __init__(self, name, options):
        self.name, self.options = name, options
        if name == "torch" and any(options[switch] for switch in self.unable):
            raise MoloError("torch: torch.compile does not work on this machine (no g++)")

    def call(self, method, *values):
        device = "NVIDIA H100 80GB HBM3"
        scores = torch.full((2,), 7.0), torch.tensor([5.0, -1.0])
        return {
            "count": {"training": 8 * 10**12, "evaluation": 2 * 10**12},
            "describe": {"version": "1", "platform": "gpu", "device": device, "parameters": 1},
            "tensors": {},
            "load": None,
            "losses": {"total": 3.0},
            "scores": scores,
            "run": self.seconds.get(self.name),
            "peak_memory": {"bytes": len(self.name) * 2**20, "of": "the accelerator"},
        }[method]

    def stop(self):
        pass


def test_a_slow_counterpart_shows_in_the_ratio_and_a_known_device_in_the_utilization(
    modules, capsys, tmp_path
):
    path = tmp_path / "numbers.json"
    options = ["--variants=tf32,bf16:eager,bf16", "--episodes=2", f"--json={path}"]
    modules._run(modules._options(options), Planted)
    printed = capsys.readouterr().out
    # 4 times two episodes a second, 8e12 operations each: 64e12 of 494.5e12 and 989e12.
    rates = ["8", "2.667", "3", "3 to 3", "3", "5"]
    tf32, bf16 = 100 * 64e12 / 494.5e12, 100 * 64e12 / 989e12
    assert table(printed, "training step") == [
        ["tf32", "eager tf32", *rates, f"{tf32:.1f} %", f"{tf32 / 3:.1f} %"],
        ["bf16", "eager tf32", *rates, f"{bf16:.1f} %", f"{tf32 / 3:.1f} %"],
        ["bf16", "autocast+channels_last", *rates, f"{bf16:.1f} %", f"{bf16 / 3:.1f} %"],
    ]
    found = json.loads(path.read_text())["rows"][1]["training"]
    assert found["jax"]["utilization"] == pytest.approx(64e12 / 989e12)
    assert found["torch"]["utilization"] == pytest.approx(64e12 / 3 / 494.5e12)
    assert printed.endswith("peak memory is that of the accelerator\n")


def test_a_variant_that_fails_is_named_and_the_others_are_shown(modules, capsys, monkeypatch):
    monkeypatch.setattr(Planted, "unable", ("compile",))
    monkeypatch.setattr(modules._run, "__defaults__", (Planted,))
    assert modules.main(["--variants=bf16:compile,tf32"]) == 1
    output = capsys.readouterr()
    assert [row[0] for row in table(output.out, "training step")] == ["tf32"]
    assert output.err == (
        "error: 1 of 2 variants failed: bf16: torch: torch.compile does not work on this machine"
        " (no g++)\n"
    )
    assert modules.main(["--torch_compile"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_different_computations_are_refused(modules):
    import _agreement

    class Fake:
        def __init__(self, total, score=5.0):
            scores = torch.full((2,), 7.0), torch.tensor([score, -1.0])
            losses = {"total": total}
            self.answers = {"tensors": {}, "load": None, "losses": losses, "scores": scores}

        def call(self, name, *values):
            return self.answers[name]

    options = {"precision": "float32", "frames": 2}
    devices = {name: {"platform": "cpu"} for name in BOTH}
    for same in (Fake(3.0), Fake(3.0002), Fake(3.0, score=5.0004)):
        workers = {"jax": same, "torch": Fake(3.0)}
        _agreement.check_agreement(options, workers, devices)
    for other in (Fake(3.0004), Fake(float("nan")), Fake(3.0, score=5.0006)):
        workers = {"jax": other, "torch": Fake(3.0)}
        with pytest.raises(MoloError, match="do not compute the same"):
            _agreement.check_agreement(options, workers, devices)
        if other.answers["losses"]["total"] == 3.0004:
            _agreement.check_agreement(options | {"precision": "bf16"}, workers, devices)
    devices["torch"] = {"platform": "gpu"}
    with pytest.raises(MoloError, match="JAX computes on the cpu and PyTorch on the gpu"):
        _agreement.check_agreement(options, workers, devices)


def test_the_operations_are_those_that_the_summary_counts(modules, monkeypatch):
    import _operations
    from _episodes import CLASSES

    # One context is enough: the operations depend on none.
    for name in ("PRECISIONS", "REMATS"):
        monkeypatch.setattr(summary, name, {"any": contextlib.nullcontext})
    config = base_config()
    config.model.backbone, config.data.crop, config.data.num_frames = "resnet18", 32, 2
    config.train.update(n_way=2, n_shot=1, n_query=1)
    flops = summary.training_cost(config, CLASSES, summary.Device())["flops"]["episode"]
    counted = _operations.count_operations(SIZES)
    assert counted["training"] == flops["forward"] + flops["backward"]
    # Of the forward pass, evaluation leaves out the decoder alone.
    assert 0.8 * flops["forward"] < counted["evaluation"] < flops["forward"]


def test_the_operations_of_an_evaluation_are_those_of_the_reference(modules):
    import _operations
    import _torch

    sizes = SIZES | {"crop": 64}
    switches = dict.fromkeys(("autocast", "channels_last", "compile", "checkpoint"), False)
    benchmark = _torch.Benchmark(sizes | switches | {"episodes": 1, "precision": "float32"})
    with FlopCounterMode(display=False) as counter:
        benchmark.scores()
    counted = _operations.count_operations(sizes)["evaluation"]
    assert counted == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_jax_is_measured_where_pytorch_is_not_installed(tmp_path):
    program = (
        "import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:];"
        f"sys.path.insert(0, {str(FOLDER)!r}); runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    path = tmp_path / "jax.json"
    alone = run("-c", program, SCRIPT, *TINY, "--frameworks=jax", f"--json={path}")
    assert alone.returncode == 0, alone.stderr
    assert [row[0] for row in table(alone.stdout, "training step")] == ["float32"]
    (row,) = json.loads(path.read_text())["rows"]
    assert list(row["training"]) == ["jax"]
    assert row["training"]["jax"]["tflops"] > 0
    both = run("-c", program, SCRIPT, *TINY)
    assert both.returncode == 2
    assert both.stderr.startswith("error: torch is not installed; install PyTorch")
    assert "--frameworks=jax" in both.stderr
    assert both.stderr.count("\n") == 1


def test_a_failure_in_a_worker_is_one_line(modules):
    options = SIZES | {"precision": "float32", "backbone": "resnet7", "compile": False}
    with pytest.raises(MoloError, match="torch: ValueError: backbone 'resnet7' is unknown"):
        modules.Worker("torch", options | {"episodes": 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--way=0", "--way is 0; expected at least 1"),
        ("--way=65", "--way is 65; expected at most 64"),
        ("--crop=33", "--crop is 33; expected a multiple of 32"),
        ("--frames=20", "--frames is 20; expected 2 to 19"),
        ("--microbatch=2", "--microbatch is 2; expected a divisor of --episodes, 1"),
        ("--steps=0", "--steps is 0; expected at least 1"),
        ("--steps=many", "argument --steps: invalid int value: 'many'"),
        ("--precision=fp16", "argument --precision: invalid choice: 'fp16'"),
        ("--remat=all", "argument --remat: invalid choice: 'all'"),
        ("--backbone=vgg", "argument --backbone: invalid choice: 'vgg'"),
        ("--frameworks=jax,tf", "--frameworks is jax,tf; expected jax, torch or jax,torch"),
        ("--peak=0TFLOPS", "--peak=0TFLOPS: expected a number above 0 with its unit"),
        ("--peak=989", "--peak=989: expected a number above 0 with its unit (TFLOPS"),
        ("--json=/no/such/folder/x", "--json is /no/such/folder/x; expected a file in a folder"),
        ("--speed", "unrecognized arguments: --speed"),
        ("--frameworks=jax --torch_compile", "--torch_compile changes PyTorch alone"),
        ("--end_to_end --channels_last", "--channels_last changes PyTorch alone"),
        ("--frameworks=jax --variants=bf16:eager", "--variants is bf16:eager; what is behind a"),
        ("--torch_autocast", "autocast of PyTorch computes in bf16, and JAX is to compute in fl"),
        ("--variants=tf32:autocast", "autocast of PyTorch computes in bf16"),
        ("--variants=bf16 --remat=blocks", "--remat is part of every row of --variants"),
        ("--variants=bf16:eager --torch_compile", "--torch_compile would change the rows"),
        ("--variants=half", "--variants has 'half'; expected PRECISION or PRECISION+REMAT"),
        ("--variants=bf16+", "--variants has 'bf16+'; expected PRECISION or PRECISION+REMAT"),
        ("--variants=bf16:fast", "--variants has 'bf16:fast'; behind the colon eager is expected"),
        ("--variants=bf16,bf16", "--variants has bf16 beside PyTorch in autocast+channels_last t"),
        ("--end_to_end --frameworks=torch", "--frameworks is torch; the end-to-end mode measures"),
        ("--end_to_end --warmup=0", "--warmup is 0; expected at least 1, for the first step"),
        ("--end_to_end --peak=1TFLOPS", "--peak is for utilization"),
        ("--end_to_end --dataset=ucf101", "--dataset chooses among the data sets of --data"),
        ("--workers=2", "--workers is of the end-to-end mode; add --end_to_end or --data"),
        ("--data=/no/such/folder", "--data is /no/such/folder, which holds no prepared videos"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(modules, capsys, options, message):
    assert modules.main(options.split()) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"error: {message}")
    assert output.err.count("\n") == 1


def test_the_flags_of_pytorch_are_added_to_the_counterpart(modules):
    def rows(*options):
        return [(each.jax, each.torch) for each in modules._options(options)["variants"]]

    assert rows() == [("float32", "eager float32")]
    assert rows("--precision=bf16") == [("bf16", "autocast+channels_last")]
    assert rows("--remat=full", "--channels_last") == [
        ("float32+full", "channels_last+checkpoint float32")
    ]
    assert rows("--variants=bf16:eager,bf16:compile+autocast,tf32", "--torch_compile") == [
        ("bf16", "eager tf32"),
        ("bf16", "autocast+compile"),
        ("tf32", "compile tf32"),
    ]


def test_peaks_are_known_by_the_name_of_the_device(modules):
    from _report import peak_rate

    assert peak_rate("NVIDIA H100 80GB HBM3", "gpu", "bf16") == 989e12
    assert peak_rate("NVIDIA H200", "gpu", "tf32") == 494.5e12
    assert peak_rate("NVIDIA H100 PCIe", "gpu", "tf32") == 378e12
    assert peak_rate("NVIDIA A100-SXM4-80GB", "gpu", "float32") == 19.5e12
    assert peak_rate("NVIDIA GeForce RTX 4090", "gpu", "bf16") == 165.2e12
    assert peak_rate("NVIDIA L4", "gpu", "bf16") == 121e12
    for other in ("NVIDIA H100 NVL", "NVIDIA L40S", "NVIDIA GeForce RTX 3090 Ti"):
        assert peak_rate(other, "gpu", "bf16") is None
    assert peak_rate("AMD EPYC, 2 cores", "cpu", "bf16") is None


def test_the_benchmark_does_not_import_tensorflow():
    names = "train_step, _jax, _torch, _operations, _prepared"
    program = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import {names};"
    result = run("-c", program + "print('tensorflow' in sys.modules)")
    assert result.stdout == "False\n", result.stderr
