"""Times a training step and an evaluation forward of MoLo in JAX and in PyTorch.

    python benchmarks/train_step.py --backbone=resnet18 --crop=32 --query=1

Both compute the same: the same random episodes and initial weights, all losses, Adam, dropout.
First it is checked that they agree: with dropout off, the losses of the first episode in training
mode and its scores in evaluation mode. Then they take turns, each in a process of its own and on
one device. Printed are episodes a second (median over the counted steps, with their range), the
ratio of JAX to PyTorch, the rate of floating-point operations with its share of the device's peak,
and peak memory.

Floating-point operations are those of the convolutions and matrix products of molo_torch_ref, so
one number holds for both. Peak memory is that of the accelerator, or of the process (libraries and
compilation included) on a CPU. PyTorch computes the episodes of a step one after another; JAX
computes --microbatch of them at once. No video is read and TensorFlow is not imported.

On a CPU that other programs use too, set OMP_WAIT_POLICY=passive: otherwise the threads of PyTorch
that wait for each other take the time of those they wait for, and it is many times slower.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import re
import statistics
import sys
from pathlib import Path
from typing import Any, NoReturn

from _episodes import CLASSES
from _workers import Worker

from molo_jax.errors import MoloError, UsageError

FRAMEWORKS = ("jax", "torch")
PHASES = ("evaluation", "training")
# Largest relative difference of the losses, and of the scores, that counts as the same computation.
# TF32 products have 10 bits of mantissa, 13 fewer than float32.
AGREEMENT = {"fp32": 1e-4, "tf32": 2e-2}
# Dense peak rates in TFLOP/s, by a pattern for the device's name.
PEAKS = {
    r"H200(?! NVL)|H100.*HBM3(?! NVL)": {"fp32": 67.0, "tf32": 494.5},
    r"A100": {"fp32": 19.5, "tf32": 156.0},
    r"RTX 4090": {"fp32": 82.6, "tf32": 82.6},
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    try:
        options = _options(arguments)
        _run(options)
    except MoloError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; --help lists the options")


def _options(arguments: list[str] | None) -> dict[str, Any]:
    # Not above: the workers import this module too, and PyTorch's is to do without JAX.
    from molo_jax.backbones import BACKBONES

    parser = _Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--backbone", choices=BACKBONES, default="resnet18")
    add("--crop", type=int, default=32, help="side of the square input, pixels")
    add("--frames", type=int, default=8, help="frames of a clip")
    add("--way", type=int, default=5, help="classes of an episode")
    add("--shot", type=int, default=1, help="support clips of a class")
    add("--query", type=int, default=1, help="query clips of a class")
    add("--episodes", type=int, default=1, help="episodes of an optimizer step")
    add("--microbatch", type=int, default=1, help="episodes that JAX computes at once")
    add("--steps", type=int, default=20, help="counted steps")
    add("--warmup", type=int, default=3, help="steps before them, not counted")
    add("--frameworks", default="jax,torch", help="jax, torch, or both with a comma")
    add("--compile", action="store_true", help="compile the PyTorch model with torch.compile")
    add("--channels_last", action="store_true", help="channels-last memory in PyTorch")
    add("--precision", choices=tuple(AGREEMENT), default="fp32", help="tf32: on a GPU only")
    add("--peak_tflops", type=float, help="peak rate of the device, where it is not known")
    add("--json", metavar="FILE", help="where to write what was measured")
    options = vars(parser.parse_args(arguments))
    _check_numbers(options, BACKBONES[options["backbone"]].stride)
    options["frameworks"] = _frameworks(options)
    if options["json"]:
        path = Path(options["json"]).absolute()
        if path.is_dir() or not path.parent.is_dir():
            raise UsageError(
                f"--json is {options['json']}; expected a file in a folder that exists"
            )
    return options


def _check_numbers(options: dict[str, Any], stride: int) -> None:
    for name in ("way", "shot", "query", "episodes", "microbatch", "steps", "warmup"):
        least = 0 if name == "warmup" else 1
        if options[name] < least:
            raise UsageError(f"--{name} is {options[name]}; expected at least {least}")
    if options["way"] > CLASSES:
        raise UsageError(f"--way is {options['way']}; expected at most {CLASSES}")
    if options["crop"] < stride or options["crop"] % stride:
        raise UsageError(f"--crop is {options['crop']}; expected a multiple of {stride}")
    if not 2 <= options["frames"] <= 19:
        raise UsageError(f"--frames is {options['frames']}; expected 2 to 19")
    if options["episodes"] % options["microbatch"]:
        raise UsageError(
            f"--microbatch is {options['microbatch']}; expected a divisor of --episodes,"
            f" {options['episodes']}"
        )
    peak = options["peak_tflops"]
    if peak is not None and not 0 < peak < float("inf"):
        raise UsageError(f"--peak_tflops is {peak}; expected a positive number")


def _frameworks(options: dict[str, Any]) -> list[str]:
    names = options["frameworks"].split(",")
    if not set(names) <= set(FRAMEWORKS) or len(set(names)) < len(names):
        raise UsageError(
            f"--frameworks is {options['frameworks']}; expected jax, torch or jax,torch"
        )
    for option in ("compile", "channels_last"):
        if options[option] and "torch" not in names:
            raise UsageError(f"--{option} changes PyTorch alone; add torch to --frameworks")
    for module in ("torch", "molo_torch_ref"):
        if "torch" in names and importlib.util.find_spec(module) is None:
            raise UsageError(
                f"{module} is not installed; install PyTorch and this project with"
                " pip install --editable '.[torch]', or measure JAX alone with --frameworks=jax"
            )
    return [name for name in FRAMEWORKS if name in names]


def _run(options: dict[str, Any]) -> None:
    with contextlib.ExitStack() as stack:
        workers = {}
        for name in options["frameworks"]:
            workers[name] = Worker(name, options)
            stack.callback(workers[name].stop)
        devices = {name: worker.call("describe") for name, worker in workers.items()}
        _announce(options, devices)
        result = {"options": options, "devices": devices}
        if len(workers) == 2:
            result["difference"] = _check_agreement(options, workers, devices)
        result["flops_per_episode"] = flops = _flops(options)
        peak = _peak(options, devices)
        for phase in PHASES:
            seconds = _take_turns(workers, phase, options)
            result[phase] = _rates(seconds, flops and flops[phase], peak)
            _print_rates(phase, result[phase])
        result["peak_memory"] = {name: w.call("peak_memory") for name, w in workers.items()}
        for name, memory in result["peak_memory"].items():
            print(f"peak memory of {memory['of']}, {name}: {memory['bytes'] / 2**20:.0f} MiB")
    if options["json"]:
        _write(Path(options["json"]), result)


def _announce(options: dict[str, Any], devices: dict[str, dict[str, Any]]) -> None:
    clips = options["way"] * (options["shot"] + options["query"])
    parameters = next(iter(devices.values()))["parameters"]
    print(
        f"{options['backbone']}, {parameters / 1e6:.1f} M parameters, crop {options['crop']}, "
        f"{options['frames']} frames, {options['way']}-way {options['shot']}-shot "
        f"{options['query']} queries a class ({clips} clips an episode), "
        f"{options['episodes']} episodes a step, {options['microbatch']} at once in JAX, "
        f"{options['precision']}"
    )
    for name, device in devices.items():
        eager = "" if name == "jax" else ", compiled" if options["compile"] else ", eager"
        last = ", channels last" if name == "torch" and options["channels_last"] else ""
        print(f"{name} {device['version']}{eager}{last} on {device['device']}")
    if options["precision"] == "tf32" and any(d["platform"] == "cpu" for d in devices.values()):
        print("note: a CPU has no TF32; what is measured there is fp32")


def _check_agreement(
    options: dict[str, Any], workers: dict[str, Worker], devices: dict[str, dict[str, Any]]
) -> dict[str, float]:
    """Gives both the same weights, and compares what they compute on the first episode."""
    platforms = [devices[name]["platform"] for name in FRAMEWORKS]
    if platforms[0] != platforms[1]:
        raise MoloError(
            f"JAX computes on the {platforms[0]} and PyTorch on the {platforms[1]}, which is no"
            " comparison; install both for the GPU, or set JAX_PLATFORMS=cpu and"
            " CUDA_VISIBLE_DEVICES= for the CPU"
        )
    workers["torch"].call("load", workers["jax"].call("tensors"))
    ours, theirs = (workers[name].call("losses") for name in FRAMEWORKS)
    worst = max(ours, key=lambda name: _relative(ours[name], theirs[name]))
    scores, expected = (workers[name].call("scores") for name in FRAMEWORKS)
    # Match scores are sums over frames of 1 - cosine: however small, they are rounded as the 1 is.
    units = options["frames"], abs(expected[1]).max()
    errors = [abs(a - b).max() / u for a, b, u in zip(scores, expected, units, strict=True)]
    difference = {
        "loss": _relative(ours["total"], theirs["total"]),
        "worst_term": _relative(ours[worst], theirs[worst]),
        "scores": max(map(float, errors)),
    }
    limit = AGREEMENT[options["precision"]]
    print(
        f"same computation: loss {ours['total']:.6f} and {theirs['total']:.6f}, relative difference"
        f" {difference['loss']:.1e}, of the worst term ({worst}) {difference['worst_term']:.1e},"
        f" of the scores {difference['scores']:.1e}; at most {limit:.0e}"
    )
    # Not "any above": a difference that is no number is too large as well.
    if not all(value <= limit for value in difference.values()):
        raise MoloError(
            f"JAX and PyTorch do not compute the same: {difference} relative difference, expected"
            f" at most {limit:.0e}"
        )
    return difference


def _relative(value: float, reference: float) -> float:
    return abs(value - reference) / max(abs(reference), 1e-30)


def _take_turns(
    workers: dict[str, Worker], phase: str, options: dict[str, Any]
) -> dict[str, list[float]]:
    """Seconds an episode of every counted step; who begins changes from step to step."""
    for worker in workers.values():
        for _ in range(options["warmup"]):
            worker.call("run", phase)
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    order = list(workers)
    for _ in range(options["steps"]):
        for name in order:
            seconds[name].append(workers[name].call("run", phase) / options["episodes"])
        order.reverse()
    return seconds


def _flops(options: dict[str, Any]) -> dict[str, int] | None:
    if any(importlib.util.find_spec(name) is None for name in ("torch", "molo_torch_ref")):
        print("floating-point operations are not counted: that takes PyTorch")
        return None
    import _torch

    flops = _torch.count_flops(options)
    print(
        "floating-point operations an episode (convolutions and matrix products of molo_torch_ref,"
        f" for both): training {flops['training'] / 1e9:.2f} G, evaluation"
        f" {flops['evaluation'] / 1e9:.2f} G"
    )
    return flops


def _peak(options: dict[str, Any], devices: dict[str, dict[str, Any]]) -> float | None:
    """Peak rate in TFLOP/s: the given one, or the known one of an accelerator."""
    if options["peak_tflops"]:
        return options["peak_tflops"]
    device = next(iter(devices.values()))
    known = [peaks for name, peaks in PEAKS.items() if re.search(name, device["device"])]
    return known[0][options["precision"]] if known and device["platform"] == "gpu" else None


def _rates(
    seconds: dict[str, list[float]], flops: int | None, peak: float | None
) -> dict[str, Any]:
    """Rates from the seconds an episode, with the ratio of JAX to PyTorch."""
    rates: dict[str, Any] = {}
    for name, each in seconds.items():
        rate = 1 / statistics.median(each)
        tflops = flops * rate / 1e12 if flops else None
        rates[name] = {
            "seconds_per_episode": each,
            "episodes_per_second": rate,
            "tflops": tflops,
            "fraction_of_peak": tflops / peak if tflops and peak else None,
        }
    if len(seconds) == 2:
        pairs = [t / j for j, t in zip(seconds["jax"], seconds["torch"], strict=True)]
        rates["ratio"] = rates["jax"]["episodes_per_second"] / rates["torch"]["episodes_per_second"]
        rates["ratio_range"] = [min(pairs), max(pairs)]
    return rates


def _print_rates(phase: str, rates: dict[str, Any]) -> None:
    for name in FRAMEWORKS:
        if name not in rates:
            continue
        each, rate = rates[name]["seconds_per_episode"], rates[name]["episodes_per_second"]
        line = (
            f"{phase}, {name}: {rate:.5g} episodes/s ({1 / max(each):.5g} to {1 / min(each):.5g}),"
            f" {1 / rate:.4g} s an episode"
        )
        if rates[name]["tflops"]:
            line += f", {rates[name]['tflops']:.4g} TFLOP/s"
        if rates[name]["fraction_of_peak"]:
            line += f", {rates[name]['fraction_of_peak']:.1%} of the peak"
        print(line)
    if "ratio" in rates:
        low, high = rates["ratio_range"]
        print(f"{phase}, jax / torch: {rates['ratio']:.4g} ({low:.4g} to {high:.4g} step by step)")


def _write(path: Path, result: dict[str, Any]) -> None:
    """Writes the file whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(json.dumps(result, indent=1) + "\n")
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise MoloError(f"cannot write {path}: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
