"""Simulated evaluations: a video is a point, and the nearest class mean of the support set wins.

Letters: e episodes, w way, k shots, q queries of a class, c classes, v videos of a class, d numbers
of a video.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from molo_jax.analysis.intervals import class_intervals, intervals
from molo_jax.analysis.outcome import Outcome

_WIDTH = 16
# How many of these numbers two networks see, which are compared.
_SEEN = _WIDTH, 12
# Episodes and queries of fresh videos of which the truth is the mean.
_TRUTH_EPISODES, _TRUTH_QUERIES = 10_000, 10
# How often the videos of the same classes are drawn anew: the truth is computed once for them.
_DRAWS = 5


@dataclasses.dataclass(frozen=True)
class Case:
    """What is simulated.

    Attributes:
        classes: how many the split has.
        videos: the fewest and the most videos of a class.
        way, shot, query, episodes: the episodes.
        separation: standard deviation of a number of a class mean; that of a video of a class is 1.
            With 0 the network is at chance.
    """

    classes: int
    videos: tuple[int, int]
    way: int
    shot: int
    episodes: int
    separation: float
    query: int = 1


def draw_episodes(
    random: np.random.Generator, case: Case, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draws classes (e, w) and videos (e, w, k + q), both without repetition."""
    shape = case.episodes, case.way
    classes = _without_repetition(random, np.full(case.episodes, case.classes), case.way)
    videos = _without_repetition(random, sizes[classes].ravel(), case.shot + case.query)
    return classes, videos.reshape(*shape, -1)


def _without_repetition(random: np.random.Generator, limits: np.ndarray, count: int) -> np.ndarray:
    """Draws `count` different numbers below each limit: (len(limits), count)."""
    drawn = np.empty((len(limits), count), np.int64)
    for place in range(count):
        number = random.integers(0, limits - place)
        for before in np.sort(drawn[:, :place], axis=1).T:
            number += number >= before
        drawn[:, place] = number
    return drawn


def predicted(classes: np.ndarray, videos: np.ndarray, shot: int, points: np.ndarray) -> Outcome:
    """Predicts the queries of all episodes from inner products of the points (c, v, d)."""
    flat = points.reshape(-1, points.shape[-1])
    products = flat @ flat.T
    ids = classes[..., None] * points.shape[1] + videos
    support, query = ids[..., :shot], ids[..., shot:]
    scores = (
        -sum(products[support[..., i], support[..., j]] for i in range(shot) for j in range(shot))[
            :, None, None
        ]
        / shot**2
    )
    for i in range(shot):
        scores = scores + 2 / shot * products[query[..., None], support[:, None, None, :, i]]
    return Outcome(classes, videos, shot, scores.argmax(-1), np.zeros(query.shape))


def truth(
    random: np.random.Generator, case: Case, means: np.ndarray | None = None
) -> list[tuple[float, np.ndarray]]:
    """The accuracy of both networks on fresh videos, as a whole and of each class (c,).

    Args:
        random: draws the videos.
        case: the episodes.
        means: of the classes (c, d); None for fresh classes in each episode.
    """
    shape = _TRUTH_EPISODES, case.way
    if means is None:
        classes = np.zeros(shape, int)
        centers = random.standard_normal((*shape, _WIDTH), np.float32) * case.separation
    else:
        classes = _without_repetition(random, np.full(shape[0], case.classes), case.way)
        centers = means[classes].astype(np.float32)
    noise = random.standard_normal((*shape, _WIDTH), np.float32) / np.sqrt(np.float32(case.shot))
    prototypes = centers + noise
    queries = random.standard_normal((*shape, _TRUTH_QUERIES, _WIDTH), np.float32)
    queries = (queries + centers[:, :, None]).reshape(shape[0], -1, _WIDTH)
    labels = np.repeat(np.arange(case.way), _TRUTH_QUERIES)
    count = np.maximum(np.bincount(classes.ravel(), minlength=case.classes), 1)
    found = []
    for seen in _SEEN:
        near = prototypes[..., :seen]
        scores = 2 * queries[..., :seen] @ near.transpose(0, 2, 1)
        scores -= np.square(near).sum(-1)[:, None]
        right = (scores.argmax(-1) == labels).reshape(*shape, -1).mean(-1)
        each = np.bincount(classes.ravel(), right.ravel(), case.classes) / count
        found.append((float(right.mean()), each))
    return found


def repeat(
    random: np.random.Generator, case: Case, general: Sequence[float]
) -> Iterator[dict[str, Any]]:
    """Simulates evaluations of two networks on the same classes.

    Args:
        random: draws all there is.
        case: what is simulated.
        general: the accuracy of both networks on fresh classes.

    Yields:
        The accuracy of the first network, and for each kind of interval pairs of an error and half
        a width; none for a kind that is not given.
    """
    means = random.standard_normal((case.classes, _WIDTH)) * case.separation
    true = truth(random, case, means)
    for _ in range(_DRAWS):
        low, high = case.videos
        sizes = random.integers(low, high + 1, case.classes)
        points = means[:, None] + random.standard_normal((case.classes, high, _WIDTH))
        drawn = draw_episodes(random, case, sizes)
        first, second = (predicted(*drawn, case.shot, points[..., :seen]) for seen in _SEEN)
        one = intervals(first, sizes)
        both = intervals(first, sizes, first.correct - second.correct.astype(float))
        pairs = {
            "field": (one.mean - true[0][0], one.ci95),
            "videos": (one.mean - true[0][0], one.ci95_videos),
            "classes": (one.mean - general[0], one.ci95_classes),
            "paired videos": (both.mean - true[0][0] + true[1][0], both.ci95_videos),
            "paired classes": (both.mean - general[0] + general[1], both.ci95_classes),
        }
        found = {kind: [] if half is None else [(e, half)] for kind, (e, half) in pairs.items()}
        found["a class"] = [
            (each.mean - true[0][1][c], each.ci95_videos)
            for c, each in class_intervals(first, sizes).items()
            if each.ci95_videos is not None
        ]
        yield found | {"accuracy": one.mean}


def measure(case: Case, repetitions: int, seed: int = 0) -> dict[str, Any]:
    """Simulates a case again and again.

    Returns:
        The mean accuracy, and for each kind of interval its coverage in % and its mean half width,
        both None where the interval is not given.
    """
    random = np.random.default_rng([seed, *dataclasses.asdict(case).__repr__().encode()])
    general = [accuracy for accuracy, _ in truth(random, case)]
    sets = -(-repetitions // _DRAWS)
    runs = [run for _ in range(sets) for run in repeat(random, case, general)]
    found: dict[str, Any] = {"accuracy": float(np.mean([run.pop("accuracy") for run in runs]))}
    for kind in runs[0]:
        pairs = np.array([pair for run in runs for pair in run[kind]])
        inside = 100 * float(np.mean(np.abs(pairs[:, 0]) <= pairs[:, 1])) if len(pairs) else None
        found[kind] = inside, float(pairs[:, 1].mean()) if len(pairs) else None
    return found
