"""What the support set says about itself: probabilities, and how far a clip may be away.

Each support clip is scored by all others (leave-one-out). These clips are queries whose class is
known, so they tell how far clips of the classes lie, and how often the nearest class is wrong.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize, special, stats

# The unknown rule calls so many clips of the known classes unknown, if they are like the support.
FALSE_ALARMS = 0.05
# With fewer clips their spread says nothing.
LEAST_CLIPS = 3
# Clips that count for another class than their own in the temperature.
_SHARED = 0.2
# Where the temperature is looked for, around the network's own of 1.
_LOG_TEMPERATURES = (-5.0, 5.0)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How distances become probabilities, and which are too large.

    Attributes:
        temperature: probabilities are the softmax of ``-distance / temperature``. Without clips to
            learn it from it is 1, the network's own.
        scale: mean distance of the tested clips to their nearest class; None where it is unknown.
        bound: the largest relative distance, that is distance to the nearest class over `scale`,
            that a clip of the known classes has in 95 of 100 cases; None where it is unknown.
        tested: number of support clips that this was learnt from.
    """

    temperature: float = 1.0
    scale: float | None = None
    bound: float | None = None
    tested: int = 0


def calibrate(logits: Float[np.ndarray, "s n"], labels: Int[np.ndarray, "s"]) -> Calibration:
    """Learns from scores of support clips by the others.

    The temperature minimizes the cross-entropy of the clips' classes. So that a few clips that are
    all right do not give certainty, a fifth of a clip, spread over all clips, counts for the other
    classes (as in Platt's scaling of scores, where it is a whole one). The bound is the upper end
    of the one-sided prediction interval of a further clip's distance, under a normal distribution:
    ``mean + t(0.95, m - 1) · deviation · sqrt(1 + 1 / m)`` of the ``m`` distances.

    Args:
        logits: scores, the largest for the nearest class; rows of NaN are clips that could not be
            tested.
        labels: class of each clip.
    """
    asked = ~np.isnan(logits).any(axis=1)
    scores, labels = np.asarray(logits[asked], np.float64), np.asarray(labels)[asked]
    if len(scores) < LEAST_CLIPS:
        return Calibration(tested=len(scores))
    nearest = -scores.max(axis=1)
    scale = float(nearest.mean())
    bound = None
    if scale > 0:
        relative = nearest / scale
        factor = stats.t.ppf(1 - FALSE_ALARMS, len(relative) - 1)
        spread = float(relative.std(ddof=1) * np.sqrt(1 + 1 / len(relative)))
        bound = 1.0 + float(factor) * spread
    return Calibration(
        temperature=_temperature(scores, labels),
        scale=scale if scale > 0 else None,
        bound=bound,
        tested=len(scores),
    )


def _temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    clips, classes = scores.shape
    if classes < 2:
        return 1.0
    share = _SHARED / (clips + 1)
    targets = np.full(scores.shape, share / (classes - 1))
    targets[np.arange(clips), labels] = 1 - share

    def cross_entropy(log_temperature: float) -> float:
        logs = special.log_softmax(scores / np.exp(log_temperature), axis=1)
        return float(-(targets * logs).sum(axis=1).mean())

    found = optimize.minimize_scalar(cross_entropy, bounds=_LOG_TEMPERATURES, method="bounded")
    return float(np.exp(found.x))


def probabilities(
    distances: Float[np.ndarray, "q n"], calibration: Calibration
) -> Float[np.ndarray, "q n"]:
    """Returns the probability of each class, given that a clip is of one of them."""
    return special.softmax(-np.asarray(distances, np.float64) / calibration.temperature, axis=1)


def confusion(
    logits: Float[np.ndarray, "s n"], labels: Int[np.ndarray, "s"], n_way: int
) -> Int[np.ndarray, "n n"]:
    """Counts support clips by their class (rows) and the class that the others give them."""
    counts = np.zeros((n_way, n_way), np.int64)
    asked = ~np.isnan(logits).any(axis=1)
    np.add.at(counts, (np.asarray(labels)[asked], logits[asked].argmax(axis=1)), 1)
    return counts
