"""Why a clip got its class: who matched whom, what each part counted, what would change it.

Everything is computed from the same distances as the prediction, without any approximation: the
streams' weighted distances add up to a class's distance, and those of the matched frames to a
stream's (with OTAM up to its softening, which is stated).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from molo_jax.methods.evidence import Evidence, Metric, matched, matched_from_query
from molo_jax.prediction.counterfactual import what_would_change


@dataclasses.dataclass(frozen=True)
class MatchedPair:
    """A frame of the query and the frame of a class that it was compared with.

    Attributes:
        query: entry of the query's stream, from 0.
        other: entry of the class's stream, from 0.
        distance: of the two.
        count: how many of the metric's two directions use the pair, 1 or 2.
    """

    query: int
    other: int
    distance: float
    count: int


@dataclasses.dataclass(frozen=True)
class StreamMatch:
    """One stream of a clip against one class.

    Attributes:
        distance: of the stream, without its weight.
        weight: what the stream counts.
        frames: distances of every entry of the query and every entry of what the class is shown by:
            its prototype, or the clip :attr:`ClassMatch.clip` where every clip is compared by
            itself. None where the method compares no frames.
        metric: how `frames` become a distance; None where `frames` is None.
        pairs: the entries that were matched, in ascending order.
    """

    distance: float
    weight: float
    frames: np.ndarray | None
    metric: Metric | None
    pairs: tuple[MatchedPair, ...]

    @property
    def share(self) -> float:
        """What the stream adds to the distance of the class."""
        return self.weight * self.distance


@dataclasses.dataclass(frozen=True)
class ClassMatch:
    """A clip against one class.

    Attributes:
        name: of the class.
        distance: of the clip to the class.
        clip: the clip of the class that is nearest to the query; its frames are shown for the
            class.
        clips: how many clips the class has.
        note: what the shown frames stand for, a sentence.
        streams: each stream by its name.
    """

    name: str
    distance: float
    clip: Any
    clips: int
    note: str
    streams: dict[str, StreamMatch]


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Why a clip got its class.

    Attributes:
        name: of the clip.
        best: the nearest class.
        second: the second nearest class; None with one class only.
        shares: class -> stream -> what the stream adds to the distance of the class; the classes
            in the order of their distances.
        margin: stream -> its part of the margin, which is the distance of the second class minus
            that of the best. A part below 0 speaks for the second class.
        frames: stream -> what each of its entries adds to the margin: the weighted distance of the
            entry to the second class minus that to the best class. A stream without frames is
            absent.
        rest: stream -> its part of the margin beside those of the entries, which is the other
            direction, from the frames of the classes to the clip, and the softening of OTAM.
        change: what would have to change for the second class to win, a sentence; empty with one
            class.
    """

    name: str
    best: ClassMatch
    second: ClassMatch | None
    shares: dict[str, dict[str, float]]
    margin: dict[str, float]
    frames: dict[str, np.ndarray]
    rest: dict[str, float]
    change: str


def explain(classifier: Any, prediction: Any) -> Explanation:
    """Explains a prediction by the distances that it was made from.

    Args:
        classifier: the :class:`~molo_jax.prediction.classifier.Classifier` that predicted, with the
            same support set as then.
        prediction: one of its predictions.

    Returns:
        What was matched with the nearest and the second nearest class, and what that counted.
    """
    names = list(classifier.support)
    clips, labels = classifier.flat_support()
    features, query = [clip.features for clip in clips], prediction.clip.features
    embedder = classifier.embedder
    evidence = _of_one(embedder.evidence(features, labels, query, n_way=len(names)))
    by_clip = _distances_of_clips(embedder, evidence, features, labels, query)

    def against(name: str) -> ClassMatch:
        return _class_match(name, names.index(name), evidence, clips, labels, by_clip)

    totals = sum(each.weight * each.distances for each in evidence.values())
    shares = {
        names[n]: {key: float(e.weight * e.distances[n]) for key, e in evidence.items()}
        for n in np.argsort(totals, kind="stable")
    }
    best = against(prediction.nearest)
    if not prediction.runner_up:
        return Explanation(prediction.name, best, None, shares, {}, {}, {}, "")
    second = against(prediction.runner_up)
    margin = {key: second.streams[key].share - best.streams[key].share for key in evidence}
    places = names.index(best.name), names.index(second.name)
    frames = {
        key: _by_frame(each, labels, places[1]) - _by_frame(each, labels, places[0])
        for key, each in evidence.items()
        if each.frames is not None
    }
    rest = {key: margin[key] - float(each.sum()) for key, each in frames.items()}
    change = what_would_change(evidence, labels, places, (best, second), margin, clips)
    return Explanation(prediction.name, best, second, shares, margin, frames, rest, change)


def members_of(evidence: Evidence, labels: np.ndarray, label: int) -> np.ndarray:
    """Returns the entries along the second axis of `frames` that belong to a class."""
    return np.flatnonzero(labels == label) if evidence.each_clip else np.array([label])


def _of_one(evidence: Mapping[str, Evidence]) -> dict[str, Evidence]:
    """Takes away the axis of the queries, of which there is one; the arrays are NumPy's."""
    return {
        key: dataclasses.replace(
            each,
            distances=np.asarray(each.distances, np.float64)[0],
            frames=None if each.frames is None else np.asarray(each.frames)[0],
        )
        for key, each in evidence.items()
    }


def _distances_of_clips(
    embedder: Any,
    evidence: Mapping[str, Evidence],
    features: Sequence[Any],
    labels: np.ndarray,
    query: Any,
) -> np.ndarray:
    """Computes the distance of the query to each support clip by itself."""
    count = len(features)
    if count == len(set(labels.tolist())):
        # Each class has one clip, so there is nothing to choose.
        return np.zeros(count)
    if all(each.each_clip for each in evidence.values()):
        return sum(
            each.weight * np.asarray(each.metric.distance(each.frames[None]))[0]
            for each in evidence.values()
        )
    alone = _of_one(embedder.evidence(features, np.arange(count), query, n_way=count))
    return sum(each.weight * each.distances for each in alone.values())


def _class_match(
    name: str,
    label: int,
    evidence: Mapping[str, Evidence],
    clips: Sequence[Any],
    labels: np.ndarray,
    by_clip: np.ndarray,
) -> ClassMatch:
    own = np.flatnonzero(labels == label)
    nearest = int(own[by_clip[own].argmin()])
    streams = {}
    for key, each in evidence.items():
        frames = None
        if each.frames is not None:
            frames = each.frames[nearest if each.each_clip else label]
        pairs = () if frames is None else _pairs(frames, each)
        streams[key] = StreamMatch(
            float(each.distances[label]), each.weight, frames, each.metric, pairs
        )
    return ClassMatch(
        name=name,
        distance=sum(each.share for each in streams.values()),
        clip=clips[nearest],
        clips=len(own),
        note=_note(name, clips[nearest].name.rpartition("/")[2], len(own), evidence),
        streams=streams,
    )


def _note(name: str, shown: str, count: int, evidence: Mapping[str, Evidence]) -> str:
    if count == 1:
        return f"“{name}” has one clip: {shown}."
    if all(each.each_clip for each in evidence.values()):
        made = f"The distance to “{name}” is the mean of the distances to its {count} clips"
    elif all(each.frames is None for each in evidence.values()):
        made = f"The distance to “{name}” is that to its {count} clips together"
    else:
        made = f"“{name}” is compared by the mean of its {count} clips, frame by frame"
    return f"{made}. Shown is the clip of them that is nearest to this clip: {shown}."


def _pairs(frames: np.ndarray, evidence: Evidence) -> tuple[MatchedPair, ...]:
    found = matched(frames, evidence.metric)
    return tuple(
        MatchedPair(i, j, float(frames[i, j]), found.count((i, j))) for i, j in sorted(set(found))
    )


def _by_frame(evidence: Evidence, labels: np.ndarray, label: int) -> np.ndarray:
    """Computes the weighted distance of each entry of the query to its match in a class."""
    parts = []
    for member in members_of(evidence, labels, label):
        frames = evidence.frames[member].astype(np.float64)
        pairs = np.array(matched_from_query(frames, evidence.metric))
        added = frames[pairs[:, 0], pairs[:, 1]]
        parts.append(np.bincount(pairs[:, 0], weights=added, minlength=len(frames)))
    return evidence.weight * np.mean(parts, axis=0)
