"""What is recorded of each method: one table, which both backends, files and tests look up."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Method:
    """One method's names.

    Attributes:
        arguments: settings of a case that the method's network takes (:meth:`Case.network`).
        dropouts: probabilities that the network takes; all are 0 in a case.
        outputs: fields of the network's output that are compared.
        losses: a loss term's name in recorded files -> ours.
        coefficients: a weight's name in recorded files -> field of `Coefficients`.
        stages: official module -> how often it is called in one episode.
        unrecorded: stages that both backends compare but that no recorded file has.
        class_rows: what the auxiliary classifier scores: `video`, `frame`, or `None` without one.
        unused: endings of the names of parameters that enter no loss.
        cancelled: endings of the names of biases whose gradient is 0 but for rounding, so that it
            is judged by the size of the gradient of their layer's weight.
    """

    arguments: tuple[str, ...]
    stages: Mapping[str, int]
    dropouts: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ("logits",)
    losses: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"match": "match"})
    coefficients: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unrecorded: tuple[str, ...] = ()
    class_rows: str | None = None
    unused: tuple[str, ...] = ()
    cancelled: tuple[str, ...] = ()


_MAPS = dict.fromkeys((f"backbone.{number}" for number in range(3, 8)), 2)
_POOLED = _MAPS | {"backbone.8": 2}
_MATCH = {"match": "match"}
_CLASSES = {"cls": "classification"}

_MOLO = Method(
    arguments=("num_classes", "backbone", "positional_a", "positional_b"),
    dropouts=("dropout_position", "dropout_attention", "dropout_feedforward"),
    outputs=(
        "logits",
        "class_logits",
        "logits_s2q",
        "logits_q2s",
        "logits_s2q_motion",
        "logits_q2s_motion",
    ),
    losses=_MATCH
    | _CLASSES
    | {name: name for name in ("s2q", "q2s", "s2q_motion", "q2s_motion")}
    | {"recons": "reconstruction"},
    coefficients=_CLASSES | {"con": "contrast", "rec": "reconstruction"},
    stages={
        **_MAPS,
        "motion_reduce": 2,
        "motion_conv": 2,
        "motion_up": 2,
        "up1": 1,
        "up2": 1,
        "up3": 1,
        "outc": 1,
        "pe": 4,
        "temporal_atte_before.layers.0.0": 2,
        "temporal_atte_before.layers.0.1": 2,
        "temporal_atte_before": 2,
        "temporal_atte_before_motion.layers.0.0": 2,
        "temporal_atte_before_motion.layers.0.1": 2,
        "temporal_atte_before_motion": 2,
        "classification_layer": 1,
    },
    unrecorded=(
        "temporal_atte_before_motion.layers.0.0",
        "temporal_atte_before_motion.layers.0.1",
    ),
    class_rows="video",
)
_FRAMES = Method(arguments=("backbone",), stages=_POOLED)
_TRX = Method(
    arguments=("backbone", "frames"),
    dropouts=("dropout_position",),
    stages=_POOLED
    | {
        f"transformers.{number}.{module}": 2
        for number in range(2)
        for module in ("pe", "k_linear", "v_linear", "norm_k")
    },
    unused=("norm_v.weight", "norm_v.bias"),
    # A prototype is a mean of values, so the bias is in both of what is subtracted.
    cancelled=("v_linear.bias",),
)
_HYRSM = Method(
    arguments=("num_classes", "backbone", "positional_a", "positional_b"),
    dropouts=(
        "dropout_position",
        "dropout_attention",
        "dropout_relation",
        "dropout_relation_weights",
    ),
    outputs=("logits", "class_logits"),
    losses=_MATCH | _CLASSES,
    coefficients=_CLASSES,
    stages={
        **_POOLED,
        "pe": 2,
        "temporal_atte_before": 2,
        "temporal_atte": 1,
        "layer2": 2,
        "classification_layer": 1,
    },
    class_rows="frame",
)

METHODS: Mapping[str, Method] = {
    "molo": _MOLO,
    "protonet": _FRAMES,
    "bi_mhm": _FRAMES,
    "otam": _FRAMES,
    "trx": _TRX,
    "hyrsm": _HYRSM,
    "hyrsm_pp": dataclasses.replace(
        _HYRSM,
        losses=_HYRSM.losses | {"temporal": "temporal"},
        coefficients=_HYRSM.coefficients | {"temporal": "temporal"},
    ),
}


def judged_by(name: str, cancelled: tuple[str, ...]) -> str:
    """Returns the name of the parameter whose gradient is the measure for that of `name`."""
    is_cancelled = bool(cancelled) and name.endswith(cancelled)
    return f"{name.removesuffix('bias')}weight" if is_cancelled else name


def is_fixed(name: str) -> bool:
    """Whether a tensor of a checkpoint is computed from the settings, and neither learnt nor drawn.

    These are the positional encodings and the frame numbers of TRX's tuples.
    """
    return name.endswith("pe.pe") or ".tuples." in name
