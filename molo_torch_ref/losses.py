"""Loss of one episode and its terms."""

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

from molo_torch_ref.model import Episode, Output


@dataclasses.dataclass(frozen=True)
class Coefficients:
    """Weights of the auxiliary classifier, of each contrastive term and of the reconstruction."""

    classification: float
    contrast: float
    reconstruction: float


def loss_terms(output: Output, episode: Episode) -> dict[str, Tensor]:
    """Computes the unweighted terms: cross-entropies in nats, and the mean squared error."""
    labels = episode.query_labels
    classes = torch.cat([episode.support_classes, episode.query_classes])
    return {
        "match": F.cross_entropy(output.logits, labels),
        "classification": F.cross_entropy(output.class_logits, classes),
        "s2q": F.cross_entropy(output.logits_s2q, labels),
        "q2s": F.cross_entropy(output.logits_q2s, labels),
        "s2q_motion": F.cross_entropy(output.logits_s2q_motion, labels),
        "q2s_motion": F.cross_entropy(output.logits_q2s_motion, labels),
        "reconstruction": F.mse_loss(output.reconstruction, output.reconstruction_target),
    }


def total_loss(
    terms: dict[str, Tensor], coefficients: Coefficients, accumulation: int = 1
) -> Tensor:
    """What one of ``accumulation`` episodes adds to the loss of an optimizer step.

    Quirk kept: the reconstruction is not divided by the number of accumulated episodes.
    """
    contrast = terms["s2q"] + terms["q2s"] + terms["s2q_motion"] + terms["q2s_motion"]
    entropies = (
        terms["match"]
        + coefficients.classification * terms["classification"]
        + coefficients.contrast * contrast
    )
    return entropies / accumulation + coefficients.reconstruction * terms["reconstruction"]
