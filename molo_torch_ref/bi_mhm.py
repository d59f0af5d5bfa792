"""Frame features matched by the bidirectional mean Hausdorff metric, without any encoder.

Reference: Wang et al., HyRSM, CVPR 2022, section 3.3; the baseline of MoLo's ablation.
"""

from torch import Tensor

from molo_torch_ref.frames import FrameNetwork
from molo_torch_ref.matching import bi_mean_hausdorff, cosine_distances, prototypes
from molo_torch_ref.structures import Output, check_clips


class BiMHM(FrameNetwork):
    """Scores a class by the negative distance of the query's frames to those of its prototype.

    Args:
        backbone: name of the backbone.
    """

    def __init__(self, backbone: str = "resnet50"):
        super().__init__(backbone)

    def forward(self, support: Tensor, query: Tensor, support_labels: Tensor, n_way: int) -> Output:
        """Runs one episode; arguments and errors as those of :class:`MoLo`."""
        check_clips(support, query)
        frames_s, frames_q = self.frame_features(support, query)
        classes = prototypes(frames_s, support_labels, n_way)
        return Output(logits=-bi_mean_hausdorff(cosine_distances(frames_q, classes)))
