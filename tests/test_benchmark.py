"""The benchmark: its numbers fit together, and it says what is wrong with an option."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
SCRIPT = FOLDER / "train_step.py"
SIZES = {"backbone": "resnet18", "crop": 32, "frames": 2, "way": 2, "shot": 1, "query": 1}
TINY = [f"--{name}={value}" for name, value in SIZES.items()] + ["--steps=2", "--warmup=0"]
# Nothing here depends on speed: compiled in a hurry, and without a rush for the cores.
QUICK = {
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
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


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What the benchmark prints and writes for both frameworks."""
    path = tmp_path_factory.mktemp("benchmark") / "numbers.json"
    result = run(SCRIPT, *TINY, f"--json={path}", "--peak_tflops=2")
    assert result.returncode == 0, result.stderr
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    return result.stdout, json.loads(path.read_text())


@pytest.fixture
def modules(monkeypatch):
    """The benchmark's modules, as the script imports them."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import train_step

    return train_step


@pytest.mark.parametrize("phase", ["evaluation", "training"])
def test_the_printed_ratio_is_the_quotient_of_the_printed_rates(measured, phase):
    printed, numbers = measured
    rates = {
        name: float(re.search(rf"{phase}, {name}: (\S+) episodes/s", printed)[1])
        for name in ("jax", "torch")
    }
    found = re.search(rf"{phase}, jax / torch: (\S+) \((\S+) to (\S+) step by step\)", printed)
    ratio, low, high = map(float, found.groups())
    assert ratio == pytest.approx(rates["jax"] / rates["torch"], rel=1e-3)
    assert low <= high
    recorded = numbers[phase]
    assert recorded["ratio"] == pytest.approx(ratio, rel=1e-3)
    seconds = [recorded[name]["seconds_per_episode"] for name in ("jax", "torch")]
    pairs = [theirs / ours for ours, theirs in zip(*seconds, strict=True)]
    assert recorded["ratio_range"] == pytest.approx([min(pairs), max(pairs)])
    assert len(pairs) == 2


def test_the_rates_of_operations_follow_from_their_number_and_the_peak(measured):
    _, numbers = measured
    for phase in ("evaluation", "training"):
        for name in ("jax", "torch"):
            measurement = numbers[phase][name]
            flops = numbers["flops_per_episode"][phase]
            tflops = flops * measurement["episodes_per_second"] / 1e12
            assert measurement["tflops"] == pytest.approx(tflops)
            assert measurement["fraction_of_peak"] == pytest.approx(tflops / 2)


def test_both_compute_the_same_before_they_are_timed(measured):
    printed, numbers = measured
    assert "same computation: loss" in printed
    assert 0 <= numbers["difference"]["loss"] < 1e-4
    assert numbers["difference"]["scores"] < 1e-4
    assert numbers["devices"]["jax"]["parameters"] == numbers["devices"]["torch"]["parameters"]
    # The network alone is larger than this, and so is each process.
    least = 4 * numbers["devices"]["jax"]["parameters"]
    assert all(memory["bytes"] > least for memory in numbers["peak_memory"].values())


def test_different_computations_are_refused(modules):
    class Fake:
        def __init__(self, total, score=5.0):
            scores = torch.full((2,), 7.0), torch.tensor([score, -1.0])
            losses = {"total": total}
            self.answers = {"tensors": {}, "load": None, "losses": losses, "scores": scores}

        def call(self, name, *values):
            return self.answers[name]

    options = {"precision": "fp32", "frames": 2}
    devices = {name: {"platform": "cpu"} for name in ("jax", "torch")}
    for same in (Fake(3.0), Fake(3.0002), Fake(3.0, score=5.0004)):
        workers = {"jax": same, "torch": Fake(3.0)}
        modules._check_agreement(options, workers, devices)
    for other in (Fake(3.0004), Fake(float("nan")), Fake(3.0, score=5.0006)):
        workers = {"jax": other, "torch": Fake(3.0)}
        with pytest.raises(modules.MoloError, match="do not compute the same"):
            modules._check_agreement(options, workers, devices)
    devices["torch"] = {"platform": "gpu"}
    with pytest.raises(modules.MoloError, match="JAX computes on the cpu and PyTorch on the gpu"):
        modules._check_agreement(options, workers, devices)


def test_operations_counted_from_shapes_are_those_of_a_real_pass(modules):
    import _torch
    from _episodes import random_episodes

    benchmark = _torch.Benchmark(
        SIZES | {"episodes": 1, "precision": "fp32", "compile": False, "channels_last": True}
    )
    arrays = random_episodes(SIZES | {"episodes": 1})
    assert arrays["support"].shape == (1, 2, 2, 32, 32, 3)
    counted = _torch.count_flops(SIZES)
    with _torch.FlopCounterMode(display=False) as counter:
        model = benchmark._ready().train()
        _torch.episode_losses(model, benchmark._episode(0), SIZES["way"])["total"].backward()
    assert counted["training"] == counter.get_total_flops()
    with _torch.FlopCounterMode(display=False) as counter:
        benchmark.scores()
    assert counted["evaluation"] == counter.get_total_flops()
    assert counted["training"] > 2 * counted["evaluation"]


def test_channels_last_changes_nothing_but_the_memory_format(modules):
    import _torch

    both = []
    for channels_last in (False, True):
        options = SIZES | {"episodes": 1, "precision": "fp32", "compile": False}
        both.append(_torch.Benchmark(options | {"channels_last": channels_last}))
    plain, other = (benchmark.losses() for benchmark in both)
    assert plain == pytest.approx(other, rel=1e-5)
    kernels = [benchmark._model.backbone[0].weight for benchmark in both]
    assert [k.is_contiguous() for k in kernels] == [True, False]
    # The losses leave no trace in the statistics.
    assert int(both[0]._model.backbone[1].num_batches_tracked) == 0


def test_jax_is_measured_where_pytorch_is_not_installed(tmp_path):
    program = (
        "import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:];"
        f"sys.path.insert(0, {str(FOLDER)!r}); runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    path = tmp_path / "jax.json"
    alone = run("-c", program, SCRIPT, *TINY, "--frameworks=jax", f"--json={path}")
    assert alone.returncode == 0, alone.stderr
    assert "floating-point operations are not counted: that takes PyTorch" in alone.stdout
    assert list(json.loads(path.read_text())["training"]) == ["jax"]
    both = run("-c", program, SCRIPT, *TINY)
    assert both.returncode == 2
    assert both.stderr.startswith("error: torch is not installed; install PyTorch")
    assert "--frameworks=jax" in both.stderr
    assert both.stderr.count("\n") == 1


def test_a_failure_in_a_worker_is_one_line(modules):
    options = SIZES | {"precision": "fp32", "backbone": "resnet7", "episodes": 1}
    with pytest.raises(modules.MoloError, match="torch: ValueError: backbone 'resnet7' is unknown"):
        modules.Worker("torch", options)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--way=0", "--way is 0; expected at least 1"),
        ("--way=65", "--way is 65; expected at most 64"),
        ("--crop=33", "--crop is 33; expected a multiple of 32"),
        ("--frames=20", "--frames is 20; expected 2 to 19"),
        ("--microbatch=2", "--microbatch is 2; expected a divisor of --episodes, 1"),
        ("--steps=0", "--steps is 0; expected at least 1"),
        ("--steps=many", "argument --steps: invalid int value: 'many'"),
        ("--precision=bf16", "argument --precision: invalid choice: 'bf16'"),
        ("--backbone=vgg", "argument --backbone: invalid choice: 'vgg'"),
        ("--frameworks=jax,tf", "--frameworks is jax,tf; expected jax, torch or jax,torch"),
        ("--peak_tflops=0", "--peak_tflops is 0.0; expected a positive number"),
        ("--json=/no/such/folder/x", "--json is /no/such/folder/x; expected a file in a folder"),
        ("--speed", "unrecognized arguments: --speed"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(modules, capsys, option, message):
    assert modules.main([option]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"error: {message}")
    assert output.err.count("\n") == 1


def test_options_for_pytorch_need_pytorch(modules, capsys):
    assert modules.main(["--frameworks=jax", "--compile"]) == 2
    assert "--compile changes PyTorch alone" in capsys.readouterr().err


def test_peaks_are_known_by_the_name_of_the_device(modules):
    def peak(name, precision, given=None, platform="gpu"):
        devices = {"jax": {"device": name, "platform": platform}}
        return modules._peak({"precision": precision, "peak_tflops": given}, devices)

    assert peak("NVIDIA H100 80GB HBM3", "tf32") == peak("NVIDIA H200", "tf32") == 494.5
    assert peak("NVIDIA A100-SXM4-80GB", "fp32") == 19.5
    assert peak("NVIDIA GeForce RTX 4090", "tf32") == 82.6
    assert peak("NVIDIA H100 PCIe", "fp32") is None
    assert peak("NVIDIA H100 PCIe", "fp32", given=51.0) == 51.0
    assert peak("AMD EPYC, 2 cores", "fp32", platform="cpu") is None


def test_the_benchmark_does_not_import_tensorflow():
    program = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import train_step, _jax, _torch;"
    result = run("-c", program + "print('tensorflow' in sys.modules)")
    assert result.stdout == "False\n", result.stderr
