"""Seconds from a cold start to the first prediction, and where they go.

    python benchmarks/prediction.py --backbone=resnet18

Makes five classes of three clips and some queries (320x240, H.264, 4 seconds), writes a network
with random weights, and runs `python -m molo_jax.predict` at crop 224:

    cold      nothing is kept from earlier runs: no compiled program, no features
    compiled  programs are there from an earlier run, features are not
    again     the same support set as before: its features are there as well, the query is new

and PyTorch with the reference network, which reads the clips with decord and embeds all of them at
once. The ratio is PyTorch's seconds divided by ours. The time of a further clip is that of a run
with four more queries, minus that of a run without these, divided by four.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from molo_jax import cli

_FOLDER = Path(__file__).parent
_BACKBONE = flags.DEFINE_enum("backbone", "resnet18", ["resnet18", "resnet50"], "The backbone.")
_CLASSES = flags.DEFINE_integer("classes", 5, "Classes.", 1)
_CLIPS = flags.DEFINE_integer("clips", 3, "Clips of a class.", 1)
_MORE = 4


def main(argv: Sequence[str]) -> None:
    """Runs the benchmark with the parsed flags."""
    del argv
    from _prediction import write_clips, write_weights

    with tempfile.TemporaryDirectory(prefix="molo-jax-prediction-") as folder:
        root = Path(folder)
        write_clips(root, _CLASSES.value, _CLIPS.value, queries=2 + _MORE)
        weights = write_weights(root / "network.pth", _BACKBONE.value)
        print(f"{_BACKBONE.value}, crop 224, {_CLASSES.value} classes of {_CLIPS.value} clips\n")
        seconds: dict[str, float] = {}
        first, second, *others = sorted((root / "queries").glob("*.mp4"))
        for name, query, arguments in (
            ("cold", [first], []),
            ("compiled", [first], ["--nocache"]),
            ("again", [second], []),
            ("more", others, []),
        ):
            seconds[name], line = ours(root, weights, query, arguments)
            if name != "more":
                print(f"{name}: {seconds[name]:.1f} s\n  {line}")
        each = (seconds["more"] - seconds["again"]) / (len(others) - 1)
        print(f"each further clip: {each:.2f} s")
        reference, line = torch_run(root, weights, first)
        print(f"PyTorch: {reference:.1f} s\n  {line}\n")
        print("| run | seconds | PyTorch's seconds divided by ours |")
        print("|---|---|---|")
        for name in ("cold", "compiled", "again"):
            print(f"| {name} | {seconds[name]:.1f} | {reference / seconds[name]:.2f} |")


def ours(root: Path, weights: Path, queries: list[Path], more: list[str]) -> tuple[float, str]:
    """Runs the command; returns its seconds as a process, and its line about them."""
    command = ["-m", "molo_jax.predict", f"--weights={weights}", f"--support={root / 'support'}"]
    command += [*(f"--videos={query}" for query in queries), *more]
    taken, output = timed(command, {"XDG_CACHE_HOME": str(root / "cache")})
    return taken, re.search(r"^seconds: (.*)$", output, re.M)[1]


def torch_run(root: Path, weights: Path, query: Path) -> tuple[float, str]:
    """The same with PyTorch."""
    script = _FOLDER / "_prediction_torch.py"
    taken, output = timed([script, weights, _BACKBONE.value, root / "support", query], {})
    return taken, output.strip()


def timed(command: Sequence[object], environment: dict[str, str]) -> tuple[float, str]:
    """Runs a program with this Python; returns its seconds and its output."""
    begin = time.perf_counter()
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )
    taken = time.perf_counter() - begin
    if result.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{result.stderr}")
    return taken, result.stdout


if __name__ == "__main__":
    cli.run(main)
