"""What a decision is made of: the part of each stream, and the frames that were compared.

Letters: q query, n way, s support, i frame of the query, j frame of a class.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from molo_jax.nn import matching

# Names of the metrics that compare single frames.
BI_MHM, OTAM = "bi_mhm", "otam"


@dataclasses.dataclass(frozen=True)
class Metric:
    """How the distance of two clips is made of the distances of their frames.

    Attributes:
        name: `bi_mhm` (bidirectional mean Hausdorff, Wang et al., CVPR 2022, section 3.3) or
            `otam` (ordered temporal alignment, Cao et al., CVPR 2020, section 3.3).
        smoothing: lambda of the softened minimum of `otam`.
        single_direction: whether `bi_mhm` keeps its first sum only, that over the query's frames.
    """

    name: str
    smoothing: float = 0.0
    single_direction: bool = False

    def distance(self, frames: Float[Array, "q n i j"]) -> Float[Array, "q n"]:
        """Computes the distances of clips from those of their frames, as the methods do."""
        return _distance(jnp.asarray(frames), self)


@functools.partial(jax.jit, static_argnames="metric")
def _distance(frames: Array, metric: Metric) -> Array:
    """Computes distances; compiled, because the loop of an alignment is slow to trace each time."""
    if metric.name == OTAM:
        return matching.otam(frames, smoothing=metric.smoothing)
    return matching.bi_mean_hausdorff(frames, single_direction=metric.single_direction)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("distances", "frames"),
    meta_fields=("weight", "metric", "each_clip"),
)
@dataclasses.dataclass(frozen=True)
class Evidence:
    """The part of one stream in the scores of queries.

    The sum of ``weight * distances`` over all streams is the negative of what the method's `match`
    returns.

    Attributes:
        distances: distance of every query to every class.
        weight: what this stream counts.
        frames: distances of single frames: of every query frame ``i`` to every frame ``j`` of the
            prototype of each class ``n``, or, with `each_clip`, of each support clip ``s`` in its
            place. None where the method does not compare single frames. A stream of differences of
            frames has one entry less than the clip has frames: entry ``i`` is the change from
            frame ``i`` to frame ``i + 1``.
        metric: how `frames` become a distance; None where `frames` is None.
        each_clip: whether each support clip is compared by itself, and the distances to the clips
            of a class are averaged. Otherwise the clips are averaged first, to the prototype of
            their class.
    """

    distances: Float[Array, "q n"]
    weight: float = 1.0
    frames: Float[Array, "q n i j"] | Float[Array, "q s i j"] | None = None
    metric: Metric | None = None
    each_clip: bool = False


def of_prototypes(frames: Float[Array, "q n i j"], metric: Metric, weight: float = 1.0) -> Evidence:
    """Returns the evidence of a stream whose queries are compared with prototypes.

    Args:
        frames: distances of query frames and frames of the prototypes.
        metric: how they become a distance.
        weight: what the stream counts.
    """
    return Evidence(metric.distance(frames), float(weight), frames, metric)


def of_clips(
    frames: Float[Array, "q s i j"], metric: Metric, labels: Int[Array, "s"], n_way: int
) -> Evidence:
    """Returns the evidence of a stream whose queries are compared with each support clip.

    Args:
        frames: distances of query frames and frames of the support clips.
        metric: how they become a distance, which is averaged over the clips of a class.
        labels: class of each support clip.
        n_way: number of classes.
    """
    distances = matching.class_means(metric.distance(frames), labels, n_way)
    return Evidence(distances, 1.0, frames, metric, each_clip=True)


def matched(frames: Float[np.ndarray, "i j"], metric: Metric) -> list[tuple[int, int]]:
    """Returns the pairs of frames whose distances a metric adds up.

    For `bi_mhm` these are the nearest class frame of every query frame and, unless it has a single
    direction, the nearest query frame of every class frame. The sum of the distances of all pairs
    is the metric's distance. For `otam` the pairs are those on the best path of each direction: the
    path with the least sum, which the method softens over all paths.

    Args:
        frames: distances of every query frame and every frame of a prototype or of a clip.
        metric: the metric.

    Returns:
        Pairs ``(i, j)`` in ascending order. A pair that both directions use is there twice.
    """
    pairs = matched_from_query(frames, metric)
    if not metric.single_direction:
        turned = np.asarray(frames).T
        pairs = pairs + [(i, j) for j, i in matched_from_query(turned, metric)]
    return sorted(pairs)


def matched_from_query(frames: Float[np.ndarray, "i j"], metric: Metric) -> list[tuple[int, int]]:
    """Returns the pairs of the direction that finds a class frame for every query frame.

    Args:
        frames: distances of every query frame and every frame of a prototype or of a clip.
        metric: the metric.

    Returns:
        Pairs ``(i, j)``: one of every query frame; in the alignment of `otam`, the first one may
        have several.
    """
    frames = np.asarray(frames)
    if metric.name == OTAM:
        return [(i, j) for j, i in best_path(frames.T)]
    return [(i, int(j)) for i, j in enumerate(frames.argmin(axis=1))]


def best_path(distances: Float[np.ndarray, "i j"]) -> list[tuple[int, int]]:
    """Returns the alignment of the least cost in one direction, not softened.

    The path goes from the first column to the last one and takes an element of each. In a row it
    goes one column to the right, in the next row or in the same; within the first column, and
    behind the last one, it goes down too. So it may begin and end in any row.

    Returns:
        The pairs (row, column) on the path, in the order of the path.
    """
    costs = np.pad(np.asarray(distances, np.float64), ((0, 0), (1, 1)))
    rows, last = costs.shape[0], costs.shape[1] - 1
    costs[0] = np.cumsum(costs[0])
    came_from = {(0, m): (0, m - 1) for m in range(1, last + 1)}
    for row in range(1, rows):
        for m in range(1, last + 1):
            steps = [(row - 1, m - 1), (row, m - 1)]
            if m in (1, last):
                steps.append((row - 1, m))
            best = min(steps, key=lambda step: costs[step])
            came_from[row, m] = best
            costs[row, m] += costs[best]
    path, place = [], (rows - 1, last)
    while place in came_from:
        if 0 < place[1] < last:
            path.append((place[0], place[1] - 1))
        place = came_from[place]
    return path[::-1]
