"""Prototypes and the distances between token sequences.

Reference: Wang et al., MoLo, CVPR 2023, "Long-short contrastive objective"; the bidirectional mean
Hausdorff metric is that of Wang et al., HyRSM, CVPR 2022.
"""

import torch
from torch import Tensor

_EPSILON = 0.01


def prototypes(tokens: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Mean token sequences ``(n, l, d)`` of the classes' shots ``(s, l, d)``, in label order."""
    return torch.stack([tokens[labels == label].mean(0) for label in range(n_way)])


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


def match_stream(
    support: Tensor, query: Tensor, labels: Tensor, n_way: int, single_direction: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Distances of one stream, each ``(q, n)``; token 0 of every sequence is the global one.

    Returns:
        Frames to frames (Bi-MHM); the class's frames to the query's global token; the query's
        frames to the class's global token.
    """
    distances = cosine_distances(query, prototypes(support, labels, n_way))
    frames = bi_mean_hausdorff(distances[:, :, 1:, 1:], single_direction)
    return frames, distances[:, :, 0, 1:].sum(2), distances[:, :, 1:, 0].sum(2)
