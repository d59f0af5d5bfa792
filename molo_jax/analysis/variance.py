"""The variance of an accuracy whose episodes share videos and classes.

The mean over infinitely many episodes is a U-statistic of the videos: an average of what is found
with each choice of videos (Hoeffding 1948). Its variance is a sum of components: of single videos,
of pairs of videos, and so on. The jackknife counts the component of pairs twice (Efron and Stein
1981). So the component of single videos is estimated as the infinitesimal jackknife does it
(Efron 2014; Wager, Hastie and Efron 2014, with the factor of Wager and Athey 2018 for drawing
without replacement), and the component of pairs is estimated by itself and taken away.

A sum of squares of means over few episodes is too large by the noise of these means. Here every
square leaves out the products of an episode with itself, so that no noise is in its expectation.

Letters: e episodes, w way, k shots, q queries of a class, c classes of the split.
"""

import dataclasses
import math
from typing import Self

import numpy as np
from jaxtyping import Float, Int

from molo_jax.analysis.design import Design

# Products (query, video of another class) that the component of pairs across classes is made of at
# most; more episodes would make this small component slower, and hardly more exact.
_CROSS_PRODUCTS = 200_000
# A component of pairs is left out where a pair occurs less often than this: it is then smaller than
# this part of the noise of the episodes.
_FEWEST_VISITS = 0.05
# The part of the component of pairs that is taken away. The jackknife counts the joint effect of
# three videos three times, and the component of pairs does so too: with 1 it would be lost.
_TAKEN = 0.8
# How alike the variances of classes are taken to be: so many degrees of freedom their mean counts.
_ALIKE = 4
# A few values hardly hold the rare large ones; the relative variance that is found among them is
# too small by about this factor.
_UNSEEN = 1.5
# Below any variance, and its inverse is far from the largest number.
_TINY = 1e-100
# Values vary less than this by rounding alone.
_ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True)
class Variance:
    """An estimated variance of the mean over episodes.

    Attributes:
        noise: its part that comes from the number of episodes, which is known well.
        shared: its part that comes from what episodes share. The estimate has the right mean; so it
            may be negative where the truth is close to 0.
        error: standard deviation of the estimate of `shared` that comes from few episodes.
        spread: relative variance of the estimate of `shared` that comes from few videos.
    """

    noise: float
    shared: float
    error: float
    spread: float


def video_variance(values: Float[np.ndarray, "e w q"], design: Design) -> Variance:
    """Estimates the variance of the mean when the videos of the same classes are drawn anew.

    Args:
        values: a value for each query, such as 1 where it is classified correctly, in the order of
            the labels.
        design: the videos of the episodes; each class has more than k + 2 usable ones.
    """
    n = design.sizes.astype(np.float64)
    own, rest = _residuals(values, design)
    effects = _Effects.of(own, rest, design)
    weight, part = _weights(effects, design)
    share = 1 / n / len(n) ** 2
    # How much the estimate of each class counts, for the class itself and for the mean.
    counts = share * weight + part * (share * (1 - weight)).sum()
    shared = float((counts * effects.variances).sum())
    if values.shape[1] > 1:
        shared -= _TAKEN * _pairs_across(own, design)
    parts = (effects.squares * counts[:, None])[effects.squares != 0]
    single = float(np.square(counts * effects.noise).sum())
    found = np.square(parts - parts.mean()).sum() - single if len(parts) else 0.0
    spread = max(_UNSEEN * float(found / max(parts.sum() ** 2 + single, _TINY)), 2 / (n - 1).sum())
    error = math.sqrt(np.square(counts * effects.errors).sum())
    noise = float(values.mean(axis=(1, 2)).var(ddof=1)) / len(values)
    return Variance(noise, shared, error, spread)


@dataclasses.dataclass(frozen=True, eq=False)
class _Effects:
    """How much the videos of a class differ in their effects on the sum over labels.

    Attributes:
        squares: of the effect of each video, as its part of the variance of a class's effects; with
            pairs of videos counted twice.
        variances: the sum of the squares, with pairs counted once.
        noise: standard deviation of the sum of the squares that is of few episodes.
        errors: the same of `variances`.
        usual_errors: the same if values varied from episode to episode as much in each class.
    """

    squares: Float[np.ndarray, "c v"]
    variances: Float[np.ndarray, "c"]
    noise: Float[np.ndarray, "c"]
    errors: Float[np.ndarray, "c"]
    usual_errors: Float[np.ndarray, "c"]

    @classmethod
    def of(
        cls, own: Float[np.ndarray, "e w q"], rest: Float[np.ndarray, "e w"], design: Design
    ) -> Self:
        """Estimates the effects from what `_residuals` returns."""
        k, n = design.n_shot, design.sizes.astype(np.float64)
        effects, alone = _effects(own, rest, design)
        scale = ((n - 1) / (n - 1 - k)) ** 2 / (n - 1) * _without_itself(design.count)
        # Rows of the table are longer than their class where videos are unusable.
        squares = (np.square(effects) - alone[:, None]) * scale[:, None] * (effects != 0)
        # What the videos that no episode took would have.
        unseen = alone * scale * (n - (effects != 0).sum(axis=1))
        pairs, of_pairs = _pairs_within(own, rest, design)
        share = n / (2 * (n - 1) * (n - 2))
        noise = alone * n * scale * np.sqrt(2 / (n - 1))
        variances = squares.sum(axis=1) - unseen - _TAKEN * pairs * share
        errors = np.hypot(noise, of_pairs * share)
        level = design.sum_by_class(np.square(rest)) / design.count
        varied = level > _ROUNDING
        each = errors / np.where(varied, level, 1.0)
        each = np.where(varied, each, each[varied].mean() if varied.any() else 0.0)
        return cls(squares, variances, noise, errors, each * level[design.drawn].mean())


def _weights(
    effects: _Effects, design: Design
) -> tuple[Float[np.ndarray, "c"], Float[np.ndarray, "c"]]:
    """Returns how much the variance of a class's effects is believed, against the mean's.

    A class has so few videos that what they differ by is known badly, and is 0 for a class whose
    queries are all right. So the variances are drawn towards their mean over the classes, as if
    this were another estimate (Smyth 2004).

    Returns:
        The weight of each class's own variance, and its part of the mean.
    """
    n, drawn = design.sizes, design.drawn
    # A class whose queries are all right has a small error, and must not count more for that.
    found, error = effects.variances, np.square(effects.usual_errors)
    usual = np.abs(found[drawn]).mean()
    for _ in range(3):
        doubt = error + 2 * usual**2 * (1 / (n - 1) + 1 / _ALIKE) + _TINY
        part = drawn / doubt / (drawn / doubt).sum()
        least = math.sqrt((np.square(part) * error).sum())
        usual = max(least, float((part * found).sum()))
    return drawn * 2 * usual**2 / _ALIKE / doubt, part


def _residuals(
    values: Float[np.ndarray, "e w q"], design: Design
) -> tuple[Float[np.ndarray, "e w q"], Float[np.ndarray, "e w"]]:
    """Returns the values, and the sums over the labels of an episode, without the class's mean."""
    of_query = values.mean(axis=2)
    total = of_query.sum(axis=1, keepdims=True) + np.zeros(of_query.shape[1])
    own = values - (design.sum_by_class(of_query) / design.count)[design.classes][..., None]
    return own, total - (design.sum_by_class(total) / design.count)[design.classes]


def means_of_classes(
    values: Float[np.ndarray, "e w q"], design: Design
) -> tuple[Float[np.ndarray, "c"], Float[np.ndarray, "c"]]:
    """Returns the mean of each class, and its variance when the same videos are drawn anew."""
    of_query = values.mean(axis=2)
    count = design.count
    means = design.sum_by_class(of_query) / count
    squares = design.sum_by_class(np.square(of_query - means[design.classes]))
    return means, squares / np.maximum(count - 1, 1) / count


def class_mean_variances(values: Float[np.ndarray, "e w q"], design: Design) -> list[Variance]:
    """Estimates the variance of the mean of each class when all videos are drawn anew.

    Args:
        values: as in `video_variance`.
        design: as in `video_variance`.
    """
    n = design.sizes.astype(np.float64)
    means, noises = means_of_classes(values, design)
    own = values - means[design.classes][..., None]
    effects = _Effects.of(own, own.mean(axis=2), design)
    weight, part = _weights(effects, design)
    usual = max(0.0, float((part * effects.variances).sum()))
    others = max(0.0, float(_of_other_classes(own, design)[design.drawn].mean()))
    shared = (weight * effects.variances + (1 - weight) * usual) / n + others
    least = math.sqrt(np.square(part * effects.errors).sum())
    errors = np.hypot(weight * effects.errors, (1 - weight) * least) / n
    spread = _UNSEEN * 2 / (n - 1 + _ALIKE)
    parts = (column.tolist() for column in (noises, shared, errors, spread))
    return [Variance(*each) for each in zip(*parts, strict=True)]


def _of_other_classes(own: Float[np.ndarray, "e w q"], design: Design) -> Float[np.ndarray, "c"]:
    """Estimates the part of the variance of a class's mean that is of other classes' videos."""
    _, w, _ = own.shape
    k, classes, cells = design.n_shot, len(design.sizes), len(design.sizes) * design.width
    if w == 1:
        return np.zeros(classes)
    e = max(2, min(len(own), _CROSS_PRODUCTS // (w * (w - 1) * k)))
    labels, n = design.classes[:e], design.sizes.astype(np.float64)
    pairs = (labels[:, :, None].astype(np.int64) * classes + labels[:, None, :])[..., None]
    other = ~np.eye(w, dtype=bool)
    rest = np.broadcast_to(own[:e].mean(axis=2)[:, :, None], pairs.shape[:3])
    # Rows: the pair of a class and another one; its columns are the videos of the other one.
    keys = labels[:, :, None, None].astype(np.int64) * cells + design.support[:e, None]
    spread = np.broadcast_to((rest * other)[..., None], keys.shape)
    sums = np.bincount(keys.ravel(), spread.ravel(), classes * cells)
    sums = sums.reshape(classes, classes, design.width)
    places = pairs[..., 0].ravel()
    count = np.bincount(places, np.broadcast_to(other, rest.shape).ravel(), classes**2)
    whole = np.bincount(places, (rest * other).ravel(), classes**2).reshape(classes, classes)
    square = np.bincount(places, (rest**2 * other).ravel(), classes**2).reshape(classes, classes)
    count = count.reshape(classes, classes)
    # The sum over the videos of the other class, of which each episode has k.
    found = np.square(sums).sum(axis=2) - (k * whole) ** 2 / n
    # In the noise, the mean of a pair of classes is not taken away.
    found -= k * (1 - k / n) * square
    pairs_of = np.maximum(count * (count - 1), 1)
    found *= ((n - 1) / (n - k)) ** 2 * n**2 / pairs_of / (n - 1)
    share = (w - 1) / (classes - 1)
    return (found * share**2 / n).sum(axis=1)


def _without_itself(count: np.ndarray) -> np.ndarray:
    """Scales a sum over pairs of different episodes as if there were as many as of all pairs."""
    return count / np.maximum(count - 1, 1)


def _effects(
    own: Float[np.ndarray, "e w q"], rest: Float[np.ndarray, "e w"], design: Design
) -> tuple[Float[np.ndarray, "c v"], Float[np.ndarray, "c"]]:
    """Returns the effect of each video, as a query and in the support set together.

    An effect is in units of the sum over labels. It is as much too small as drawing without
    replacement makes it: by (n - 1) / (n - 1 - k) for a class of n videos.

    Returns:
        The effects, and the noise of the square of an effect in each class.
    """
    k, q = design.n_shot, own.shape[2]
    n = design.sizes[design.classes].astype(np.float64)
    count = design.count[design.classes]
    asked, shown = n / (count * q), n / count
    effects = design.sum_by_video(design.queries, own * asked[..., None])
    effects += design.sum_by_video(design.support, (rest * shown)[..., None])
    sums, squares = own.sum(axis=2), np.square(own).sum(axis=2)
    noise = asked**2 * (squares - sums**2 / n) + (shown * rest) ** 2 * k * (1 - k / n)
    noise -= 2 * asked * shown * rest * sums * k / n
    return effects, design.sum_by_class(noise) / design.sizes


def _pairs_within(
    own: Float[np.ndarray, "e w q"], rest: Float[np.ndarray, "e w"], design: Design
) -> tuple[Float[np.ndarray, "c"], Float[np.ndarray, "c"]]:
    """Estimates the variance of the joint effect of two videos of a class, in each class.

    A table of the mean for each pair (of which one is the query, or none) is taken apart into the
    effects of its videos and a rest (the analysis of a diallel cross, Griffing 1956).

    Returns:
        The variance, in units of the sum over labels, and the standard deviation of the estimate.
    """
    k, q, width, classes = design.n_shot, own.shape[2], design.width, len(design.sizes)
    n = design.sizes.astype(np.float64)
    if (design.count * q * k / (n * (n - 1))).mean() < _FEWEST_VISITS:
        return np.zeros(classes), np.zeros(classes)
    # The means of pairs hold a joint effect of query and support video, and one of two support
    # videos, in proportions that drawing without replacement makes; these two numbers undo that.
    less = (n - 1 - k) / (k * (n - 2))
    kept = (n - k) * (n - k - 1) / ((n - 2) * (n - 3)) - 2 * k * (k - 1) * less / (n - 3) ** 2
    second = k * (k - 1) * (n - 1) / (n - 3) / kept
    first = (1 + second * less / (n - 3)) / less
    asked = (first * n * (n - 1) / (design.count * q * k))[design.classes]
    keys = design.queries[..., None] * width + design.videos[:, :, None, :k]
    table = _summed(keys, (own * asked[..., None])[..., None], classes * width**2)
    shown = np.zeros_like(rest)
    if k > 1:
        shown = rest * (second * n * (n - 1) / (design.count * k * (k - 1)))[design.classes]
        one, other = np.triu_indices(k, 1)
        keys = design.support[..., one] * width + design.videos[..., other]
        table += _summed(keys, shown[..., None], classes * width**2)
    table = table.reshape(classes, width, width)
    table = table + table.transpose(0, 2, 1)
    rows = table.sum(axis=2)
    found = np.square(table).sum(axis=(1, 2)) / 2 - np.square(rows).sum(axis=1) / (n - 2)
    found += rows.sum(axis=1) ** 2 / (2 * (n - 1) * (n - 2))
    # The same of the table of each single episode.
    n_each = n[design.classes]
    sums, squares = (own * asked[..., None]).sum(axis=2), np.square(own * asked[..., None]).sum(2)
    noise = k * squares + k * (k - 1) / 2 * shown**2
    noise -= (k**2 * squares + k * (sums + (k - 1) * shown) ** 2) / (n_each - 2)
    noise += 2 * (k * sums + k * (k - 1) / 2 * shown) ** 2 / ((n_each - 1) * (n_each - 2))
    alone = design.sum_by_class(noise)
    freedom = n * (n - 3) / 2
    again = _without_itself(design.count)
    return (found - alone) * again / freedom, alone / freedom * np.sqrt(2 / freedom)


def _summed(keys: np.ndarray, values: np.ndarray, count: int) -> Float[np.ndarray, "n"]:
    """Adds up values by their keys; the values are broadcast to the shape of the keys."""
    return np.bincount(keys.ravel(), np.broadcast_to(values, keys.shape).ravel(), count)


def _pairs_across(own: Float[np.ndarray, "e w q"], design: Design) -> float:
    """Estimates the part of the variance that is of pairs of videos of two classes.

    As `_pairs_within`, with a table of two ways for each pair of classes.
    """
    _, w, q = own.shape
    k, classes = design.n_shot, len(design.sizes)
    e = max(2, min(len(own), _CROSS_PRODUCTS // (w * (w - 1) * k * q)))
    cells = classes * design.width
    if e * w * (w - 1) * k * q / cells**2 < _FEWEST_VISITS:
        return 0.0
    own, labels = own[:e], design.classes[:e]
    n = design.sizes.astype(np.float64)
    both = e * w * (w - 1) / (classes * (classes - 1))
    # How much a product counts: that of a query of class a and a support video of class b.
    scales = n[:, None] * n / (both * q * k) * (k * (n - 1) / (n - k))
    scale = scales[labels[:, :, None], labels[:, None, :]] * ~np.eye(w, dtype=bool)
    keys = design.queries[:e, :, :, None, None] * cells + design.support[:e, None, None]
    spread = np.broadcast_to((own[..., None] * scale[:, :, None, :])[..., None], keys.shape)
    table = np.bincount(keys.ravel(), spread.ravel(), cells**2).reshape(cells, cells)
    table += table.T.copy()
    table = table.reshape(classes, design.width, classes, design.width)
    rows = table.sum(axis=3)
    by_row = np.square(rows).sum(axis=1) / n
    found = np.square(table).sum(axis=(1, 3)) - by_row - by_row.T
    found += rows.sum(axis=1) ** 2 / (n[:, None] * n)
    # The same of the tables of each single episode.
    sums, squares = own.sum(axis=2), np.square(own).sum(axis=2)
    mine, theirs = n[labels][:, :, None], n[labels][:, None, :]
    first, second = k * sums[:, :, None], k * sums[:, None, :]
    noise = scale**2 * (
        k * (1 - k / theirs) * squares[:, :, None] - first**2 / (k * mine) * (1 - k / theirs)
    )
    noise += scale * scale.transpose(0, 2, 1) * first * second / (mine * theirs)
    places = (labels[:, :, None] * classes + labels[:, None, :]).ravel()
    noise = np.bincount(places, noise.ravel(), classes**2).reshape(classes, classes)
    found -= noise + noise.T
    share = (w - 1) / (classes * (classes - 1))
    variances = found / ((n[:, None] - 1) * (n - 1)) * share**2 / (n[:, None] * n)
    return float(np.triu(variances, 1).sum())


def class_variance(
    values: Float[np.ndarray, "e"], classes: Int[np.ndarray, "e w"], count: int
) -> Variance:
    """Estimates the variance of the mean when classes, and with them their videos, are drawn anew.

    Args:
        values: a value for each episode.
        classes: the classes of each episode.
        count: how many classes the split has; more than w + 1.
    """
    e, w = classes.shape
    rest = values - values.mean()
    scale = count / (e * w)
    effects = np.bincount(classes.ravel(), np.repeat(rest * scale, w), count)
    alone = float(np.square(rest * scale).sum()) * w * (1 - w / count) / count
    factor = (w / count * (count - 1) / (count - w)) ** 2 * count / (count - 1) * e / (e - 1)
    parts = (np.square(effects) - alone) * factor
    pairs, of_pairs = _class_pairs(rest, classes, count)
    share = (w * (w - 1)) ** 2 / (2 * (count - 1) * (count - 2))
    shared = float(parts.sum()) - _TAKEN * pairs * share
    single = 2 / (count - 1) * (alone * factor * count) ** 2
    error = math.sqrt(single + (of_pairs * share) ** 2)
    found = np.square(parts - parts.mean()).sum() - single
    spread = _UNSEEN * float(found / max(parts.sum() ** 2 + single, _TINY))
    return Variance(float(values.var(ddof=1)) / e, shared, error, max(spread, 2 / (count - 1)))


def _class_pairs(
    rest: Float[np.ndarray, "e"], classes: Int[np.ndarray, "e w"], count: int
) -> tuple[float, float]:
    """Estimates the variance of the joint effect of two classes, as `_pairs_within`."""
    e, w = classes.shape
    alone = (count - w) * (count - w - 1) / ((count - 2) * (count - 3))
    scale = count * (count - 1) / (e * w * (w - 1)) / alone
    upper = np.triu_indices(w, 1)
    first, second = classes[:, upper[0]], classes[:, upper[1]]
    spread = np.repeat(rest * scale, len(upper[0]))
    table = np.bincount((first * count + second).ravel(), spread, count**2).reshape(count, count)
    table = table + table.T
    rows = table.sum(axis=1)
    whole = rows.sum() / 2
    last = 2 / ((count - 1) * (count - 2))
    found = np.square(table).sum() / 2 - np.square(rows).sum() / (count - 2) + last * whole**2
    alike = w * (w - 1) / 2
    noise = alike - w * (w - 1) ** 2 / (count - 2) + last * alike**2
    alone = float(noise * np.square(rest * scale).sum())
    freedom = count * (count - 3) / 2
    return (float(found) - alone) * e / (e - 1) / freedom, alone / freedom * math.sqrt(2 / freedom)
