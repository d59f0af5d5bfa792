"""The result of one way and one number of shots: accuracy, intervals, classes and mistakes."""

import dataclasses

import numpy as np
from jaxtyping import Int

from molo_jax.analysis.intervals import Intervals, class_intervals, intervals
from molo_jax.analysis.outcome import Outcome

# A query is called always wrong only if it was asked at least so many times.
FEWEST_QUESTIONS = 5


@dataclasses.dataclass(frozen=True)
class WrongQuery:
    """A query that was never classified correctly.

    Attributes:
        class_position: position of its class in the split.
        video_position: its position within the class.
        asked: in how many episodes it was a query.
        taken_for: the class that it was predicted to be most often, a position in the split.
    """

    class_position: int
    video_position: int
    asked: int
    taken_for: int


@dataclasses.dataclass(frozen=True)
class ConfusedPair:
    """A class that is taken for another one.

    Attributes:
        true: the class of the queries, a position in the split.
        predicted: the class that they are taken for.
        count: how many queries were.
        rate: what part that is of the queries in whose episodes both classes were.
    """

    true: int
    predicted: int
    count: int
    rate: float


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """What was found for one way and one number of shots.

    Attributes:
        way, shot, episodes: which episodes, and how many.
        intervals: the accuracy, and its intervals.
        seconds: how long the episodes took; None where that is not known.
        per_class: the same of the queries of each class that was drawn, by position in the split.
        confusion: how many queries of a class (row) were predicted to be of a class (column).
        together: how many queries of a class (row) were in episodes with a class (column).
        always_wrong: the queries that were never right, those asked most often first.
    """

    way: int
    shot: int
    episodes: int
    intervals: Intervals
    seconds: float | None
    per_class: dict[int, Intervals]
    confusion: Int[np.ndarray, "c c"]
    together: Int[np.ndarray, "c c"]
    always_wrong: tuple[WrongQuery, ...]

    @property
    def accuracy(self) -> float:
        """The mean over the episodes of the fraction of queries classified correctly."""
        return self.intervals.mean

    def confused_pairs(self, most: int) -> list[ConfusedPair]:
        """Returns the pairs of classes that are confused most, by their rate.

        Args:
            most: how many at most; pairs that are never confused are left out.
        """
        wrong = self.confusion * ~np.eye(len(self.confusion), dtype=bool)
        rates = wrong / np.maximum(self.together, 1)
        order = np.argsort(-rates, axis=None, kind="stable")[:most]
        pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
        return [
            ConfusedPair(int(t), int(p), int(wrong[t, p]), float(rates[t, p]))
            for t, p in pairs
            if wrong[t, p]
        ]


def summarize(
    outcome: Outcome,
    class_sizes: Int[np.ndarray, "c"],
    seconds: float | None = None,
    fewest_questions: int = FEWEST_QUESTIONS,
) -> Cell:
    """Summarizes the episodes of one way and one number of shots.

    Args:
        outcome: what was predicted; at least two episodes.
        class_sizes: the number of usable videos of each class of the split, from which the episodes
            were drawn.
        seconds: how long that took.
        fewest_questions: how often a query must have been asked to be called always wrong.
    """
    classes = len(class_sizes)
    queries = outcome.predicted.shape[2]
    confusion = _counts(outcome.classes[..., None], outcome.predicted_classes, classes)
    together = queries * _counts(outcome.classes[:, :, None], outcome.classes[:, None], classes)
    return Cell(
        way=outcome.classes.shape[1],
        shot=outcome.n_shot,
        episodes=len(outcome.classes),
        intervals=intervals(outcome, class_sizes),
        seconds=seconds,
        per_class=class_intervals(outcome, class_sizes),
        confusion=confusion,
        together=together,
        always_wrong=always_wrong(outcome, classes, fewest_questions),
    )


def always_wrong(outcome: Outcome, classes: int, fewest: int) -> tuple[WrongQuery, ...]:
    """Finds the queries that were never classified correctly, those asked most often first.

    Args:
        outcome: what was predicted.
        classes: how many classes the split has.
        fewest: how often a query must have been asked.
    """
    width = int(outcome.videos.max()) + 1
    ids = outcome.classes[..., None].astype(np.int64) * width + outcome.query_videos
    asked = np.bincount(ids.ravel(), minlength=classes * width)
    right = np.bincount(ids.ravel(), outcome.correct.ravel(), classes * width)
    found = np.flatnonzero((asked >= fewest) & (right == 0))
    found = found[np.argsort(-asked[found], kind="stable")]
    place = np.full(classes * width, -1)
    place[found] = np.arange(len(found))
    theirs = place[ids]
    keys = theirs * classes + outcome.predicted_classes
    taken = np.bincount(keys[theirs >= 0], minlength=len(found) * classes)
    taken_for = taken.reshape(len(found), classes).argmax(axis=1)
    return tuple(
        WrongQuery(int(i // width), int(i % width), int(asked[i]), int(c))
        for i, c in zip(found, taken_for, strict=True)
    )


def _counts(rows: np.ndarray, columns: np.ndarray, classes: int) -> Int[np.ndarray, "c c"]:
    """Counts pairs of classes; the rows are broadcast to the shape of the columns."""
    keys = (rows.astype(np.int64) * classes + columns).ravel()
    return np.bincount(keys, minlength=classes**2).reshape(classes, classes)
