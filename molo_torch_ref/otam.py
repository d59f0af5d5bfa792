"""Ordered temporal alignment of frame features.

Reference: Cao et al., Few-Shot Video Classification via Temporal Alignment, CVPR 2020.
"""

from torch import Tensor

from molo_torch_ref import matching
from molo_torch_ref.frames import FrameNetwork
from molo_torch_ref.structures import Output, check_clips


class OTAM(FrameNetwork):
    """Scores a class by the negative mean alignment cost of the query with each of its shots.

    Args:
        backbone: name of the backbone.
        smoothing: lambda, the softness of the minimum over alignments.
    """

    def __init__(self, backbone: str = "resnet50", *, smoothing: float = matching.SMOOTHING):
        super().__init__(backbone)
        self.smoothing = smoothing

    def forward(self, support: Tensor, query: Tensor, support_labels: Tensor, n_way: int) -> Output:
        """Runs one episode; arguments and errors as those of :class:`MoLo`."""
        check_clips(support, query)
        frames_s, frames_q = self.frame_features(support, query)
        costs = matching.otam(matching.cosine_distances(frames_q, frames_s), self.smoothing)
        return Output(logits=-matching.class_means(costs, support_labels, n_way))
