"""Loss of one episode and its terms, for every method."""

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

from molo_torch_ref.structures import Episode, Output

_CONTRAST = ("s2q", "q2s", "s2q_motion", "q2s_motion")


@dataclasses.dataclass(frozen=True)
class Coefficients:
    """Weights of the terms beside the match; a method without the term ignores its weight.

    Attributes:
        classification: of the auxiliary classifier (MoLo, HyRSM, HyRSM++).
        contrast: of each long-short term (MoLo).
        reconstruction: of the decoded motion (MoLo).
        temporal: of the temporal coherence (HyRSM++).
    """

    classification: float = 0.0
    contrast: float = 0.0
    reconstruction: float = 0.0
    temporal: float = 0.0


def loss_terms(output: Output, episode: Episode) -> dict[str, Tensor]:
    """Computes the unweighted terms of the method that made the output.

    Returns:
        ``match`` always, and what the output has values for: ``classification``, the four
        long-short terms (cross-entropies in nats), ``reconstruction`` (mean squared error) and
        ``temporal``.
    """
    labels = episode.query_labels
    terms = {"match": F.cross_entropy(output.logits, labels)}
    if output.class_logits is not None:
        classes = torch.cat([episode.support_classes, episode.query_classes])
        # One row a video, or one for each of its frames.
        rows = classes.repeat_interleave(len(output.class_logits) // len(classes))
        terms["classification"] = F.cross_entropy(output.class_logits, rows)
    for name in _CONTRAST:
        logits = getattr(output, f"logits_{name}")
        if logits is not None:
            terms[name] = F.cross_entropy(logits, labels)
    if output.reconstruction is not None:
        terms["reconstruction"] = F.mse_loss(output.reconstruction, output.reconstruction_target)
    if output.coherence is not None:
        terms["temporal"] = output.coherence
    return terms


def total_loss(
    terms: dict[str, Tensor], coefficients: Coefficients, accumulation: int = 1
) -> Tensor:
    """What one of ``accumulation`` episodes adds to the loss of an optimizer step.

    Quirk kept: the reconstruction is not divided by the number of accumulated episodes.
    """
    weights = {"match": 1.0, "classification": coefficients.classification}
    weights |= dict.fromkeys(_CONTRAST, coefficients.contrast)
    weights |= {"temporal": coefficients.temporal}
    weights |= {"reconstruction": coefficients.reconstruction * accumulation}
    return sum(weights[name] * term for name, term in terms.items()) / accumulation
