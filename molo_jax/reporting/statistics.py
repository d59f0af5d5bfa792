"""What the report computes of results: intervals of classes, the order of a confusion, queries."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from scipy.stats import norm, t

from molo_jax.analysis.outcome import Outcome
from molo_jax.analysis.summary import Cell
from molo_jax.reporting.work_folder import Result

# How the interval of a class came about.
OVER_VIDEOS, OVER_QUERIES = "over videos", "over the queries"
# A query that was asked less often is not called hard.
_LEAST_ASKED = 5
_LEVEL = 0.975


@dataclasses.dataclass(frozen=True)
class ClassAccuracy:
    """The accuracy of one class.

    Attributes:
        name: of the class.
        accuracy: fraction of its queries that are classified correctly.
        low, high: ends of the 95 % interval; None where it is not known.
        queries: how many there were; None where that is not known.
        videos: how many videos they show; None where that is not known.
        taken_for: the class that it was most often taken for, with its share of the queries.
    """

    name: str
    accuracy: float
    low: float | None = None
    high: float | None = None
    queries: int | None = None
    videos: int | None = None
    taken_for: tuple[str, float] | None = None


def wilson(share: float, count: float, quantile: float) -> tuple[float, float]:
    """Returns the interval of a share that was measured on so many independent trials.

    Wilson (1927): the shares that a measurement of the one at hand does not refute.

    Args:
        share: 0 to 1.
        count: the number of trials; it may be no whole number.
        quantile: of the standardized difference, 1.96 for 95 %.
    """
    squared = quantile**2 / count
    middle = (share + squared / 2) / (1 + squared)
    half = quantile * math.sqrt(share * (1 - share) / count + squared / (4 * count)) / (1 + squared)
    return max(0.0, middle - half), min(1.0, middle + half)


def interval_over_videos(
    right: Float[np.ndarray, "v"], asked: Float[np.ndarray, "v"]
) -> tuple[float, float] | None:
    """Returns the 95 % interval of an accuracy whose queries share their videos.

    The variance is that of a ratio of sums over the videos (clusters). Together with the accuracy
    it gives the number of independent queries that would be as exact (Korn & Graubard 1998), with
    which :func:`wilson` gives the interval; where all are right or all are wrong, that is the
    number of videos.

    Args:
        right: correct queries of each video that was asked.
        asked: queries of each.

    Returns:
        The ends, or None with a single video.
    """
    count, total = len(asked), asked.sum()
    if count < 2:
        return None
    share = right.sum() / total
    variance = count / (count - 1) * ((right - share * asked) ** 2).sum() / total**2
    spread = share * (1 - share)
    effective = spread / variance if variance and spread else count
    return wilson(share, min(effective, total), float(t.ppf(_LEVEL, count - 1)))


def class_accuracies(
    result: Result, outcome: Outcome | None, cell: Cell | None, names: Sequence[str]
) -> tuple[list[ClassAccuracy], str]:
    """Returns the classes, the best one first, and what their intervals are over.

    Intervals over videos are those of :func:`molo_jax.analysis.intervals.class_intervals`. Where
    there is none, or all queries of a class are right (or all wrong), which shows no variance, it
    is that of :func:`interval_over_videos`.

    Args:
        result: of the file.
        outcome: what was predicted; None where it is not known.
        cell: its summary.
        names: the classes by their positions in `outcome`.
    """
    taken = _taken_for(result)
    if outcome is not None and cell is not None:
        rows, how = _of_outcome(outcome, cell, names, taken), OVER_VIDEOS
    elif result.confusion is not None:
        rows, how = _of_confusion(result, taken), OVER_QUERIES
    else:
        rows, how = [ClassAccuracy(n, value) for n, value in result.per_class.items()], ""
    return sorted(rows, key=lambda row: (-row.accuracy, row.name)), how


def _taken_for(result: Result) -> dict[str, tuple[str, float]]:
    """Returns the most frequent mistake of each class."""
    if result.confusion is None:
        return {}
    errors = result.confusion.copy()
    np.fill_diagonal(errors, 0)
    totals = result.confusion.sum(axis=1)
    return {
        name: (result.classes[errors[c].argmax()], float(errors[c].max() / totals[c]))
        for c, name in enumerate(result.classes)
        if errors[c].any()
    }


def _of_outcome(
    outcome: Outcome,
    cell: Cell,
    names: Sequence[str],
    taken: Mapping[str, tuple[str, float]],
) -> list[ClassAccuracy]:
    table = asked_queries(outcome)
    rows = []
    for position in np.unique(table["classes"]):
        own = table["classes"] == position
        right, asked = table["right"][own], table["asked"][own]
        share = float(right.sum() / asked.sum())
        half = cell.per_class[int(position)].ci95_videos
        if half is not None and 0 < share < 1:
            ends = max(0.0, share - half), min(1.0, share + half)
        else:
            ends = interval_over_videos(right, asked) or (None, None)
        name = names[position]
        rows.append(
            ClassAccuracy(name, share, *ends, int(asked.sum()), int(own.sum()), taken.get(name))
        )
    return rows


def _of_confusion(result: Result, taken: Mapping[str, tuple[str, float]]) -> list[ClassAccuracy]:
    rows = []
    for c, name in enumerate(result.classes):
        count = int(result.confusion[c].sum())
        if count:
            share = float(result.confusion[c, c] / count)
            ends = wilson(share, count, float(norm.ppf(_LEVEL)))
            rows.append(ClassAccuracy(name, share, *ends, count, None, taken.get(name)))
    return rows


def asked_queries(outcome: Outcome) -> dict[str, np.ndarray]:
    """Adds up the queries that show the same video.

    Returns:
        Arrays with one entry for each video that was asked: `classes` and `videos` (positions),
        `asked` and `right` (numbers of queries), `margins` (their mean), `taken` (the class that it
        was most often taken for, -1 where it was never taken for another).
    """
    classes = np.broadcast_to(outcome.classes[:, :, None], outcome.predicted.shape).reshape(-1)
    videos, right = outcome.query_videos.reshape(-1), outcome.correct.reshape(-1)
    predicted = outcome.predicted_classes.reshape(-1)
    pairs = np.stack([classes, videos], axis=1).astype(np.int64)
    found, inverse = np.unique(pairs, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    asked = np.bincount(inverse).astype(np.float64)
    margins = np.nan_to_num(np.asarray(outcome.margins, np.float64).reshape(-1))
    return {
        "classes": found[:, 0],
        "videos": found[:, 1],
        "asked": asked,
        "right": np.bincount(inverse, weights=right),
        "margins": np.bincount(inverse, weights=margins) / asked,
        "taken": _most_frequent(inverse[~right], predicted[~right], len(found)),
    }


def _most_frequent(
    rows: Int[np.ndarray, "n"], values: Int[np.ndarray, "n"], count: int
) -> Int[np.ndarray, "r"]:
    """Returns the most frequent value of each row, the lowest of equally frequent ones, or -1."""
    most = np.full(count, -1)
    pairs, times = np.unique(np.stack([rows, values], axis=1), axis=0, return_counts=True)
    # The last assignment to a row stays: that of the highest count and the lowest value.
    order = np.lexsort((-pairs[:, 1], times))
    most[pairs[order, 0]] = pairs[order, 1]
    return most


@dataclasses.dataclass(frozen=True)
class HardQuery:
    """A video that was asked often and seldom classified correctly.

    Attributes:
        class_position, video_position: where it is in the split.
        asked: how often it was a query.
        right: how often it was classified correctly.
        margin: the mean of the score of its class minus the best score of another.
        taken_for: position of the class that it was most often taken for; None: of none.
    """

    class_position: int
    video_position: int
    asked: int
    right: int
    margin: float
    taken_for: int | None


def hardest(outcome: Outcome, count: int) -> list[HardQuery]:
    """Returns the videos with the lowest accuracy, those with the lowest margins first."""
    table = asked_queries(outcome)
    enough = np.flatnonzero(table["asked"] >= min(_LEAST_ASKED, table["asked"].max()))
    share = (table["right"] / table["asked"])[enough]
    wrong = enough[np.lexsort((table["margins"][enough], share))]
    wrong = [i for i in wrong if table["right"][i] < table["asked"][i]]
    return [
        HardQuery(
            class_position=int(table["classes"][i]),
            video_position=int(table["videos"][i]),
            asked=int(table["asked"][i]),
            right=int(table["right"][i]),
            margin=float(table["margins"][i]),
            taken_for=None if table["taken"][i] < 0 else int(table["taken"][i]),
        )
        for i in wrong[:count]
    ]


def order_of_classes(confusion: Int[np.ndarray, "c c"]) -> list[int]:
    """Orders classes so that those that are taken for one another lie side by side.

    The order is that of the leaves of a hierarchical clustering (mean linkage, optimal order of the
    leaves; Bar-Joseph et al. 2001). Two classes are the nearer, the larger the share of the queries
    of the two is that are taken for the other.
    """
    count = len(confusion)
    if count < 3:
        return list(range(count))
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    both = shares + shares.T
    np.fill_diagonal(both, 0)
    distances = both.max() - both
    np.fill_diagonal(distances, 0)
    tree = linkage(squareform(distances, checks=False), "average", optimal_ordering=True)
    return leaves_list(tree).tolist()


@dataclasses.dataclass(frozen=True)
class Confused:
    """A class that is taken for another one.

    Attributes:
        true, predicted: names of the two classes.
        count: queries of the first that are taken for the second.
        total: queries of the first.
        possible: those of them in whose episodes the second class was a choice; None where that is
            not known.
    """

    true: str
    predicted: str
    count: int
    total: int
    possible: int | None

    @property
    def share(self) -> float:
        """The part of the queries for which the mistake was possible, as far as that is known."""
        return self.count / (self.possible or self.total)


def confused_pairs(
    result: Result, together: Int[np.ndarray, "c c"] | None, count: int
) -> list[Confused]:
    """Returns the classes that are most often taken for another one.

    Args:
        result: with its confusion.
        together: queries by true class and by class of the episode, where that is known.
        count: how many pairs at most.
    """
    if result.confusion is None:
        return []
    counts, totals = result.confusion, result.confusion.sum(axis=1)
    wrong = [(i, j) for i, j in np.argwhere(counts).tolist() if i != j]
    pairs = [
        Confused(
            true=result.classes[i],
            predicted=result.classes[j],
            count=int(counts[i, j]),
            total=int(totals[i]),
            possible=None if together is None else int(together[i, j]),
        )
        for i, j in wrong
    ]
    return sorted(pairs, key=lambda pair: (-pair.share, pair.true, pair.predicted))[:count]


def completed(result: Result, cell: Cell | None, names: Sequence[str]) -> Result:
    """Returns the result with what its file does not hold and its outcomes tell.

    Args:
        result: of the file.
        cell: the summary of the outcomes; None where there are none.
        names: the classes by their positions in the split.
    """
    if cell is None:
        return result
    intervals, changes = cell.intervals, {}
    if result.confusion is None:
        changes |= {"classes": tuple(names), "confusion": cell.confusion}
    if result.ci95_videos is None:
        changes |= {"ci95_videos": intervals.ci95_videos, "no_videos": intervals.no_videos}
    if result.ci95_classes is None:
        changes["ci95_classes"] = intervals.ci95_classes
    return dataclasses.replace(result, **changes)
