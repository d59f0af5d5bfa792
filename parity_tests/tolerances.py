"""Every tolerance of the parity tests, in one place, with its reason.

In float64 both implementations must agree so closely that any difference is one of the computation.
In float32 a bound is four times what rounding was measured to do: the reference in float32 against
itself in float64 (`python -m parity_tests.golden FILE --precision=float64`, `python -m
parity_tests.compare`), or two float32 computations against each other, whichever is larger. Batch
normalization over few samples multiplies rounding, more so in a deeper network, hence bounds by
backbone.

Errors are the norm of the difference over the norm of the reference, unless said otherwise.

    python -m parity_tests.tolerances        prints all of it as tables in Markdown
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

GROUPS = ("outputs", "stages", "losses", "gradients", "statistics", "parameters")
BACKBONES = ("resnet18", "resnet34", "resnet50")
# How many measured roundings are allowed: other weights and episodes than the measured ones, and
# the rounding of both sides instead of one.
FACTOR = 4.0
# What is allowed even where less was measured. Losses and stages: what the port promises.
LEAST = {
    "outputs": 2e-5,
    "losses": 1e-5,
    "stages": 1e-5,
    "stages, projection": 5e-5,
    "statistics": 1e-5,
    "statistics, projection": 1e-5,
}

# Group of quantities -> largest relative error that rounding explains.
Bounds = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """One bound.

    Attributes:
        quantity: what is compared.
        measured: the largest error that was found.
        bound: the largest error that is allowed.
        reason: why errors are there at all, and why so much is allowed.
    """

    quantity: str
    measured: float
    bound: float
    reason: str


_EXACT = "float64 leaves 13 digits; 12 in gradients that are sums of terms which nearly cancel"
DOUBLE_EPISODE = Tolerance("one episode in float64: all groups", 3.4e-12, 1e-10, _EXACT)
DOUBLE_UPDATE = Tolerance(
    "three optimizer steps in float64: all groups",
    2.3e-13,
    1e-9,
    "Adam divides by the root of squared gradients: where these are tiny, few digits are left",
)
DOUBLE: Bounds = dict.fromkeys(GROUPS, DOUBLE_EPISODE.bound)
DOUBLE_STEPS: Bounds = dict.fromkeys(GROUPS, DOUBLE_UPDATE.bound)

# PyTorch runs in float64 for these, so they are those of the rounding of float32 in JAX alone.
PIXELS = Tolerance(
    "pixels: one color operation, or normalization",
    8e-7,
    2e-6,
    "a few roundings of 6e-8; the hue, a quotient of differences times 6, has the most",
)
VIEWS = Tolerance(
    "pixels: a whole training view",
    9e-6,
    3e-5,
    "up to four operations in a row, each enlarging the error by half, then a division by 0.225",
)
RECORDED = Tolerance(
    "pixels: recorded color operations", 1e-6, 3e-6, "the recorded values are float32 themselves"
)
RECORDED_PROBE = Tolerance(
    "pixels: recorded norm, mean and two pixels, relative", 7e-8, 3e-7, "as above"
)
TIE = Tolerance(
    "gray levels this far from a half are rounded as in PyTorch",
    4e-3,
    1e-2,
    "tf.image.resize computes the places of its samples in float32",
)
DROPOUT_SCALE = Tolerance(
    "dropout: kept values are x / (1 − p)", 1.2e-7, 5e-7, "rounding of p, 1 − p and the quotient"
)
DROPOUT_OUTPUTS = Tolerance(
    "dropout: outputs of a module with the same masks",
    4e-6,
    2e-5,
    "values of about 5 behind products of up to 2048 numbers",
)
DROPOUT_ALARM = Tolerance(
    "dropout: probability of a false alarm of one statistical test",
    0.0,
    1e-6,
    "a few hundred tests: new seeds give a false alarm in fewer than one case in 1000",
)
TRAINING_LOSS = Tolerance(
    "training: loss of a step, float64",
    4.5e-11,
    1e-8,
    "Adam lifts a difference of 1e-16 at the first step a hundred thousand times within 40",
)
TRAINING_LOGITS = Tolerance(
    "training: match logits afterwards, float64, relative to the largest", 2.2e-10, 1e-7, "as above"
)
SAME_WEIGHTS_LOGITS = Tolerance(
    "training: match logits of the same weights, float32, relative to the largest",
    7.7e-7,
    1e-5,
    "rounding of one forward pass; a prediction may differ where its margin is below twice this",
)
TRAINING_FIRST_LOSS = Tolerance(
    "training: loss of the first step, float32", 4.2e-7, 2e-6, "rounding of one forward pass"
)
YARDSTICKS = Tolerance(
    "training: loss of a later step, float32, in units of PyTorch's float32 − float64",
    8.2,
    25.0,
    "both sides drift, each by the rounding of its own order of operations; Adam's first steps take"
    " the signs of gradients, so the drift begins with the first tiny gradient that changes its"
    " sign",
)
SINGLE: Sequence[Tolerance] = (
    DOUBLE_EPISODE,
    DOUBLE_UPDATE,
    PIXELS,
    VIEWS,
    RECORDED,
    RECORDED_PROBE,
    TIE,
    DROPOUT_SCALE,
    DROPOUT_OUTPUTS,
    DROPOUT_ALARM,
    TRAINING_FIRST_LOSS,
    YARDSTICKS,
    TRAINING_LOSS,
    TRAINING_LOGITS,
    SAME_WEIGHTS_LOGITS,
)


def _allowed(measured: float, least: float = 0.0, factor: float = FACTOR) -> float:
    return max(factor * measured, least * factor / FACTOR)


# Measured in float32: one forward pass at crop 224 with 3 frames. Outputs are scores, sums of
# `1 - cosine`; their error is relative to the largest, or to 1. Stages: the decoder's last maps and
# the deepest stage of the backbone are the worst.
FORWARD_ROUNDING: Mapping[tuple[str, str], Bounds] = {
    ("eval", "resnet18"): {"outputs": 1.1e-6, "stages": 1.1e-6, "losses": 3.3e-7},
    ("eval", "resnet34"): {"outputs": 6.2e-7, "stages": 3.0e-6, "losses": 4.8e-7},
    ("eval", "resnet50"): {"outputs": 7.8e-7, "stages": 3.7e-6, "losses": 5.5e-7},
    ("train", "resnet18"): {
        "outputs": 1.5e-6,
        "stages": 7.8e-6,
        "losses": 5.5e-7,
        "statistics": 4.5e-7,
    },
    ("train", "resnet34"): {
        "outputs": 6.2e-6,
        "stages": 2.9e-5,
        "losses": 2.4e-6,
        "statistics": 1.3e-6,
    },
    ("train", "resnet50"): {
        "outputs": 2.3e-5,
        "stages": 9.1e-5,
        "losses": 6.2e-6,
        "statistics": 4.6e-6,
    },
}
FORWARD: Mapping[tuple[str, str], Bounds] = {
    key: {group: _allowed(value, LEAST[group]) for group, value in measured.items()}
    for key, measured in FORWARD_ROUNDING.items()
}


@dataclasses.dataclass(frozen=True)
class Probes:
    """Errors of probes of arrays, relative to the recorded norm.

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
    """Errors of one kind of recorded file: measured, or allowed.

    Attributes:
        outputs: as in :data:`FORWARD`.
        losses: relative, for each optimizer step; the last also holds for those after it.
        stages, gradients, statistics, parameters: of the probes.
    """

    outputs: float | None = None
    losses: tuple[float, ...] = ()
    stages: Probes | None = None
    gradients: Probes | None = None
    statistics: Probes | None = None
    parameters: Probes | None = None

    def loss(self, step: int) -> float:
        """Returns the error of the losses of a step, counted from 0."""
        return self.losses[min(step, len(self.losses) - 1)]


# Measured in float32 at crop 224 with 8 frames. Rounding moves the gradients of early layers most:
# they are sums of large terms that nearly cancel. After a step of Adam, rounding in a tiny gradient
# is a whole step of its parameter, and every further step multiplies what this does to the losses
# by about ten.
GOLDEN_ROUNDING: Mapping[tuple[str, str], GoldenBounds] = {
    ("eval", "resnet18"): GoldenBounds(2.1e-6, (3.3e-7,), Probes(4.5e-7, 1.4e-5)),
    ("eval", "resnet34"): GoldenBounds(4.2e-6, (4.8e-7,), Probes(4.1e-7, 2.3e-5)),
    ("eval", "resnet50"): GoldenBounds(3.2e-6, (5.5e-7,), Probes(1.6e-6, 7.4e-5)),
    ("train", "resnet18"): GoldenBounds(
        outputs=2.0e-6,
        losses=(5.9e-7,),
        stages=Probes(4.5e-7, 1.4e-5),
        gradients=Probes(1.4e-3, 1.2e-2, 1.3e-5),
        statistics=Probes(7.4e-8, 3e-7),
    ),
    ("train", "resnet34"): GoldenBounds(
        outputs=3.4e-6,
        losses=(5.5e-7,),
        stages=Probes(3.4e-7, 3.9e-5),
        gradients=Probes(3.1e-3, 2.6e-2, 5.8e-5),
        statistics=Probes(1.7e-7, 5.1e-7),
    ),
    ("train", "resnet50"): GoldenBounds(
        outputs=1.4e-5,
        losses=(9.2e-6,),
        stages=Probes(2.8e-6, 1.4e-4),
        gradients=Probes(5.9e-3, 5.4e-2, 3.1e-4),
        statistics=Probes(4.3e-7, 3.7e-6),
    ),
    ("steps", "resnet18"): GoldenBounds(
        losses=(5.9e-7, 7.5e-5, 6.5e-3),
        statistics=Probes(2e-4, 6.4e-4),
        parameters=Probes(1e-4, 1.5e-3, 2e-7),
    ),
    ("steps", "resnet34"): GoldenBounds(
        losses=(4e-6, 5e-4, 6.5e-3),
        statistics=Probes(2e-4, 8.7e-4),
        parameters=Probes(2e-4, 2.7e-3, 4e-7),
    ),
    ("steps", "resnet50"): GoldenBounds(
        losses=(9.2e-6, 1.9e-3, 6.5e-3),
        statistics=Probes(4e-4, 2.3e-3),
        parameters=Probes(5e-4, 4.2e-3, 7.3e-7),
    ),
}


def _baseline(
    kind: str, backbone: str, loss: float, outputs: float | None = None, **medians: float
) -> GoldenBounds:
    """What was measured for MoLo, whose backbone is the same, with what was worse elsewhere.

    `loss` is that of the first step; `gradients` and `parameters` are medians of norms.
    """
    molo = GOLDEN_ROUNDING[kind, backbone]
    probes = {
        group: dataclasses.replace(getattr(molo, group), median_norm=median)
        for group, median in medians.items()
    }
    return dataclasses.replace(molo, outputs=outputs, losses=(loss, *molo.losses[1:]), **probes)


# The other methods together, the worst of them: ResNet-18 by the recorded files; deeper ones and
# the steps by files of `python -m parity_tests.golden.record` for OTAM, TRX and HyRSM++. Their
# scores are sums over more distances than MoLo's, and with a loss on the match alone, gradients are
# small differences in more of the layers.
BASELINE_ROUNDING: Mapping[tuple[str, str], GoldenBounds] = {
    (kind, f"resnet{depth}"): _baseline(kind, f"resnet{depth}", **measured)
    for (kind, depth), measured in {
        ("eval", 18): {"outputs": 4.1e-6, "loss": 1.4e-6},
        ("eval", 34): {"outputs": 4.2e-6, "loss": 1.4e-6},
        ("eval", 50): {"outputs": 5.3e-6, "loss": 1.7e-6},
        ("train", 18): {"outputs": 4.9e-6, "loss": 7.4e-7, "gradients": 4.4e-5},
        ("train", 34): {"outputs": 5.0e-6, "loss": 5.9e-7, "gradients": 1.4e-4},
        ("train", 50): {"outputs": 1.8e-5, "loss": 9.2e-6, "gradients": 3.1e-4},
        ("steps", 18): {"loss": 6.5e-7, "parameters": 2.9e-7},
        ("steps", 34): {"loss": 4e-6, "parameters": 4e-7},
        ("steps", 50): {"loss": 9.2e-6, "parameters": 1.0e-6},
    }.items()
}


def _allowed_probes(group: str, measured: Probes | None, factor: float) -> Probes | None:
    if measured is None:
        return None
    median = measured.median_norm
    return Probes(
        norm=_allowed(measured.norm, LEAST.get(group, 0.0), factor),
        projection=_allowed(measured.projection, LEAST.get(f"{group}, projection", 0.0), factor),
        median_norm=None if median is None else _allowed(median, factor=factor),
    )


def _allowed_golden(measured: GoldenBounds, factor: float = FACTOR) -> GoldenBounds:
    groups = ("stages", "gradients", "statistics", "parameters")
    outputs = measured.outputs
    return GoldenBounds(
        outputs=None if outputs is None else _allowed(outputs, LEAST["outputs"], factor),
        losses=tuple(_allowed(loss, LEAST["losses"], factor) for loss in measured.losses),
        **{group: _allowed_probes(group, getattr(measured, group), factor) for group in groups},
    )


# (kind, backbone) -> bounds for files of recorded values of MoLo, and of the other methods.
GOLDEN: Mapping[tuple[str, str], GoldenBounds] = {
    key: _allowed_golden(measured) for key, measured in GOLDEN_ROUNDING.items()
}
# The same in float64, where only the recorded side is rounded.
GOLDEN_DOUBLE: Mapping[tuple[str, str], GoldenBounds] = {
    key: _allowed_golden(measured, FACTOR / 2) for key, measured in GOLDEN_ROUNDING.items()
}
# Rounding is measured as the norm of all values of a stage; the worst single one is so much larger.
_WORST_VALUE = 10.0


def near_tie(kind: str, backbone: str) -> float:
    """Returns how far apart the two sides of a kink may be so that float32 may take the wrong one.

    Args:
        kind: "minima over frames": a difference of distances, `1 - cosine`, for which the bound of
            the outputs holds, as they are sums of distances. Otherwise relative to the root of the
            mean square of the values.
        backbone: its name.
    """
    if kind == "minima over frames":
        return GOLDEN["train", backbone].outputs
    return _WORST_VALUE * FORWARD["train", backbone]["stages"]


BASELINES: Mapping[tuple[str, str], GoldenBounds] = {
    key: _allowed_golden(measured) for key, measured in BASELINE_ROUNDING.items()
}


def golden_bounds(method: str, kind: str, backbone: str) -> GoldenBounds:
    """Returns the bounds for a file of recorded values."""
    return (GOLDEN if method == "molo" else BASELINES)[kind, backbone]


def tables() -> str:
    """Returns all tolerances as two tables in Markdown; `parity_tests/README.md` holds them."""
    lines = ["| quantity | measured | allowed | why |", "|---|---|---|---|"]
    for one in SINGLE:
        measured = f"{one.measured:.1g}" if one.measured else "–"
        lines.append(f"| {one.quantity} | {measured} | {one.bound:g} | {one.reason} |")
    names = (backbone.replace("resnet", "ResNet-") for backbone in BACKBONES)
    lines += ["", f"| float32: measured, allowed | {' | '.join(names)} |", "|---|---|---|---|"]
    rows: dict[str, dict[str, str]] = {}
    for backbone in BACKBONES:
        for name, measured, bound in _numbers(backbone):
            rows.setdefault(name, {})[backbone] = f"{measured:.0e}, {bound:.0e}"
    for name, cells in rows.items():
        # What the row of MoLo says already is left out.
        if name.startswith(_BASELINES) and cells == rows.get(name.replace(_BASELINES, "recorded")):
            continue
        lines.append(f"| {name} | {' | '.join(cells[backbone] for backbone in BACKBONES)} |")
    return "\n".join(lines)


_FIELDS = {"median_norm": "median norm", "norm": "norm", "projection": "projection"}
_BASELINES = "recorded, other methods"


def _numbers(backbone: str) -> Iterator[tuple[str, float, float]]:
    """Yields quantity, measured and allowed error of everything that differs by backbone."""
    for mode in ("eval", "train"):
        for group, measured in FORWARD_ROUNDING[mode, backbone].items():
            yield f"layers, {mode}: {group}", measured, FORWARD[mode, backbone][group]
    for title, rounding, bounds in (
        ("recorded", GOLDEN_ROUNDING, GOLDEN),
        (_BASELINES, BASELINE_ROUNDING, BASELINES),
    ):
        for kind in ("eval", "train", "steps"):
            measured, allowed = rounding[kind, backbone], bounds[kind, backbone]
            yield from _golden_numbers(f"{title}, {kind}", measured, allowed)


def _golden_numbers(
    title: str, measured: GoldenBounds, allowed: GoldenBounds
) -> Iterator[tuple[str, float, float]]:
    if measured.outputs is not None:
        yield f"{title}: outputs", measured.outputs, allowed.outputs
    for step, loss in enumerate(measured.losses):
        where = f" of step {step + 1}" if title.endswith("steps") else ""
        yield f"{title}: losses{where}", loss, allowed.losses[step]
    for group in ("stages", "gradients", "statistics", "parameters"):
        probes = getattr(measured, group)
        for field, words in _FIELDS.items():
            value = None if probes is None else getattr(probes, field)
            if value is not None:
                yield f"{title}: {group}, {words}", value, getattr(getattr(allowed, group), field)


if __name__ == "__main__":
    print(tables())
