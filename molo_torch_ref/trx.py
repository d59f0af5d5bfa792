"""Temporal-relational cross-attention between tuples of frames.

Reference: Perrett et al., Temporal-Relational CrossTransformers for Few-Shot Action Recognition,
CVPR 2021, section 3.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from molo_torch_ref.frames import FrameNetwork
from molo_torch_ref.structures import Output, check_clips

# Width of keys and values, whatever the backbone is.
_WIDTH = 1152
_POSITION_WEIGHT = 0.1


class TextbookPositions(nn.Module):
    """``Drop(x + 0.1 pe)``, with the sinusoid of Vaswani et al. (2017, section 3.5)."""

    def __init__(self, width: int, frames: int, dropout: float):
        super().__init__()
        # Checkpoints hold half as many positions more than frames.
        position = torch.arange(frames * 3 // 2, dtype=torch.float64)[:, None]
        channel = torch.arange(width)
        angle = position / 10000.0 ** ((channel - channel % 2).double() / width)
        pe = torch.where(channel % 2 == 0, angle.sin(), angle.cos())
        self.register_buffer("pe", _POSITION_WEIGHT * pe.float()[None])
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x + self.pe[:, : x.shape[1]])


class CrossTransformer(nn.Module):
    """Cross-attention from the tuples of a query to those of each class's shots.

    Args:
        width: channels of a frame.
        frames: frames of a clip.
        cardinality: frames of a tuple.
        dropout: of the positional encoding.
    """

    def __init__(self, width: int, frames: int, cardinality: int, dropout: float):
        super().__init__()
        self.pe = TextbookPositions(width, frames, dropout)
        self.k_linear = nn.Linear(cardinality * width, _WIDTH)
        self.v_linear = nn.Linear(cardinality * width, _WIDTH)
        self.norm_k = nn.LayerNorm(_WIDTH)
        # In checkpoints, but without use.
        self.norm_v = nn.LayerNorm(_WIDTH)
        # Checkpoints hold the tuples as parameters; they are constants.
        ordered = itertools.combinations(range(frames), cardinality)
        fixed = (nn.Parameter(torch.tensor(one), requires_grad=False) for one in ordered)
        self.tuples = nn.ParameterList(fixed)

    def forward(self, support: Tensor, query: Tensor, labels: Tensor, n_way: int) -> Tensor:
        """Logits ``(q, n)`` from frame features ``(s, t, d)`` and ``(q, t, d)``."""
        tuples_s, tuples_q = self._tuples(support), self._tuples(query)
        keys_s, keys_q = self.norm_k(self.k_linear(tuples_s)), self.norm_k(self.k_linear(tuples_q))
        values_s, values_q = self.v_linear(tuples_s), self.v_linear(tuples_q)
        distances = []
        for label in range(n_way):
            shots = labels == label
            # One softmax over all tuples of all shots of the class.
            keys, values = keys_s[shots].flatten(0, 1), values_s[shots].flatten(0, 1)
            weights = (keys_q @ keys.T / _WIDTH**0.5).softmax(-1)
            difference = values_q - weights @ values
            distances.append(difference.square().sum((1, 2)) / len(self.tuples))
        return -torch.stack(distances, dim=1)

    def _tuples(self, frames: Tensor) -> Tensor:
        """The frames of every ordered tuple in a row: ``(v, tuples, cardinality d)``."""
        return self.pe(frames)[:, torch.stack(list(self.tuples))].flatten(2)


class TRX(FrameNetwork):
    """The mean of the logits of one :class:`CrossTransformer` for each cardinality.

    Args:
        backbone: name of the backbone.
        frames: frames of a clip.
        cardinalities: numbers of frames of the tuples.
        dropout_position: dropout after the positional encoding.

    Raises:
        ValueError: if a clip has fewer frames than a tuple.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        *,
        frames: int = 8,
        cardinalities: Sequence[int] = (2, 3),
        dropout_position: float = 0.1,
    ):
        super().__init__(backbone)
        if frames < max(cardinalities):
            raise ValueError(
                f"clips of {frames} frames have no tuples of {max(cardinalities)};"
                f" give at least {max(cardinalities)} frames, or smaller cardinalities"
            )
        self.frames = frames
        self.transformers = nn.ModuleList(
            CrossTransformer(self.width, frames, cardinality, dropout_position)
            for cardinality in cardinalities
        )

    def forward(self, support: Tensor, query: Tensor, support_labels: Tensor, n_way: int) -> Output:
        """Runs one episode; arguments and errors as those of :class:`MoLo`."""
        check_clips(support, query, least=self.frames, most=self.frames)
        features = self.frame_features(support, query)
        logits = [one(*features, support_labels, n_way) for one in self.transformers]
        return Output(logits=torch.stack(logits).mean(0))
