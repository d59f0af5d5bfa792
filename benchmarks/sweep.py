"""Times the evaluation of many ways and shots from a bank of features, for every method.

    python benchmarks/sweep.py

The network has random weights and the bank random features, of the shapes that the method's own
`embed` gives: by default those of 24 classes with 20 videos each, ResNet-18, 8 frames, as in the
test split of the demo. From these, 10,000 episodes of each of 5 to 10 ways and 1 to 5 shots are
drawn, matched, and summarized with all intervals, as an evaluation does. What a clip costs to
decode and to embed, once, is not in the numbers.

Methods that see tokens through inner products only take the scores from a table of these. The
others (HyRSM, HyRSM++, TRX) match episode by episode; of their episodes a part is measured, and
the seconds of all are extrapolated from that part.

Printed for each method are the seconds of all episodes and their ratio to MoLo's, what they
consist of, the size of the bank, and the peak memory of the process. Every method runs in a process
of its own. The splits of large benchmarks:

    python benchmarks/sweep.py --method=molo --videos=119 --backbone=resnet50
    python benchmarks/sweep.py --method=molo --classes=100 --videos=1000 --ways=5 --shots=1
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


def _whole(name: str, default: int, text: str, least: int = 1) -> flags.FlagHolder:
    return flags.DEFINE_integer(name, default, text, lower_bound=least)


_NUMBERS = {
    "episodes": _whole("episodes", 10_000, "Episodes of each way and number of shots.", least=2),
    "direct_episodes": _whole(
        "direct_episodes", 64, "Of each, so many are measured of a method without a table.", least=2
    ),
    "classes": _whole("classes", 24, "Classes that episodes draw from."),
    "videos": _whole("videos", 20, "Videos of a class."),
    "query": _whole("query", 1, "Query clips of a class."),
    "frames": _whole("frames", 8, "Frames of a clip."),
    "batch": _whole("batch", base_config().eval.episode_batch, "Episodes matched at once."),
    "cache_mib": _whole("cache_mib", base_config().eval.cache_mib, "Memory for features, MiB."),
    "seed": _whole("seed", 0, "Of weights, features and episodes.", least=0),
}
_METHODS = flags.DEFINE_list("method", list(METHODS), "Methods to measure, with commas.")
_WAYS = flags.DEFINE_list("ways", ["5", "6", "7", "8", "9", "10"], "Numbers of classes.")
_SHOTS = flags.DEFINE_list("shots", ["1", "2", "3", "4", "5"], "Numbers of shots.")
_BACKBONE = flags.DEFINE_enum("backbone", "resnet18", list(BACKBONES), "Its width counts.")
_JSON = flags.DEFINE_string("json", None, "File for what was measured.")

_COLUMNS = (
    *("method", "seconds", "ratio to MoLo", "draw", "match", "statistics"),
    *("measured", "table", "bank MiB", "peak MiB", "load"),
)


def main(argv: Sequence[str]) -> None:
    """Runs the benchmark with the parsed flags."""
    del argv
    options = _options()
    cells = len(options["ways"]) * len(options["shots"])
    print(
        f"{cells} settings of {options['episodes']:,} episodes, {options['query']} queries a class,"
        f" from {options['classes']} classes with {options['videos']} videos,"
        f" {options['frames']} frames, {options['backbone']}; {processor()}"
    )
    print(f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}", flush=True)
    rows: list[dict[str, Any]] = []
    for method in options["methods"]:
        with contextlib.ExitStack() as stack:
            worker = Worker("sweep", options | {"method": method})
            stack.callback(worker.stop)
            row = {"method": method} | worker.call("measure") | {"load": os.getloadavg()[0]}
        first = (rows or [row])[0]
        row["ratio"] = row["total"] / first["total"] if first["method"] == DEFAULT_METHOD else None
        rows.append(row)
        print(_line(row), flush=True)
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
    for name, flag, least in (("ways", _WAYS, 2), ("shots", _SHOTS, 1)):
        if not flag.value or not all(x.isdecimal() and int(x) >= least for x in flag.value):
            text = ",".join(flag.value)
            raise UsageError(f"--{name} is {text}; expected numbers of at least {least}")
        options[name] = [int(each) for each in flag.value]
    need = {"classes": max(options["ways"]), "videos": max(options["shots"]) + options["query"]}
    for name, least in need.items():
        if options[name] < least:
            raise UsageError(f"--{name} is {options[name]}; such episodes need at least {least}")
    if options["json"] and not Path(options["json"]).absolute().parent.is_dir():
        raise UsageError(f"--json is {options['json']}; expected a file in a folder that exists")
    return options


def _line(row: dict[str, Any]) -> str:
    cells = (
        METHODS[row["method"]].title,
        f"{row['total']:.1f}",
        "" if row["ratio"] is None else f"{row['ratio']:.2f}",
        *(f"{row[part]:.1f}" for part in ("draw", "match", "statistics")),
        f"{100 * row['measured']:.3g} %",
        "yes" if row["table"] else "no",
        *(f"{row[name] / 2**20:.0f}" for name in ("features", "peak")),
        f"{row['load']:.1f}",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    cli.run(main)
