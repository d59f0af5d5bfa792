"""What one implementation computed, by official names and in PyTorch's layout, and how to compare.

A recording is a dictionary of groups, each a dictionary from name to array:

outputs      whole outputs: `logits`, `class_logits`, `logits_s2q`, …
stages       `<module>/<call>`, as hooks on the official modules would see them
losses       the loss terms and `total`
gradients    the gradient of `total` by parameter
statistics   the running statistics of batch normalization afterwards
parameters   the parameters after optimizer steps
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from parity_tests.methods import judged_by
from parity_tests.tolerances import Bounds

Recording = dict[str, dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far one quantity is from the reference.

    Attributes:
        group, name: which quantity.
        error: relative error.
        bound: the largest error that rounding explains.
    """

    group: str
    name: str
    error: float
    bound: float

    @property
    def inside(self) -> bool:
        """Whether the error is explained by rounding; an error that is no number is not."""
        return self.error <= self.bound


def relative_error(
    ours: np.ndarray, reference: np.ndarray, measure: np.ndarray | None = None
) -> float:
    """Norm of the difference over that of the reference, or of another array that is the measure.

    It is infinite where shapes differ.
    """
    if np.shape(ours) != np.shape(reference):
        return np.inf
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    norm = float(np.linalg.norm(reference if measure is None else measure))
    difference = float(np.linalg.norm(ours - reference))
    return difference / norm if norm else (0.0 if difference == 0.0 else np.inf)


def output_error(ours: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference over the largest value of the reference, or over 1 where that is smaller.

    Scores are sums of `1 - cosine`, whose rounding does not shrink with them.
    """
    if np.shape(ours) != np.shape(reference):
        return np.inf
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    return float(np.max(np.abs(ours - reference)) / max(np.max(np.abs(reference)), 1.0))


def compare(
    ours: Recording, reference: Recording, bounds: Bounds, cancelled: tuple[str, ...] = ()
) -> list[Difference]:
    """Compares all quantities of two recordings.

    Args:
        ours: what one backend computed.
        reference: what the other one computed.
        bounds: the largest errors by group.
        cancelled: :attr:`Method.cancelled` of the method.

    Returns:
        One difference for each quantity.

    Raises:
        ValueError: if one has a quantity that the other lacks.
    """
    differences = []
    for group, name in _both(ours, reference):
        pair = ours[group][name], reference[group][name]
        if group == "outputs":
            error = output_error(*pair)
        elif group == "gradients":
            error = relative_error(*pair, reference[group][judged_by(name, cancelled)])
        else:
            error = relative_error(*pair)
        differences.append(Difference(group, name, error, bounds[group]))
    return differences


def _both(ours: Recording, reference: Recording) -> Iterator[tuple[str, str]]:
    here = {(group, name) for group, values in ours.items() for name in values}
    there = {(group, name) for group, values in reference.items() for name in values}
    if here != there:
        raise ValueError(
            f"only in the first: {sorted(here - there)[:5]}; only in the second:"
            f" {sorted(there - here)[:5]}"
        )
    for group, values in reference.items():
        for name in values:
            yield group, name


def worst(differences: list[Difference]) -> dict[str, Difference]:
    """Returns the worst difference of each group, the one that is furthest beyond its bound."""
    found: dict[str, Difference] = {}
    for one in differences:
        best = found.get(one.group)
        if best is None or not _ratio(one) <= _ratio(best):
            found[one.group] = one
    return found


def _ratio(difference: Difference) -> float:
    return difference.error / difference.bound
