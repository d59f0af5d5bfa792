"""HyRSM with a temporal coherence term on the frames of each video.

Reference: Wang et al., HyRSM++: Hybrid Relation Guided Temporal Set Matching for Few-shot Action
Recognition, Pattern Recognition 2024.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from molo_torch_ref.hyrsm import HyRSM


class HyRSMPlusPlus(HyRSM):
    """HyRSM++.

    Args:
        num_classes: number of training classes.
        backbone: name of the backbone.
        window: frames at most so far apart are drawn together, all others are pushed apart.
        balance: sigma squared; the larger, the slower the margin grows with the distance in time.
        apart_weight: beta, what pushing apart counts.
        **settings: those of :class:`HyRSM`.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet50",
        *,
        window: int = 1,
        balance: float = 51.0,
        apart_weight: float = 10.0,
        **settings,
    ):
        super().__init__(num_classes, backbone, **settings)
        self.window, self.balance, self.apart_weight = window, balance, apart_weight

    def _coherence(self, support: Tensor, query: Tensor) -> Tensor:
        """Mean over all pairs of frames of the support (for every query) plus that of the query."""
        return self._pairs(support).mean() + self._pairs(query).mean()

    def _pairs(self, tokens: Tensor) -> Tensor:
        """The terms of all pairs of frames of each video, ``(..., t, t)``."""
        unit = F.normalize(tokens, dim=-1, eps=1e-12)
        distances = 1.0 - unit @ unit.transpose(-1, -2)
        time = torch.arange(tokens.shape[-2], device=tokens.device, dtype=tokens.dtype)
        apart = (time[:, None] - time).abs()
        margin = 1.0 - torch.exp(-((apart - self.window) ** 2) / self.balance)
        together = distances / (apart**2 + 1.0)
        pushed = self.apart_weight * (margin - distances).clamp(min=0.0)
        return torch.where(apart <= self.window, together, pushed)
