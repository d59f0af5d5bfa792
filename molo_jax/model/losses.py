"""Loss of one episode and its terms.

Reference: Wang et al., MoLo, CVPR 2023, its training objective.
"""

import dataclasses

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from molo_jax.model.structures import Episode, MoLoOutput

# Every term of the loss, in the order of reports.
TERMS = (
    "match",
    "classification",
    "s2q",
    "q2s",
    "s2q_motion",
    "q2s_motion",
    "reconstruction",
)


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms.

    Attributes:
        classification: weight of the auxiliary classifier's cross-entropy.
        contrast: weight of each of the four long-short cross-entropies.
        reconstruction: weight of the autodecoder's mean squared error.
        accumulation: number of episodes over which the official code accumulates gradients. Quirk
            kept: the cross-entropies are divided by it and the reconstruction is not, so the
            reconstruction counts this many times.
    """

    classification: float
    contrast: float
    reconstruction: float
    accumulation: int = 4


def cross_entropy(logits: Float[Array, "v k"], labels: Int[Array, "v"]) -> Float[Array, ""]:
    """Mean cross-entropy of softmax scores against integer labels, in nats."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def loss_terms(output: MoLoOutput, episode: Episode) -> dict[str, Float[Array, ""]]:
    """Computes the unweighted terms, named as in :data:`TERMS`.

    Raises:
        ValueError: if the output was computed without reconstruction.
    """
    if output.reconstruction is None:
        raise ValueError("the loss needs the reconstruction: run the model with reconstruct=True")
    logits, labels = output.logits, episode.query_labels
    classes = jnp.concatenate([episode.support_classes, episode.query_classes])
    error = output.reconstruction - output.reconstruction_target
    return {
        "match": cross_entropy(logits.match, labels),
        "classification": cross_entropy(output.class_logits, classes),
        "s2q": cross_entropy(logits.support_to_query, labels),
        "q2s": cross_entropy(logits.query_to_support, labels),
        "s2q_motion": cross_entropy(logits.support_to_query_motion, labels),
        "q2s_motion": cross_entropy(logits.query_to_support_motion, labels),
        "reconstruction": jnp.mean(jnp.square(error)),
    }


def total_loss(terms: dict[str, Float[Array, ""]], weights: LossWeights) -> Float[Array, ""]:
    """Weighs the terms of one episode; a step minimizes the mean of this over its episodes.

    ``match + l_cls classification + l_con (s2q + q2s + s2q_motion + q2s_motion)
    + accumulation l_rec reconstruction``
    """
    contrast = terms["s2q"] + terms["q2s"] + terms["s2q_motion"] + terms["q2s_motion"]
    return (
        terms["match"]
        + weights.classification * terms["classification"]
        + weights.contrast * contrast
        + weights.accumulation * weights.reconstruction * terms["reconstruction"]
    )
