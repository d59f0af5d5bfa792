"""Compares networks on the same episodes: paired differences, classes, and who wins how often."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from molo_jax.analysis.intervals import Intervals, class_intervals, intervals
from molo_jax.analysis.outcome import Outcome
from molo_jax.errors import MoloError, shortened

# What makes two runs have the same episodes: the key of the header, and how it is called.
_SAME = {
    "split": "the split",
    "list_digest": "the digest of the list of videos",
    "bad_videos": "the videos left out as bad",
    "class_sizes": "the numbers of usable videos of the classes",
    "seed": "the seed of the episodes",
    "episodes": "the number of episodes",
    "n_query": "the queries of a class",
    "frame_draw": "the rule for drawing frames (frame_draw)",
    "draws": "the draws of frames of a video",
}
# What may differ, for it is compared; shown where it does.
COMPARED = {
    "title": "method",
    "backbone": "backbone",
    "trained_on": "trained on",
    "variant": "variant",
    "step": "step",
    "precision": "precision",
    "num_frames": "frames",
    "crop": "crop",
}
_NEEDED = (*_SAME, *COMPARED, "dataset", "class_names", "checkpoint")
_REMEDY = (
    "evaluate both with the same lists and settings, --config.seed among them (python -m"
    " molo_jax.main --mode=eval --config=FILE)"
)

Key = tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What a network predicted on one data set.

    Attributes:
        path: the file.
        source: what its user named: a work folder or the file.
        header: what the episodes and the network are, see `outcome_file`.
        outcomes: by way and number of shots.
        label: what it is called in tables.
    """

    path: Path
    source: str
    header: Mapping[str, Any]
    outcomes: Mapping[Key, Outcome]
    label: str = ""


@dataclasses.dataclass(frozen=True)
class Tally:
    """How often a network wins against another one, neither wins, and it loses."""

    wins: int
    ties: int
    losses: int

    @classmethod
    def of(cls, differences: np.ndarray) -> "Tally":
        """Counts the signs of differences."""
        more, less = int((differences > 0).sum()), int((differences < 0).sum())
        return cls(more, differences.size - more - less, less)

    def text(self) -> str:
        """The three numbers with slashes between them."""
        return f"{self.wins} / {self.ties} / {self.losses}"


@dataclasses.dataclass(frozen=True)
class Difference:
    """A network minus the baseline, on the same episodes.

    Attributes:
        paired: the difference of the accuracies and its intervals.
        per_class: the same of the queries of each class, by position in the split.
        episodes: in how many episodes it has more, as many and fewer correct queries.
        queries: how many queries it alone has right, both alike, and the baseline alone.
    """

    paired: Intervals
    per_class: Mapping[int, Intervals]
    episodes: Tally
    queries: Tally


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Runs that were tested on the same episodes of one data set.

    Attributes:
        dataset: its name.
        runs: the runs; the baseline is the first of them.
        cells: the ways and numbers of shots that all runs have.
        accuracies: of each run (its place) in each cell.
        differences: of each run but the baseline (its place) in each cell.
    """

    dataset: str
    runs: Sequence[Run]
    cells: Sequence[Key]
    accuracies: Mapping[tuple[int, Key], Intervals]
    differences: Mapping[tuple[int, Key], Difference]

    @property
    def header(self) -> Mapping[str, Any]:
        """What all runs have in common, of the baseline."""
        return self.runs[0].header


def compare(runs: Sequence[Run]) -> Group:
    """Compares runs with the first of them.

    Args:
        runs: at least two, of one data set.

    Raises:
        MoloError: they are not comparable; the message says why, with both values.
    """
    first = runs[0]
    for run in runs:
        missing = [key for key in _NEEDED if key not in run.header]
        if missing:
            raise MoloError(f"{run.path} does not say {missing[0]}; {_REMEDY}")
    for run in runs[1:]:
        check_comparable(first, run)
    cells = [key for key in first.outcomes if all(key in run.outcomes for run in runs)]
    if not cells:
        have = "; ".join(f"{run.path} has {_listed(run.outcomes)}" for run in runs)
        raise MoloError(f"the runs have no way and number of shots in common: {have}")
    sizes = np.asarray(first.header["class_sizes"])
    accuracies, differences = {}, {}
    for key in cells:
        base = first.outcomes[key]
        for place, run in enumerate(runs):
            other = run.outcomes[key]
            check_same_episodes(first, run, key)
            accuracies[place, key] = intervals(other, sizes)
            if place:
                values = other.correct.astype(np.float64) - base.correct
                differences[place, key] = Difference(
                    intervals(base, sizes, values),
                    class_intervals(base, sizes, values),
                    Tally.of(values.sum(axis=(1, 2))),
                    Tally.of(values),
                )
    return Group(first.header["dataset"], runs, cells, accuracies, differences)


def check_comparable(first: Run, other: Run) -> None:
    """Checks by their headers that two runs have the same episodes.

    Raises:
        MoloError: naming what differs, with both values.
    """
    for key, name in _SAME.items():
        values = first.header[key], other.header[key]
        if values[0] != values[1]:
            here, there = _both(*values)
            raise MoloError(
                f"{first.path} and {other.path} are not comparable, for they differ in {name}:"
                f" {here} and {there}; {_REMEDY}"
            )


def check_same_episodes(first: Run, other: Run, key: Key) -> None:
    """Checks that two runs took the same videos in every episode of a cell.

    Raises:
        MoloError: naming the first episode that differs.
    """
    ours, theirs = first.outcomes[key], other.outcomes[key]
    way, shot = key
    for name in ("classes", "videos"):
        one, two = getattr(ours, name), getattr(theirs, name)
        if one.shape != two.shape:
            raise MoloError(
                f"{first.path} and {other.path} are not comparable: {way}-way {shot}-shot has"
                f" {name} of shape {one.shape} and {two.shape}; {_REMEDY}"
            )
        same = (one == two).reshape(len(one), -1).all(axis=1)
        if not same.all():
            index = int(np.argmin(same))
            raise MoloError(
                f"{first.path} and {other.path} are not comparable: episode {index} of {way}-way"
                f" {shot}-shot has the {name} {one[index].tolist()} and {two[index].tolist()};"
                f" {_REMEDY}"
            )


def _listed(cells: Mapping[Key, Outcome]) -> str:
    return ", ".join(f"{way}-way {shot}-shot" for way, shot in cells) or "none"


def _both(one: Any, two: Any) -> tuple[str, str]:
    """Says two different values; of two long lists, the first entries that differ."""
    if isinstance(one, list) and isinstance(two, list):
        if len(one) != len(two):
            return f"{len(one)} entries", f"{len(two)} entries"
        place = next(i for i, (a, b) in enumerate(zip(one, two, strict=True)) if a != b)
        return tuple(f"entry {place} is {shortened(str(v[place]))}" for v in (one, two))
    if isinstance(one, dict) and isinstance(two, dict):
        only = [sorted(set(a) - set(b)) for a, b in ((one, two), (two, one))]
        names = [f" ({shortened(str(part[0]))} only there)" if part else "" for part in only]
        return tuple(f"{len(v)} entries{n}" for v, n in zip((one, two), names, strict=True))
    return tuple(shortened(v) if isinstance(v, str) else str(v) for v in (one, two))


def labelled(runs: Sequence[Run]) -> list[Run]:
    """Gives each run a label: the title of its method, and what else tells it from the others."""
    titles = [_title(run.header) for run in runs]
    names = [Path(run.source).absolute().name for run in runs]
    labels = []
    for place, run in enumerate(runs):
        alike = [i for i, title in enumerate(titles) if title == titles[place] and i != place]
        if not alike:
            labels.append(titles[place])
        elif any(names[i] == names[place] for i in alike):
            labels.append(f"{titles[place]} ({run.source})")
        else:
            labels.append(f"{titles[place]} ({names[place]})")
    return [dataclasses.replace(run, label=label) for run, label in zip(runs, labels, strict=True)]


def _title(header: Mapping[str, Any]) -> str:
    title, variant = str(header.get("title", "")), header.get("variant", "trained")
    return title if variant == "trained" else f"{title}, {variant}"
