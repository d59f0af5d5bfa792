"""Hybrid relation of the videos of an episode, matched by the Hausdorff metric.

Reference: Wang et al., Hybrid Relation Guided Set Matching for Few-shot Action Recognition, CVPR
2022.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from molo_torch_ref.frames import FrameNetwork
from molo_torch_ref.layers import MAX_POSITIONS, Attention, PositionalEncoder, Residual
from molo_torch_ref.matching import bi_mean_hausdorff, class_means, prototypes
from molo_torch_ref.structures import Output, check_clips

_HEADS = 8


class RelationAttention(nn.Module):
    """``LayerNorm(x + Drop(Linear(MHA(x))))`` over the videos of an episode ``(q, s + 1, d)``."""

    def __init__(self, width: int, dropout: float, dropout_weights: float):
        super().__init__()
        self.w_qs = nn.Linear(width, width, bias=False)
        self.w_ks = nn.Linear(width, width, bias=False)
        self.w_vs = nn.Linear(width, width, bias=False)
        self.layer_norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, width)
        self.dropout, self.dropout_weights = nn.Dropout(dropout), nn.Dropout(dropout_weights)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            linear(x).unflatten(-1, (_HEADS, -1)).transpose(1, 2)
            for linear in (self.w_qs, self.w_ks, self.w_vs)
        )
        weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
        heads = self.dropout_weights(weights) @ value
        return self.layer_norm(x + self.dropout(self.fc(heads.transpose(1, 2).flatten(2))))


class HyRSM(FrameNetwork):
    """HyRSM for up to 20 frames.

    Args:
        num_classes: number of training classes.
        backbone: name of the backbone.
        prototypes_first: average the shots of a class before the relation (the official "5-shot"
            head), not the distances to them afterwards. With one shot both are the same.
        positional_a, positional_b: A and B of the positional encoding.
        dropout_position: dropout after the positional encoding.
        dropout_attention: after the attention between the frames of a video.
        dropout_relation, dropout_relation_weights: after the attention between videos, and on its
            weights.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet50",
        *,
        prototypes_first: bool = True,
        positional_a: float = 10.0,
        positional_b: float = 1.0,
        dropout_position: float = 0.1,
        dropout_attention: float = 0.2,
        dropout_relation: float = 0.05,
        dropout_relation_weights: float = 0.1,
    ):
        super().__init__(backbone)
        width = self.width
        self.prototypes_first = prototypes_first
        self.pe = PositionalEncoder(width, a=positional_a, b=positional_b, dropout=dropout_position)
        self.temporal_atte_before = Residual(width, Attention(width, dropout_attention))
        self.temporal_atte = RelationAttention(width, dropout_relation, dropout_relation_weights)
        self.layer2 = nn.Sequential(nn.Conv1d(2 * width, width, 1))
        self.classification_layer = nn.Linear(width, num_classes)

    def forward(self, support: Tensor, query: Tensor, support_labels: Tensor, n_way: int) -> Output:
        """Runs one episode; arguments and errors as those of :class:`MoLo`."""
        check_clips(support, query, most=MAX_POSITIONS)
        frames_s, frames_q = self.frame_features(support, query)
        encoded_s = self.temporal_atte_before(self.pe(frames_s)).relu()
        encoded_q = self.temporal_atte_before(self.pe(frames_q)).relu()
        class_logits = self.classification_layer(torch.cat([encoded_s, encoded_q]).flatten(0, 1))
        labels = support_labels
        if self.prototypes_first:
            encoded_s = prototypes(encoded_s, labels, n_way)
            labels = torch.arange(n_way, device=labels.device)
        tokens_s, tokens_q = self._related(encoded_s, encoded_q)
        cosines = torch.einsum("qid,qsjd->qsij", _unit(tokens_q), _unit(tokens_s))
        distances = bi_mean_hausdorff(1.0 - cosines)
        return Output(
            logits=-class_means(distances, labels, n_way),
            class_logits=class_logits,
            coherence=self._coherence(tokens_s, tokens_q),
        )

    def _related(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """New frame tokens that know the other videos: support ``(q, s, t, d)``, query (q, t, d).

        Every query has a relation of its own, so the tokens of the support depend on the query.
        """
        videos = support.mean(1).expand(len(query), -1, -1), query.mean(1, keepdim=True)
        related = self.temporal_atte(torch.cat(videos, dim=1)).relu()
        support = support.expand(len(query), -1, -1, -1)
        tokens_s = self._mixed(support.flatten(0, 1), related[:, :-1].flatten(0, 1))
        return tokens_s.unflatten(0, support.shape[:2]), self._mixed(query, related[:, -1])

    def _mixed(self, frames: Tensor, related: Tensor) -> Tensor:
        """Maps each frame of ``(v, t, d)`` together with its video's relation ``(v, d)``."""
        repeated = related[:, None].expand_as(frames)
        return self.layer2(torch.cat([frames, repeated], -1).transpose(1, 2)).transpose(1, 2)

    def _coherence(self, support: Tensor, query: Tensor) -> Tensor | None:
        """The term that HyRSM++ adds."""
        del support, query
        return None


def _unit(tokens: Tensor) -> Tensor:
    return F.normalize(tokens, dim=-1, eps=1e-12)
