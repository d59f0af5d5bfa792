"""Times a training step and an evaluation forward of MoLo in JAX and in PyTorch.

    python benchmarks/train_step.py --backbone=resnet18 --crop=32 --query=1

Both compute the same: the same random episodes and initial weights, all losses, Adam, dropout.
First it is checked that they agree: with dropout off, the losses of the first episode in training
mode and its scores in evaluation mode. Then they take turns, each in a process of its own and on
one device. --variants compares several settings of JAX, each with its counterpart in PyTorch:

    python benchmarks/train_step.py --crop=224 --query=6 --variants=tf32,bf16:eager,bf16,bf16+blocks

A row is PRECISION[+REMAT][:SWITCHES OF PYTORCH]. Without a colon, bf16 is compared with autocast
in channels-last memory, and recomputation with checkpoints; `eager` is PyTorch as it comes, with
TF32 convolutions on a GPU unless JAX computes in float32. Printed are episodes a second (median
over the counted steps), the ratio of JAX to PyTorch, peak memory, and the utilization: operations
of the network a second as a part of the peak rate of the device. The operations are those of
`python -m molo_jax.summary`: forward and backward, without what is computed again.

Peak memory is that of the accelerator, or of the process (libraries and compilation included) on a
CPU. PyTorch computes the episodes of a step one after another; JAX computes --microbatch of them at
once. No video is read and TensorFlow is not imported, but for the end-to-end mode:

    python benchmarks/train_step.py --crop=32 --query=1 --end_to_end

It trains JAX in the project's loop on prepared videos (--data; by default the generated ones, which
are made first), and compares with the same steps on arrays that are on the device already.

On a CPU that other programs use too, set OMP_WAIT_POLICY=passive: otherwise the threads of PyTorch
that wait for each other take the time of those they wait for, and it is many times slower.
"""

import argparse
import contextlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import _report
from _agreement import check_agreement
from _episodes import CLASSES
from _report import FRAMEWORKS
from _variants import SWITCHES, Variant, parse, variant
from _workers import Worker

from molo_jax.errors import MoloError, UsageError
from molo_jax.files import write_json
from molo_jax.nn.precision import PRECISIONS
from molo_jax.nn.remat import REMATS

PHASES = ("evaluation", "training")
_TITLES = {"training": "training step", "evaluation": "evaluation forward"}
# (name, options) -> a process that answers `call`.
_MakeWorker = Callable[[str, dict[str, Any]], Worker]


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    try:
        options = _options(arguments)
        _run(options)
    except MoloError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
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
    add("--frameworks", help="jax, torch, or both with a comma (default)")
    add("--precision", choices=tuple(PRECISIONS), help="of JAX; default float32")
    add("--remat", choices=tuple(REMATS), help="what JAX computes again; default none")
    add("--variants", help="several rows with commas, instead of --precision and --remat")
    add("--torch_autocast", action="store_true", help="PyTorch in bf16 by autocast")
    add("--channels_last", action="store_true", help="channels-last memory in PyTorch")
    add("--torch_compile", action="store_true", help="compile PyTorch's model by torch.compile")
    add("--torch_checkpoint", action="store_true", help="checkpoints at PyTorch's residual blocks")
    add("--peak", help="peak rate of the device as 989TFLOPS, where it is not known")
    add("--end_to_end", action="store_true", help="JAX alone, with the input pipeline")
    add("--data", metavar="FOLDER", help="prepared videos of the end-to-end mode")
    add("--dataset", help="which data set of that folder, where it holds several")
    add("--workers", type=int, default=0, help="threads that decode; 0: one for each core")
    add("--json", metavar="FILE", help="where to write what was measured")
    options = vars(parser.parse_args(arguments))
    _check_numbers(options, BACKBONES[options["backbone"]].stride)
    options["end_to_end"] |= options["data"] is not None
    options["peak"] = _given_peak(options["peak"])
    options["frameworks"] = _frameworks(options)
    options["variants"] = _variants(options)
    _check_end_to_end(options)
    if options["json"]:
        path = Path(options["json"]).absolute()
        if path.is_dir() or not path.parent.is_dir():
            raise UsageError(
                f"--json is {options['json']}; expected a file in a folder that exists"
            )
    return options


def _check_numbers(options: dict[str, Any], stride: int) -> None:
    for name in ("way", "shot", "query", "episodes", "microbatch", "steps", "warmup", "workers"):
        least = 0 if name in ("warmup", "workers") else 1
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


def _given_peak(text: str | None) -> float | None:
    from molo_jax.summary import sustained_rate

    return None if text is None else sustained_rate(text, 1.0)


def _frameworks(options: dict[str, Any]) -> list[str]:
    text = options["frameworks"]
    if text is None:
        text = "jax" if options["end_to_end"] else "jax,torch"
    names = text.split(",")
    if not set(names) <= set(FRAMEWORKS) or len(set(names)) < len(names):
        raise UsageError(f"--frameworks is {text}; expected jax, torch or jax,torch")
    if options["end_to_end"] and names != ["jax"]:
        raise UsageError(
            f"--frameworks is {text}; the end-to-end mode measures jax alone, for PyTorch's side"
            " has no input pipeline"
        )
    for flag in SWITCHES.values():
        if options[flag] and "torch" not in names:
            raise UsageError(f"--{flag} changes PyTorch alone; add torch to --frameworks")
    for module in ("torch", "molo_torch_ref"):
        if "torch" in names and importlib.util.find_spec(module) is None:
            raise UsageError(
                f"{module} is not installed; install PyTorch and this project with"
                " pip install --editable '.[torch]', or measure JAX alone with --frameworks=jax"
            )
    return [name for name in FRAMEWORKS if name in names]


def _variants(options: dict[str, Any]) -> list[Variant]:
    extra = [switch for switch, flag in SWITCHES.items() if options[flag]]
    text = options["variants"]
    if text is None:
        return [variant(options["precision"] or "float32", options["remat"] or "none", extra)]
    for flag in ("precision", "remat"):
        if options[flag]:
            raise UsageError(f"--{flag} is part of every row of --variants; leave out one of them")
    if ":" in text and "torch" not in options["frameworks"]:
        raise UsageError(
            f"--variants is {text}; what is behind a colon changes PyTorch alone, which is not"
            " measured"
        )
    return parse(text, extra)


def _check_end_to_end(options: dict[str, Any]) -> None:
    if not options["end_to_end"]:
        if options["dataset"] or options["workers"]:
            name = "dataset" if options["dataset"] else "workers"
            raise UsageError(f"--{name} is of the end-to-end mode; add --end_to_end or --data")
        return
    if options["dataset"] and not options["data"]:
        raise UsageError("--dataset chooses among the data sets of --data; name that folder too")
    if options["warmup"] < 1:
        raise UsageError("--warmup is 0; expected at least 1, for the first step compiles")
    if options["peak"]:
        raise UsageError("--peak is for utilization, which the end-to-end mode does not show")


def _run(options: dict[str, Any], make_worker: _MakeWorker = Worker) -> None:
    """Measures every variant, prints the tables, and writes the file.

    Raises:
        MoloError: a variant failed; the others are shown all the same.
    """
    rows, failures = [], []
    result: dict[str, Any] = {"options": options | {"variants": _written(options["variants"])}}
    if options["end_to_end"]:
        from _prepared import prepared_data

        sizes = options | prepared_data(options)
        measure = _measure_end_to_end
    else:
        result["operations_per_episode"] = operations = _operations(options, make_worker)
        sizes = options | {"operations": operations}
        measure = _measure
    for each in options["variants"]:
        try:
            rows.append(measure(sizes, each, make_worker))
        except MoloError as error:
            failures.append(f"{each.jax}: {error}")
            if len(options["variants"]) > 1:
                print(f"failed: {failures[-1]}", flush=True)
    if rows:
        print(_tables(options, rows))
    if options["json"]:
        write_json(Path(options["json"]), result | {"rows": rows})
    if failures:
        several = len(options["variants"]) > 1
        many = f"{len(failures)} of {len(options['variants'])} variants failed: "
        raise MoloError(f"{many if several else ''}{'; '.join(failures)}")


def _written(variants: list[Variant]) -> list[dict[str, str]]:
    return [{"jax": each.jax, "torch": each.torch} for each in variants]


def _operations(options: dict[str, Any], make_worker: _MakeWorker) -> dict[str, int]:
    worker = make_worker("operations", options)
    try:
        found = worker.call("count")
    finally:
        worker.stop()
    clips = options["way"] * (options["shot"] + options["query"])
    print(
        f"{options['backbone']}, crop {options['crop']}, {options['frames']} frames,"
        f" {options['way']}-way {options['shot']}-shot {options['query']} queries a class ({clips}"
        f" clips an episode), {options['episodes']} episodes a step, {options['microbatch']} at"
        f" once in JAX\nfloating-point operations an episode: training"
        f" {found['training'] / 1e9:.2f} G (forward and backward, without recomputation),"
        f" evaluation {found['evaluation'] / 1e9:.2f} G",
        flush=True,
    )
    return found


def _measure(options: dict[str, Any], each: Variant, make_worker: _MakeWorker) -> dict[str, Any]:
    """Measures one variant, and says on which devices."""
    row: dict[str, Any] = {"variant": _written([each])[0]}
    options = options | each.options()
    with contextlib.ExitStack() as stack:
        workers = {}
        for name in options["frameworks"]:
            workers[name] = make_worker(name, options)
            stack.callback(workers[name].stop)
        row["devices"] = devices = {name: w.call("describe") for name, w in workers.items()}
        for name, device in devices.items():
            written = f"{_report.NAMES[name]} {device['version']}, {row['variant'][name]}"
            parameters = f"{device['parameters'] / 1e6:.1f} M parameters"
            print(f"{written}: {parameters} on {device['device']}", flush=True)
        if each.precision == "tf32" and any(d["platform"] == "cpu" for d in devices.values()):
            print("note: a CPU has no TF32; what is measured there is float32")
        if len(workers) == 2:
            row["difference"] = check_agreement(options, workers, devices)
        peaks = _peaks(options, each, devices)
        # Recomputation is for gradients.
        for phase in PHASES if each.remat == "none" else PHASES[1:]:
            seconds = _take_turns(workers, phase, options)
            row[phase] = _report.rates(seconds, options["operations"][phase], peaks)
        row["peak_memory"] = {name: w.call("peak_memory") for name, w in workers.items()}
    return row


def _measure_end_to_end(
    options: dict[str, Any], each: Variant, make_worker: _MakeWorker
) -> dict[str, Any]:
    worker = make_worker("end_to_end", options | each.options())
    try:
        device, found = worker.call("describe"), worker.call("measure")
    finally:
        worker.stop()
    count = f"{device['count']} device(s): " if device["count"] > 1 else ""
    print(f"JAX {device['version']}, {each.jax} on {count}{device['device']}", flush=True)
    return {"variant": {"jax": each.jax}, "devices": {"jax": device}, "end_to_end": found}


def _peaks(
    options: dict[str, Any], each: Variant, devices: dict[str, dict[str, Any]]
) -> dict[str, float | None]:
    """Peak rate of each side: the given one, or the known one for the side's own precision."""
    precisions = {"jax": each.precision, "torch": each.torch_precision}
    return {
        name: options["peak"]
        or _report.peak_rate(device["device"], device["platform"], precisions[name])
        for name, device in devices.items()
    }


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


def _tables(options: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    if options["end_to_end"]:
        return f"\n{_report.end_to_end_table(rows)}"
    names, parts = options["frameworks"], []
    for phase in reversed(PHASES):
        if any(phase in row for row in rows):
            parts.append(f"{_TITLES[phase]}\n{_report.table(phase, rows, names)}")
    of = {memory["of"] for row in rows for memory in row["peak_memory"].values()}
    return "\n" + "\n\n".join([*parts, f"peak memory is that of {' or '.join(sorted(of))}"])


if __name__ == "__main__":
    sys.exit(main())
