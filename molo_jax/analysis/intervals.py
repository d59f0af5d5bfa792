"""Confidence intervals of a mean over episodes, for three questions.

Episodes draw their videos from the same few, again and again. So the interval over episodes, which
is the convention of the field, says only how well the mean over infinitely many episodes of exactly
these videos is known. It becomes as narrow as one likes with more episodes. What the accuracy on
other videos of the same classes is, and what it is on other classes, two wider intervals say.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import erf

from molo_jax.analysis.design import Design
from molo_jax.analysis.outcome import Outcome
from molo_jax.analysis.variance import (
    Variance,
    class_mean_variances,
    class_variance,
    means_of_classes,
    video_variance,
)

# Two-sided 95 % of a normal distribution.
_Z95 = 1.96
# With fewer videos of a class than twice the shots and this number, and with fewer classes than
# this or than twice those of an episode, the intervals were found to hold the truth too seldom.
_SPARE_VIDEOS = 4
_FEWEST_CLASSES_WITH_VIDEOS = 5
_FEWEST_CLASSES = 15
# Points at which the unknown variance is looked at.
_POINTS = 128
_HALVINGS = 40
# A smaller variance is one of rounding errors.
_ROUNDING = 1e-24


@dataclasses.dataclass(frozen=True)
class Intervals:
    """A mean with 95 % confidence intervals; each is given as half its width.

    Attributes:
        mean: over the episodes.
        ci95: for infinitely many episodes of exactly these videos.
        ci95_videos: for other videos of the same classes; None where that cannot be said.
        ci95_classes: for other classes, and their videos; None where that cannot be said.
        no_videos: why `ci95_videos` is None; empty where it is not.
        no_classes: why `ci95_classes` is None; empty where it is not.
    """

    mean: float
    ci95: float
    ci95_videos: float | None
    ci95_classes: float | None
    no_videos: str = ""
    no_classes: str = ""


def intervals(
    outcome: Outcome,
    class_sizes: Int[np.ndarray, "c"],
    values: Float[np.ndarray, "e w q"] | Bool[np.ndarray, "e w q"] | None = None,
) -> Intervals:
    """Computes the mean over episodes and its intervals.

    Args:
        outcome: the episodes.
        class_sizes: the number of usable videos of each class of the split, from which the episodes
            were drawn.
        values: what is averaged; by default whether the queries are classified correctly, otherwise
            for example the difference of two methods on the same episodes.
    """
    of_queries = values is None
    values = np.asarray(outcome.correct if of_queries else values, dtype=np.float64)
    sizes = np.asarray(class_sizes, dtype=np.int64)
    each = values.mean(axis=(1, 2))
    noise = float(each.var(ddof=1)) / len(each) if len(each) > 1 else math.nan
    no_videos, no_classes = _too_few_videos(outcome, sizes), _too_few_classes(outcome, sizes)
    if of_queries and values.min() == values.max():
        what = "right" if values.max() else "wrong"
        no_videos = no_classes = (
            f"all {values.size:,} queries are {what}, so there is no spread to estimate from"
        )
    videos = classes = None
    if not no_videos:
        design = Design(outcome.classes, outcome.videos, outcome.n_shot, sizes)
        (videos,) = half_widths([video_variance(values, design)])
    if not no_classes:
        (classes,) = half_widths([class_variance(each, outcome.classes, len(sizes))])
        # Other classes come with other videos; where classes differ little, both widths are equal
        # but for the errors of the estimates.
        classes = max(classes, videos or 0.0)
    ci95 = _Z95 * math.sqrt(noise)
    return Intervals(float(each.mean()), ci95, videos, classes, no_videos, no_classes)


def half_widths(variances: Sequence[Variance]) -> list[float]:
    """Returns half the widths of 95 % intervals of means whose variances are estimates themselves.

    The error of a mean is taken as normal. Its variance is as probable as the estimate is with it
    (taken as normal, too), and not less than the noise of the episodes. The width is such that 95 %
    of the errors are inside, over all these variances. Where only few videos make the estimate
    uncertain, this is nearly the interval of Student's t distribution.
    """
    fields = (dataclasses.astuple(variance) for variance in variances)
    noise, shared, error, spread = np.array(list(fields))[:, :, None].transpose(1, 0, 2)
    scale = np.maximum(shared, 0.0) + error + noise
    varies = scale > _ROUNDING
    # Any scale will do where nothing varies.
    scale = np.where(varies, scale, 1.0)
    steps = np.linspace(0.0, 1.0, _POINTS + 1)[1:] ** 2
    possible = scale * (6.0 + 60.0 * spread) * steps
    deviation = np.sqrt(error**2 + spread * possible**2) + 1e-6 * scale
    probable = np.exp(-np.square((shared - possible) / deviation) / 2) / deviation
    # A priori every magnitude of a variance is as probable as any other (Jeffreys 1946); the root
    # is of the distances between the steps.
    probable *= np.sqrt(steps) / (noise + possible)
    probable /= probable.sum(axis=1, keepdims=True)
    deviations = np.sqrt(2 * (noise + possible))
    low, high = np.zeros(len(noise)), 5 * deviations[:, -1]
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        inside = (probable * erf(middle[:, None] / deviations)).sum(axis=1)
        low, high = np.where(inside < 0.95, middle, low), np.where(inside < 0.95, high, middle)
    return np.where(varies[:, 0], (low + high) / 2, 0.0).tolist()


def _too_few_videos(outcome: Outcome, sizes: np.ndarray) -> str:
    if len(sizes) < _FEWEST_CLASSES_WITH_VIDEOS:
        return (
            f"the split has {len(sizes)} classes; an interval over videos needs"
            f" {_FEWEST_CLASSES_WITH_VIDEOS}"
        )
    need, least = 2 * outcome.n_shot + _SPARE_VIDEOS, int(sizes.min())
    if least >= need:
        return ""
    return (
        f"a class has {least} videos, and {outcome.n_shot}-shot needs {need} for an interval over"
        " videos"
    )


def _too_few_classes(outcome: Outcome, sizes: np.ndarray) -> str:
    way = outcome.classes.shape[1]
    need = max(_FEWEST_CLASSES, 2 * way)
    if len(sizes) >= need:
        return ""
    return (
        f"the split has {len(sizes)} classes; {way}-way needs {need} for an interval over classes"
    )


def class_intervals(
    outcome: Outcome,
    class_sizes: Int[np.ndarray, "c"],
    values: Float[np.ndarray, "e w q"] | Bool[np.ndarray, "e w q"] | None = None,
) -> dict[int, Intervals]:
    """Computes the mean over the queries of each class, and its intervals.

    Args:
        outcome: as in `intervals`.
        class_sizes: as in `intervals`.
        values: as in `intervals`.

    Returns:
        By the position of the class in the split; only classes that were drawn.
    """
    values = np.asarray(outcome.correct if values is None else values, dtype=np.float64)
    sizes = np.asarray(class_sizes, dtype=np.int64)
    design = Design(outcome.classes, outcome.videos, outcome.n_shot, sizes)
    means, noises = means_of_classes(values, design)
    why = _too_few_videos(outcome, sizes)
    widths = None if why else half_widths(class_mean_variances(values, design))
    return {
        c: Intervals(
            mean=float(means[c]),
            ci95=_Z95 * math.sqrt(noises[c]),
            ci95_videos=None if widths is None else widths[c],
            ci95_classes=None,
            no_videos=why,
            no_classes="a class is one class",
        )
        for c in np.flatnonzero(design.drawn).tolist()
    }
