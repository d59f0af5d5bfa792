"""How far two trainings may be apart, and whether they are closer than that.

Adam divides a gradient by its own size, so an element that is nothing but rounding moves its weight
by a whole step, and a maximum or a ReLU that rounding decides otherwise makes a jump. In float32
that lifts the difference of the losses from 1e-7 at the first step to 1e-2 within ten, where it
stays, as between the reference and itself in float64: this difference is the *yardstick* of the
float32 trainings. In float64 such events are rare, and there the two implementations are held to
small fixed bounds.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from parity_tests import tolerances

JAX, TORCH = "JAX float32", "PyTorch float32"
JAX_DOUBLE, TORCH_DOUBLE = "JAX float64", "PyTorch float64"
DOUBLE_RUNS = (JAX_DOUBLE, TORCH_DOUBLE)
RUNS = (JAX, TORCH, *DOUBLE_RUNS)

DOUBLE_LOSS = tolerances.TRAINING_LOSS.bound
# Of match logits relative to the largest of them, in float64 each with its own weights.
DOUBLE_LOGITS = tolerances.TRAINING_LOGITS.bound
SAME_WEIGHTS_LOGITS = tolerances.SAME_WEIGHTS_LOGITS.bound
LOSS_FLOOR = tolerances.TRAINING_FIRST_LOSS.bound
YARDSTICKS = tolerances.YARDSTICKS.bound
# How many steps earlier than the other one of two float32 trainings may make a jump: rounding alone
# decides when. Within ten steps all of them have made the first.
YARDSTICK_LEAD = 10


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What the runs gave, the two in float64 or all four.

    Attributes:
        losses: for each run, every loss term and the `loss` of every step.
        logits: for each run, the match logits `(e, q, n)` of the test episodes after training.
        same_weights: those of JAX with the weights of PyTorch's float32 run, if there is one.
        labels: the right class of each query, `(e, q)`.
        seconds: time that each run took.
    """

    losses: Mapping[str, Mapping[str, Sequence[float]]]
    logits: Mapping[str, np.ndarray]
    same_weights: np.ndarray | None
    labels: np.ndarray
    seconds: Mapping[str, float]

    @property
    def has_single(self) -> bool:
        """Whether the float32 runs are there."""
        return JAX in self.losses

    def loss_difference(self, run: str, other: str) -> np.ndarray:
        """Returns the relative difference of the loss of `run` from that of `other`, by step."""
        return relative_difference(self.losses[run]["loss"], self.losses[other]["loss"])

    def accuracy(self, run: str) -> float:
        """Returns the fraction of queries that a run classified correctly."""
        return float((self.logits[run].argmax(-1) == self.labels).mean())


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Two networks' logits of the same queries.

    Attributes:
        largest: largest difference of a logit.
        scale: largest absolute logit of the reference.
        bound: what `largest` may be.
        differing: number of queries with different predictions.
        widest: largest margin, in the reference, of these; 0 without any.
        narrowest: smallest margin of all queries.
    """

    largest: float
    scale: float
    bound: float
    differing: int
    widest: float
    narrowest: float

    @property
    def fine(self) -> bool:
        """Whether the logits agree, and predictions differ only where rounding can decide."""
        # Both of the two best logits may be off, in opposite directions.
        return self.largest <= self.bound and self.widest <= 2 * self.bound


@dataclasses.dataclass(frozen=True)
class Check:
    """One statement: `value` is at most `bound`."""

    name: str
    value: float
    bound: float
    fine: bool


def relative_difference(values: Sequence[float], reference: Sequence[float]) -> np.ndarray:
    """Returns `|values - reference| / |reference|`."""
    values, reference = np.asarray(values), np.asarray(reference)
    return np.abs(values - reference) / np.abs(reference)


def loss_bound(comparison: Comparison) -> np.ndarray:
    """Returns what the float32 losses may differ by, for every step."""
    yardstick = np.maximum.accumulate(comparison.loss_difference(TORCH, TORCH_DOUBLE))
    ahead = np.minimum(np.arange(len(yardstick)) + YARDSTICK_LEAD, len(yardstick) - 1)
    bounds = np.maximum(LOSS_FLOOR, YARDSTICKS * yardstick[ahead])
    # Before the first update there is nothing but the rounding of one forward pass.
    bounds[0] = LOSS_FLOOR
    return bounds


def compare_logits(logits: np.ndarray, reference: np.ndarray, bound: float) -> Predictions:
    """Compares the logits `(e, q, n)` of a network with those of the reference."""
    ordered = np.sort(reference, axis=-1)
    margins = ordered[..., -1] - ordered[..., -2]
    differs = logits.argmax(-1) != reference.argmax(-1)
    return Predictions(
        largest=float(np.abs(logits - reference).max()),
        scale=float(np.abs(reference).max()),
        bound=float(bound),
        differing=int(differs.sum()),
        widest=float(margins[differs].max(initial=0.0)),
        narrowest=float(margins.min()),
    )


def predictions(comparison: Comparison) -> dict[str, Predictions]:
    """Compares the predictions in float64, in float32, and in float32 with the same weights."""
    logits = comparison.logits
    exact = logits[TORCH_DOUBLE]
    double = compare_logits(logits[JAX_DOUBLE], exact, DOUBLE_LOGITS * np.abs(exact).max())
    if not comparison.has_single:
        return {"float64": double}
    reference = logits[TORCH]
    same = SAME_WEIGHTS_LOGITS * np.abs(reference).max()
    drift = max(same, YARDSTICKS * np.abs(reference - exact).max())
    return {
        "float64": double,
        "float32": compare_logits(logits[JAX], reference, drift),
        "float32, same weights": compare_logits(comparison.same_weights, reference, same),
    }


def checks(comparison: Comparison) -> list[Check]:
    """Returns every statement about the comparison, with its value and its bound."""
    double = comparison.loss_difference(*DOUBLE_RUNS)
    found = [_at_most("loss, float64", double.max(), DOUBLE_LOSS)]
    if comparison.has_single:
        single, bounds = comparison.loss_difference(JAX, TORCH), loss_bound(comparison)
        # The step that comes closest to its bound, or goes farthest beyond it.
        worst = int(np.argmax(single / bounds))
        found.append(_at_most(f"loss, float32, step {worst + 1}", single[worst], bounds[worst]))
    for name, compared in predictions(comparison).items():
        margin = f"margin of a differing prediction, {name}"
        found += [
            _at_most(f"logits, {name}", compared.largest, compared.bound),
            _at_most(margin, compared.widest, 2 * compared.bound),
        ]
    return found


def _at_most(name: str, value: float, bound: float) -> Check:
    return Check(name, float(value), float(bound), bool(value <= bound))
