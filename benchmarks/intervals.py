"""How often the intervals of an evaluation hold the truth, on simulated videos.

    python benchmarks/intervals.py --classes=24 --classes=5 --videos=20 --repetitions=300

Videos are points around the mean of their class, and the class with the nearest mean of the
support set is predicted. Each repetition draws new videos, episodes of them, and computes the
intervals. The truth is the accuracy on videos (or on classes) that are drawn anew for every
episode. Printed is in how many of 100 repetitions the intervals hold it, with their mean half width
in percentage points: those over episodes (the convention of the field), over videos and over
classes, the same for the difference of two networks on the same episodes, and that over videos of
the accuracy of a class.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from molo_jax import cli
from molo_jax.console import Progress
from molo_jax.errors import UsageError
from molo_jax.files import write_json

_CLASSES = flags.DEFINE_multi_integer("classes", [24, 5], "Classes of the split.", 2)
_VIDEOS = flags.DEFINE_integer("videos", 20, "Videos of a class; the most of them.", 2)
_LEAST = flags.DEFINE_integer("least_videos", None, "The fewest videos of a class; default: all.")
_WAY = flags.DEFINE_integer("way", 5, "Classes of an episode.", 2)
_SHOTS = flags.DEFINE_multi_integer("shots", [1, 5], "Support videos of a class.", 1)
_EPISODES = flags.DEFINE_multi_integer("episodes", [1000], "Episodes of an evaluation.", 2)
_SEPARATIONS = flags.DEFINE_multi_float(
    "separations",
    [0.0, 0.4, 1.0],
    "How far the classes are apart, as a part of how far the videos of a class are; 0 is chance.",
    0.0,
)
_REPETITIONS = flags.DEFINE_integer("repetitions", 100, "Simulated evaluations of each kind.", 1)
_JSON = flags.DEFINE_string("json", None, "File that everything is written to.")

_TITLES = {
    "field": "over episodes",
    "videos": "over videos",
    "classes": "over classes",
    "paired videos": "difference, over videos",
    "paired classes": "difference, over classes",
    "a class": "a class, over videos",
}


def main(argv: Sequence[str]) -> None:
    """Runs the benchmark with the parsed flags."""
    del argv
    least = _VIDEOS.value if _LEAST.value is None else _LEAST.value
    needed = max(_SHOTS.value) + 1
    if not needed <= least <= _VIDEOS.value:
        raise UsageError(
            f"--least_videos={least}: expected {needed} (for {max(_SHOTS.value)}-shot with 1 query)"
            f" to {_VIDEOS.value}"
        )
    if min(_CLASSES.value) < _WAY.value:
        raise UsageError(
            f"--classes={min(_CLASSES.value)}: expected at least --way={_WAY.value} classes"
        )
    # SciPy is imported here, for which a mistake in the flags should not have to wait.
    from _simulated import Case, measure

    cases = [
        Case(classes, (least, _VIDEOS.value), _WAY.value, shot, episodes, separation)
        for episodes in _EPISODES.value
        for classes in _CLASSES.value
        for shot in _SHOTS.value
        for separation in _SEPARATIONS.value
    ]
    print(f"{_WAY.value}-way, {least} to {_VIDEOS.value} videos of a class,", end=" ")
    print(f"{_REPETITIONS.value} repetitions\n")
    head = ["classes", "shots", "episodes", "accuracy", *_TITLES.values()]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    found = []
    with Progress("simulated", "cases", len(cases)) as bar:
        for case in cases:
            measured = measure(case, _REPETITIONS.value)
            found.append({"case": dataclasses.asdict(case), "found": measured})
            row = [case.classes, case.shot, f"{case.episodes:,}"]
            row += [f"{100 * measured['accuracy']:.0f} %"]
            row += [_cell(*measured[kind]) for kind in _TITLES]
            print(f"| {' | '.join(map(str, row))} |", flush=True)
            bar.update(1)
    if _JSON.value is not None:
        write_json(Path(_JSON.value), {"repetitions": _REPETITIONS.value, "cases": found})


def _cell(inside: float | None, half: float | None) -> str:
    return "–" if inside is None or half is None else f"{inside:.1f} (± {100 * half:.1f})"


if __name__ == "__main__":
    cli.run(main)
