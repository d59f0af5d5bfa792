"""Every tolerance of the parity tests, in one place, with its reason.

In float64 both implementations must agree so closely that any difference is one of the computation.
In float32 the bounds are a few times what rounding alone does, measured as the difference between
the reference in float32 and the same reference in float64 (`python -m parity_tests.compare`). Batch
normalization over few samples multiplies rounding, more so in a deeper network, hence bounds by
backbone.

Errors are the norm of the difference over the norm of the reference, unless said otherwise.
"""

import dataclasses
from collections.abc import Mapping

GROUPS = ("outputs", "stages", "losses", "gradients", "statistics", "parameters")

# Group of quantities -> largest relative error that rounding explains.
Bounds = Mapping[str, float]


def _bounds(**values: float) -> dict[str, float]:
    return values


# Float64, one episode. Measured: 5e-13 (ResNet-50, training), 3e-14 (ResNet-18).
DOUBLE: Bounds = dict.fromkeys(GROUPS, 1e-10)

# Float64, three optimizer steps of Adam, which divides by the root of squared gradients: where
# these are tiny, few digits are left.
DOUBLE_STEPS: Bounds = dict.fromkeys(GROUPS, 1e-8)

# Float32, one forward pass at crop 224 with 3 frames. Outputs are scores, sums of `1 - cosine`;
# their error is relative to the largest, or to 1. Stages: the decoder's last maps are the worst.
FORWARD: Mapping[tuple[str, str], Bounds] = {
    ("resnet18", "eval"): _bounds(outputs=2e-5, stages=1e-5, losses=1e-5),
    ("resnet34", "eval"): _bounds(outputs=2e-5, stages=1e-5, losses=1e-5),
    ("resnet50", "eval"): _bounds(outputs=2e-5, stages=1e-5, losses=1e-5),
    ("resnet18", "train"): _bounds(outputs=2e-5, stages=5e-5, losses=1e-5, statistics=1e-5),
    ("resnet34", "train"): _bounds(outputs=2e-5, stages=1e-4, losses=1e-5, statistics=1e-5),
    ("resnet50", "train"): _bounds(outputs=2e-5, stages=4e-4, losses=2e-5, statistics=3e-5),
}


@dataclasses.dataclass(frozen=True)
class ProbeBounds:
    """Bounds for probes of arrays, relative to the recorded norm.

    Attributes:
        norm: of the difference of the norms, for the worst array.
        projection: of the difference of the products with the random direction. It feels every
            digit of the array, where rounding mostly leaves the norm alone.
        median_norm: of the median over the arrays; `None` where the worst says enough.
    """

    norm: float
    projection: float
    median_norm: float | None = None


@dataclasses.dataclass(frozen=True)
class GoldenBounds:
    """Bounds for one kind of recorded file; losses are relative, outputs as in :data:`FORWARD`."""

    outputs: float = 0.0
    losses: float = 0.0
    stages: ProbeBounds | None = None
    gradients: ProbeBounds | None = None
    statistics: ProbeBounds | None = None
    parameters: ProbeBounds | None = None


_EVAL = GoldenBounds(outputs=2e-5, stages=ProbeBounds(1e-5, 5e-5))


def _train(
    stages: ProbeBounds, gradients: ProbeBounds, statistics: ProbeBounds, losses: float
) -> GoldenBounds:
    return GoldenBounds(2e-5, losses, stages, gradients, statistics)


def _steps(statistics: ProbeBounds, parameters: ProbeBounds, losses: float) -> GoldenBounds:
    return GoldenBounds(losses=losses, statistics=statistics, parameters=parameters)


# (kind, backbone) -> bounds for files of recorded values, at crop 224 with 8 frames. Rounding moves
# the gradients of early layers most: they are sums of large terms that nearly cancel. After a step
# of Adam, rounding in a tiny gradient is a whole step of its parameter.
GOLDEN: Mapping[tuple[str, str], GoldenBounds] = {
    ("eval", "resnet18"): _EVAL,
    ("eval", "resnet34"): _EVAL,
    ("eval", "resnet50"): _EVAL,
    ("train", "resnet18"): _train(
        ProbeBounds(1e-5, 5e-5), ProbeBounds(6e-3, 3e-2, 5e-5), ProbeBounds(1e-5, 1e-5), 1e-5
    ),
    ("train", "resnet34"): _train(
        ProbeBounds(1e-5, 1e-4), ProbeBounds(2e-2, 6e-2, 3e-4), ProbeBounds(1e-5, 1e-5), 1e-5
    ),
    ("train", "resnet50"): _train(
        ProbeBounds(1e-5, 4e-4), ProbeBounds(2e-2, 1e-1, 1e-3), ProbeBounds(1e-5, 3e-5), 1e-5
    ),
    ("steps", "resnet18"): _steps(ProbeBounds(6e-4, 3e-3), ProbeBounds(3e-4, 5e-3, 5e-7), 3e-4),
    ("steps", "resnet34"): _steps(ProbeBounds(6e-4, 3e-3), ProbeBounds(3e-4, 5e-3, 5e-7), 3e-4),
    ("steps", "resnet50"): _steps(ProbeBounds(6e-4, 3e-3), ProbeBounds(3e-4, 5e-3, 5e-7), 3e-4),
}
