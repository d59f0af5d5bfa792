"""Which frame of a query met which frame of a class, as lines between two rows of frames."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from molo_jax.methods.evidence import OTAM, Evidence, matched
from molo_jax.reporting.strips import SIDE, Strip

# Height of the lines between the two rows of frames, in pixels.
GAP = 84
_THIN, _THICK = 1.2, 6.0
_SOFTENED = "; the lines are the best alignment, and the method softens over all of them"


@dataclasses.dataclass(frozen=True)
class Line:
    """A matched pair: where the line begins and ends, how thick it is, what it says on hover.

    A solid line was chosen from both sides, another one from one side.
    """

    start: float
    end: float
    thickness: float
    solid: bool
    text: str


@dataclasses.dataclass(frozen=True)
class StreamDrawing:
    """A query against a class in one stream.

    Attributes:
        name: of the stream.
        share: what the stream adds to the distance.
        lines: of the matched pairs.
        text: what is drawn, for those who do not see it.
        note: how the distance is more than the lines, behind a semicolon; mostly empty.
    """

    name: str
    share: float
    lines: Sequence[Line]
    text: str
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Pairing:
    """A query against one class.

    Attributes:
        role: what the class is to the query, such as `predicted class`.
        name: of the class.
        distance: of the query to the class.
        support: the clip whose frames are shown for the class.
        note: what these frames stand for, a sentence; empty for the only clip of the class.
        streams: those that compare frames.
    """

    role: str
    name: str
    distance: float
    support: Strip
    note: str
    streams: Sequence[StreamDrawing]


def distances(evidence: Mapping[str, Evidence]) -> np.ndarray:
    """Returns the distances (q, n) of every query to every class."""
    return sum(each.weight * np.asarray(each.distances, np.float64) for each in evidence.values())


def shown_clip(evidence: Mapping[str, Evidence], query: int, own: Sequence[int]) -> int:
    """Returns which support clip of a class is shown: the nearest one, if clips are compared."""
    apart = [each for each in evidence.values() if each.frames is not None and each.each_clip]
    if not apart or len(own) == 1:
        return own[0]
    totals = sum(
        each.weight * np.asarray(each.metric.distance(np.asarray(each.frames)[query, own][None]))[0]
        for each in apart
    )
    return own[int(totals.argmin())]


def note_of(evidence: Mapping[str, Evidence], count: int) -> str:
    """Says what the shown frames stand for."""
    if count == 1:
        return ""
    if any(each.each_clip for each in evidence.values() if each.frames is not None):
        return f"Shown is the nearest of its {count} clips; the distance is the mean over them."
    return f"The lines are those to the mean of its {count} clips, of which the first is shown."


def streams_of(
    evidence: Mapping[str, Evidence],
    query: int,
    label: int,
    clip: int,
    frames: tuple[int, int],
) -> list[StreamDrawing]:
    """Draws a query against a class.

    Args:
        evidence: of the episode.
        query: number of the query.
        label: of the class.
        clip: number of the support clip that is shown.
        frames: how many frames of the query and of the clip are shown.

    Returns:
        One drawing for each stream that compares frames.
    """
    drawn = []
    for name, each in evidence.items():
        if each.frames is None:
            continue
        table = np.asarray(each.frames)[query, clip if each.each_clip else label]
        pairs = collections.Counter(matched(table, each.metric))
        lengths = [table[pair] for pair in pairs]
        low, high = float(min(lengths)), float(max(lengths))
        lines = []
        for (i, j), count in sorted(pairs.items()):
            distance = float(table[i, j])
            near = 1.0 if high == low else (high - distance) / (high - low)
            said = (
                f"{entry(i, table.shape[0], frames[0])} and {entry(j, table.shape[1], frames[1])}"
            )
            lines.append(
                Line(
                    start=_place(i, table.shape[0], frames[0]),
                    end=_place(j, table.shape[1], frames[1]),
                    thickness=_THIN + near * (_THICK - _THIN),
                    solid=count > 1 or each.metric.single_direction,
                    text=f"{said}: distance {distance:.3g}",
                )
            )
        told = "; ".join(line.text for line in lines)
        drawn.append(
            StreamDrawing(
                name,
                float(each.weight * np.asarray(each.distances)[query, label]),
                lines,
                f"Frames matched by {name}, those of the query first: {told}.",
                _SOFTENED if each.metric.name == OTAM else "",
            )
        )
    return drawn


def _place(index: int, entries: int, frames: int) -> float:
    """Returns where an entry is: in the middle of its frame, a change between its two frames."""
    if entries in (frames, frames - 1):
        return SIDE * (index + 0.5 + (frames - entries) / 2)
    return SIDE * frames * (index + 0.5) / entries


def entry(index: int, entries: int, frames: int) -> str:
    """Names an entry of a stream: a frame, or the change from one to the next."""
    return f"{index + 1}" if entries != frames - 1 else f"{index + 1}→{index + 2}"
