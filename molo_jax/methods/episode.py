"""Frozen structures that the methods take and return; all are JAX pytrees.

Letters: v videos, s support, q query, n way, t frame, h w space, c channel, d feature.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# What a method keeps of clips: any pytree whose leaves have the clips as their leading axis.
Features = Any


def pytree(cls):
    """Makes a frozen dataclass whose fields are all pytree children."""
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


@pytree
class Sets:
    """The same quantity of the support set and of the query set."""

    support: Any
    query: Any


@pytree
class Episode:
    """One few-shot task with its pixels.

    Attributes:
        support, query: normalized clips.
        support_labels, query_labels: class within the episode, ``0 .. n_way - 1``.
        support_classes, query_classes: index of the training class, for an auxiliary classifier.
    """

    support: Float[Array, "s t h w 3"]
    query: Float[Array, "q t h w 3"]
    support_labels: Int[Array, "s"]
    query_labels: Int[Array, "q"]
    support_classes: Int[Array, "s"]
    query_classes: Int[Array, "q"]

    @property
    def classes(self) -> Int[Array, "v"]:
        """Training classes of all clips, those of the support set first."""
        return jnp.concatenate([self.support_classes, self.query_classes])


@pytree
class Training:
    """What a method computes of an episode that it learns from.

    Attributes:
        logits: scores of the classes for every query; the largest is the prediction.
        losses: the terms of the loss by name, unweighted; scalars.
        metrics: further scalars that are reported, such as the accuracy of an auxiliary classifier.
        stages: intermediate values by name, for comparisons; a compiled program drops them.
    """

    logits: Float[Array, "q n"]
    losses: dict[str, Float[Array, ""]]
    metrics: dict[str, Float[Array, ""]]
    stages: dict[str, Any]
