"""What would have to change for the second class to win: the smallest such changes, in words."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from molo_jax.methods.evidence import Evidence

# More frames than these are not exchanged together: who reads the sentence looks at each of them.
_MOST_FRAMES = 3
# A stream of this name is the whole distance, so the sentence does not name it.
_WHOLE = "match"


def what_would_change(
    evidence: Mapping[str, Evidence],
    labels: np.ndarray,
    places: tuple[int, int],
    matches: tuple[Any, Any],
    margin: Mapping[str, float],
    clips: Sequence[Any],
) -> str:
    """Says what would have to change for the second class to win.

    Two changes are looked for. The first: by how much the distance of one stream to the second
    class would have to shrink; the stream with the smallest share is named. The second: which
    frames would be enough if they had to the second class the distances that they have to the best
    class; the fewest frames are named, and at most three.

    Args:
        evidence: each stream of the query, without the axis of the queries.
        labels: class of every support clip.
        places: the best and the second class among the labels.
        matches: the query against these two, each a
            :class:`~molo_jax.prediction.explanation.ClassMatch`.
        margin: each stream's part of the margin.
        clips: the support clips.

    Returns:
        One sentence.
    """
    best, second = matches
    total = sum(margin.values())
    if total <= 0:
        return f"“{best.name}” and “{second.name}” are equally near."
    ways = [_smaller(second, total)]
    where = next(i for i, clip in enumerate(clips) if clip is best.clip)
    frames = fewest_frames(evidence, labels, places, where, total)
    if frames:
        key, chosen = frames
        ways.append(_exchanged(key, chosen, evidence[key], best, second))
    ways = [way for way in ways if way]
    if ways:
        return f"“{second.name}” would win if {', or if '.join(ways)}."
    percent = _above(100 * total / second.distance, 0)
    return (
        f"“{second.name}” would win only if the whole distance to it were {percent} % smaller; no"
        f" change of one stream alone, or of {_MOST_FRAMES} frames, would be enough."
    )


def _smaller(second: Any, margin: float) -> str:
    """Says by how much a stream's distance to the second class would have to shrink."""
    needed = {key: margin / each.weight for key, each in second.streams.items() if each.weight}
    shares = {
        key: value / second.streams[key].distance
        for key, value in needed.items()
        if second.streams[key].distance > 0
    }
    if not shares:
        # A score that is no distance, such as the negative mean cosine, has no percentage.
        key = min(needed, key=needed.get)
        return f"{_distance_of(key)} to it were smaller by {_above(needed[key], 3)}"
    key = min(shares, key=shares.get)
    if shares[key] >= 1:
        return ""
    percent = 100 * shares[key]
    return f"{_distance_of(key)} to it were {_above(percent, 2 if percent < 10 else 0)} % smaller"


def _distance_of(key: str) -> str:
    return "the distance" if key == _WHOLE else f"the {key} distance"


def _above(value: float, digits: int) -> str:
    """Writes a number that is rounded up, so that what is said of it is true."""
    if 0 < value < 10.0**-digits:
        digits = 1 - math.floor(math.log10(value))
    scale = 10**digits
    return f"{(math.floor(value * scale) + 1) / scale:.{digits}f}"


def _exchanged(key: str, chosen: Sequence[int], evidence: Evidence, best: Any, second: Any) -> str:
    """Says which frames would have to match the second class as they match the best one."""
    # A stream that has one entry less than the clip has frames holds changes between two frames.
    changes = evidence.frames.shape[-2] == len(best.clip.thumbnails) - 1
    numbers = [f"{i + 1}→{i + 2}" if changes else f"{i + 1}" for i in chosen]
    several = len(numbers) > 1
    listed = f"{', '.join(numbers[:-1])} and {numbers[-1]}" if several else numbers[0]
    of_frames = f"{'frames' if several or changes else 'frame'} {listed}"
    if key == _WHOLE:
        verb, again = ("matched", "they match") if several else ("matched", "it matches")
        return f"{of_frames} {verb} “{second.name}” as {again} “{best.name}”"
    return f"the {key} of {of_frames} matched “{second.name}” as it matches “{best.name}”"


def fewest_frames(
    evidence: Mapping[str, Evidence],
    labels: np.ndarray,
    places: tuple[int, int],
    shown: int,
    margin: float,
) -> tuple[str, tuple[int, ...]] | None:
    """Finds the fewest frames of one stream whose exchange lets the second class win.

    An exchanged frame of the query has to the frames of the second class the distances that it has
    to those of the best class, which is the prototype, or the support clip that is shown. The
    stream's distance is computed again from all of its frames with the method's own metric.

    Args:
        evidence: each stream of the query.
        labels: class of every support clip.
        places: the best and the second class among the labels.
        shown: the support clip that is shown for the best class.
        margin: by how much the distance to the second class must shrink.

    Returns:
        The stream and its entries; among equally few, those that shrink the distance most. None
        where up to three frames of one stream are not enough.
    """
    found = []
    for key, each in evidence.items():
        if each.frames is None or not each.weight:
            continue
        best = each.frames[shown if each.each_clip else places[0]]
        second = each.frames[np.flatnonzero(labels == places[1]) if each.each_clip else [places[1]]]
        choices = [
            chosen
            for size in range(1, min(_MOST_FRAMES, len(best)) + 1)
            for chosen in itertools.combinations(range(len(best)), size)
        ]
        # The first is the stream as it is.
        rows = np.zeros((len(choices) + 1, len(best)), bool)
        for row, chosen in zip(rows[1:], choices, strict=True):
            row[list(chosen)] = True
        frames = np.where(rows[:, None, :, None], best, second)
        distances = np.asarray(each.metric.distance(frames)).mean(axis=1)
        gains = each.weight * (distances[0] - distances[1:])
        found += [
            (len(chosen), -gain, key, chosen)
            for chosen, gain in zip(choices, gains.tolist(), strict=True)
            if gain > margin
        ]
    if not found:
        return None
    _, _, key, chosen = min(found)
    return key, chosen
