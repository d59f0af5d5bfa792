"""Times the evaluation of episodes from embedded clips, for every method.

    python benchmarks/matching.py

The network has random weights and the clips have random features, of the shapes that the method's
own `embed` gives: by default those of 24 classes with 20 clips each, ResNet-18, 8 frames. From
these, 5-way episodes with one query a class are drawn and matched as in an evaluation. What a clip
costs to decode and to embed is not in the numbers.

Printed for each method and number of shots are the seconds of all episodes, their ratio to MoLo's,
and what they consist of:

    compile   of the program that matches a batch of episodes, once
    draw      choosing the classes and the clips of the episodes
    gather    reading the features of the clips of every episode, measured by itself
    match     the program without that
    rest      positions of the clips, copies, and the score

and the memory that the program needs beside its arguments, that of the features, and the peak of
the process. Every method runs in a process of its own. With an accelerator JAX uses that.
"""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _workers import Worker, processor
from absl import flags

from molo_jax import cli
from molo_jax.backbones import BACKBONES
from molo_jax.config import base_config
from molo_jax.errors import UsageError
from molo_jax.files import write_json
from molo_jax.methods.settings import DEFAULT_METHOD, METHODS

# What the seconds of a row consist of.
PARTS = ("compile", "draw", "gather", "match", "rest")


def _whole(name: str, default: int, text: str, least: int = 1) -> flags.FlagHolder:
    return flags.DEFINE_integer(name, default, text, lower_bound=least)


_NUMBERS = {
    "episodes": _whole("episodes", 10_000, "Episodes for each number of shots.", least=2),
    "classes": _whole("classes", 24, "Classes that episodes draw from."),
    "videos": _whole("videos", 20, "Clips of a class."),
    "way": _whole("way", 5, "Classes of an episode."),
    "query": _whole("query", 1, "Query clips of a class."),
    "frames": _whole("frames", 8, "Frames of a clip."),
    "batch": _whole(
        "batch", base_config().eval.episode_batch, "Episodes that are matched at once."
    ),
    "seed": _whole("seed", 0, "Of weights, features and episodes.", least=0),
}
_METHODS = flags.DEFINE_list("method", list(METHODS), "Methods to measure, with commas.")
_SHOTS = flags.DEFINE_list("shots", ["1", "5"], "Numbers of shots, with commas.")
_BACKBONE = flags.DEFINE_enum("backbone", "resnet18", list(BACKBONES), "Its width counts.")
_JSON = flags.DEFINE_string("json", None, "File for what was measured.")


def main(argv: Sequence[str]) -> None:
    """Runs the benchmark with the parsed flags."""
    del argv
    options = _options()
    print(
        f"{options['episodes']:,} {options['way']}-way episodes, {options['query']} queries a"
        f" class, from {options['classes']} classes with {options['videos']} clips of"
        f" {options['frames']} frames, {options['backbone']}; {options['batch']} episodes at once;"
        f" {processor()}"
    )
    print(_HEAD, flush=True)
    rows: list[dict[str, Any]] = []
    for method in options["methods"]:
        rows += _measured(method, options, rows)
    if options["json"]:
        write_json(Path(options["json"]), {"options": options, "rows": rows})


def _options() -> dict[str, Any]:
    options = {name: flag.value for name, flag in _NUMBERS.items()}
    options |= {"backbone": _BACKBONE.value, "json": _JSON.value}
    named = _METHODS.value
    if not named or not set(named) <= set(METHODS) or len(set(named)) < len(named):
        raise UsageError(f"--method is {','.join(named)}; expected some of {','.join(METHODS)}")
    # MoLo first: the others are compared with it.
    options["methods"] = sorted(named, key=lambda name: (name != DEFAULT_METHOD, named.index(name)))
    if not _SHOTS.value or not all(each.isdecimal() and int(each) for each in _SHOTS.value):
        raise UsageError(f"--shots is {','.join(_SHOTS.value)}; expected numbers of at least 1")
    options["shots"] = [int(each) for each in _SHOTS.value]
    need = max(options["shots"]) + options["query"]
    for name, least in (("classes", options["way"]), ("videos", need)):
        if options[name] < least:
            raise UsageError(f"--{name} is {options[name]}; such episodes need at least {least}")
    for name in options["methods"]:
        known = METHODS[name]
        if not known.least_frames <= options["frames"] <= (known.most_frames or options["frames"]):
            raise UsageError(
                f"--frames is {options['frames']}; {known.title} takes {known.least_frames} to"
                f" {known.most_frames}"
            )
    if options["json"] and not Path(options["json"]).absolute().parent.is_dir():
        raise UsageError(f"--json is {options['json']}; expected a file in a folder that exists")
    return options


def _measured(
    method: str, options: dict[str, Any], before: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Measures a method in a process of its own; prints and returns its rows."""
    rows = []
    with contextlib.ExitStack() as stack:
        worker = Worker("matching", options | {"method": method})
        stack.callback(worker.stop)
        for shot in options["shots"]:
            row = {"method": method, "shot": shot} | worker.call("measure", shot)
            # What the program does beside reading the features.
            row["gather"] = min(row["gather"], row["match"])
            row["match"] -= row["gather"]
            row["dominates"] = max(PARTS, key=row.__getitem__)
            row["load"] = os.getloadavg()[0]
            reference = [r for r in (*before, row) if (r["method"], r["shot"]) == ("molo", shot)]
            row["ratio"] = row["total"] / reference[0]["total"] if reference else None
            print(_line(row), flush=True)
            rows.append(row)
    return rows


_COLUMNS = (
    *("method", "shots", "seconds", "ratio to MoLo", *PARTS, "dominates", "CPU seconds"),
    *("program MiB", "features MiB", "peak MiB", "load"),
)
_HEAD = f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}"


def _line(row: dict[str, Any]) -> str:
    def mib(name: str) -> str:
        return "" if row[name] is None else f"{row[name] / 2**20:.0f}"

    cells = (
        METHODS[row["method"]].title,
        str(row["shot"]),
        f"{row['total']:.1f}",
        "" if row["ratio"] is None else f"{row['ratio']:.2f}",
        *(f"{row[part]:.1f}" for part in PARTS),
        row["dominates"],
        f"{row['cpu']:.1f}",
        *(mib(name) for name in ("program", "features", "peak")),
        f"{row['load']:.1f}",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    cli.run(main)
