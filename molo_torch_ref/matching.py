"""Prototypes and the distances between frame sequences.

References: the bidirectional mean Hausdorff metric is that of Wang et al., HyRSM, CVPR 2022; the
ordered temporal alignment that of Cao et al., OTAM, CVPR 2020, section 3.3; the long-short
distances those of Wang et al., MoLo, CVPR 2023, "Long-short contrastive objective".
"""

import torch
from torch import Tensor
from torch.nn import functional as F

MATCHINGS = ("bi_mhm", "otam")
# Softness of OTAM's minimum, lambda.
SMOOTHING = 0.1
_EPSILON = 0.01


def prototypes(tokens: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Mean token sequences ``(n, l, d)`` of the classes' shots ``(s, l, d)``, in label order."""
    return torch.stack([tokens[labels == label].mean(0) for label in range(n_way)])


def class_means(scores: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Mean scores ``(q, n)`` over the shots of each class, from scores ``(q, s)`` of videos."""
    return torch.stack([scores[:, labels == label].mean(1) for label in range(n_way)], dim=1)


def cosine_distances(query: Tensor, classes: Tensor) -> Tensor:
    """``1 - a.b / (|a| |b| + 0.01)`` between all tokens: ``(q, n, i, j)``."""
    products = torch.einsum("qid,njd->qnij", query, classes)
    norms = torch.einsum("qi,nj->qnij", query.norm(dim=-1), classes.norm(dim=-1))
    return 1.0 - products / (norms + _EPSILON)


def bi_mean_hausdorff(distances: Tensor, single_direction: bool = False) -> Tensor:
    """``sum_i min_j + sum_j min_i`` over frame tokens ``(q, n, i, j)``; sums in place of means."""
    query_to_class = distances.min(dim=3).values.sum(dim=2)
    if single_direction:
        return query_to_class
    return query_to_class + distances.min(dim=2).values.sum(dim=2)


def otam(distances: Tensor, smoothing: float = SMOOTHING) -> Tensor:
    """Cost of the best ordered alignment, of both directions together: ``(q, n, i, j)`` to (q, n).

    The minimum over alignments is soft: ``-smoothing log sum exp(-cost / smoothing)``.
    """
    return _aligned(distances, smoothing) + _aligned(distances.transpose(-1, -2), smoothing)


def _aligned(distances: Tensor, smoothing: float) -> Tensor:
    """One direction: a path goes down the rows; in the two padded columns it may start and end."""

    def softest(*costs: Tensor) -> Tensor:
        # By logsumexp: exp(-cost / smoothing) itself is 0 in float32 for costs of nine frames.
        return -smoothing * torch.logsumexp(-torch.stack(costs) / smoothing, dim=0)

    padded = F.pad(distances, (1, 1))
    last = padded.shape[-1] - 1
    # Quirk kept: the first row is a plain sum, not softened.
    above = padded[..., 0, :].cumsum(-1).unbind(-1)
    for costs in padded.unbind(-2)[1:]:
        row = [torch.zeros_like(above[0])]
        for column in range(1, last + 1):
            before = [above[column - 1], row[column - 1]]
            if column in (1, last):
                before.append(above[column])
            row.append(costs[..., column] + softest(*before))
        above = row
    return above[last]


def match_stream(
    support: Tensor,
    query: Tensor,
    labels: Tensor,
    n_way: int,
    single_direction: bool,
    matching: str = "bi_mhm",
    smoothing: float = SMOOTHING,
) -> tuple[Tensor, Tensor, Tensor]:
    """Distances of one stream, each ``(q, n)``; token 0 of every sequence is the global one.

    Returns:
        Frames to frames (Bi-MHM or OTAM); the class's frames to the query's global token; the
        query's frames to the class's global token.
    """
    distances = cosine_distances(query, prototypes(support, labels, n_way))
    between = distances[:, :, 1:, 1:]
    if matching == "otam":
        frames = otam(between, smoothing)
    else:
        frames = bi_mean_hausdorff(between, single_direction)
    return frames, distances[:, :, 0, 1:].sum(2), distances[:, :, 1:, 0].sum(2)
