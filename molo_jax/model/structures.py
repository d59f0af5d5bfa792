"""Frozen structures that the model takes and returns; all are JAX pytrees.

Letters: v videos, s support, q query, n way, t frame, h w space, c channel, d feature.
"""

import dataclasses
from typing import Any

import jax
from jaxtyping import Array, Float, Int


def _pytree(cls):
    """Makes a frozen dataclass whose fields are all pytree children."""
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


@dataclasses.dataclass(frozen=True)
class MoLoConfig:
    """Everything that fixes the computation of a MoLo network.

    Attributes:
        num_classes: number of training classes, the outputs of the auxiliary classifier.
        backbone: ``resnet18``, ``resnet34`` or ``resnet50``.
        positional_a: tokens are scaled by ``sqrt(D / positional_a)`` before the sinusoids are
            added.
        positional_b: weight of the sinusoids.
        motion_weight: weight of motion distances beside appearance distances.
        single_direction: keeps only the query-to-class half of the Hausdorff metric.
        dropout_position: dropout rate after the positional encoding.
        dropout_attention: dropout rate on the output of attention.
        dropout_feedforward: dropout rate of both feed-forward layers.
    """

    num_classes: int
    backbone: str = "resnet50"
    positional_a: float = 10.0
    positional_b: float = 1.0
    motion_weight: float = 0.3
    single_direction: bool = False
    dropout_position: float = 0.1
    dropout_attention: float = 0.2
    dropout_feedforward: float = 0.05


@_pytree
class Sets:
    """The same quantity of the support set and of the query set."""

    support: Any
    query: Any


@_pytree
class Tokens:
    """Encoded token sequences of clips; token 0 is the global (class) token."""

    appearance: Float[Array, "v t+1 d"]
    motion: Float[Array, "v t d"]


@_pytree
class Matching:
    """Class scores of every query.

    Attributes:
        match: negative distances, appearance plus weighted motion: what predictions are made from.
        support_to_query, query_to_support: negative long-short distances of the appearance stream.
        support_to_query_motion, query_to_support_motion: the same of the motion stream.
    """

    match: Float[Array, "q n"]
    support_to_query: Float[Array, "q n"]
    query_to_support: Float[Array, "q n"]
    support_to_query_motion: Float[Array, "q n"]
    query_to_support_motion: Float[Array, "q n"]


@_pytree
class Stages:
    """Intermediate values of a forward pass; each is a :class:`Sets` unless said otherwise.

    Attributes:
        pool, layer1, layer2, layer3, layer4: backbone maps ``(v, t, h', w', c)``.
        motion_reduce, motion_conv: reduced maps and their convolution ``(v, t, h', w', m)``.
        motion_up: difference maps lifted to ``d`` channels, before ReLU ``(v, t-1, h', w', d)``.
        pe, pe_motion: tokens after the positional encoding.
        attention, feedforward, encoded: stages of the appearance encoder; ``encoded`` before ReLU.
        attention_motion, feedforward_motion, encoded_motion: the same of the motion encoder.
        up1, up2, up3, outc: decoder maps of all videos, support first ``(v, t-1, h', w', c)``
            (arrays; ``None`` where the reconstruction was not asked for).
    """

    pool: Sets
    layer1: Sets
    layer2: Sets
    layer3: Sets
    layer4: Sets
    motion_reduce: Sets
    motion_conv: Sets
    motion_up: Sets
    pe: Sets
    pe_motion: Sets
    attention: Sets
    feedforward: Sets
    encoded: Sets
    attention_motion: Sets
    feedforward_motion: Sets
    encoded_motion: Sets
    up1: Array | None
    up2: Array | None
    up3: Array | None
    outc: Array | None


@_pytree
class MoLoOutput:
    """Everything a forward pass over one episode computes.

    Attributes:
        logits: class scores of the queries.
        class_logits: scores of the training classes, support then query videos.
        tokens: encoded tokens of both sets.
        reconstruction: decoded frame differences, support then query (``None`` if not asked for).
        reconstruction_target: differences of consecutive normalized frames, in the same order.
        stages: intermediate values, by name.
    """

    logits: Matching
    class_logits: Float[Array, "v k"]
    tokens: Sets
    reconstruction: Float[Array, "v t-1 h w 3"] | None
    reconstruction_target: Float[Array, "v t-1 h w 3"]
    stages: Stages


@_pytree
class Episode:
    """One few-shot task with its pixels.

    Attributes:
        support, query: normalized clips.
        support_labels, query_labels: class within the episode, ``0 .. n_way - 1``.
        support_classes, query_classes: index of the training class, for the auxiliary classifier.
    """

    support: Float[Array, "s t h w 3"]
    query: Float[Array, "q t h w 3"]
    support_labels: Int[Array, "s"]
    query_labels: Int[Array, "q"]
    support_classes: Int[Array, "s"]
    query_classes: Int[Array, "q"]
