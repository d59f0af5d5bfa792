"""Prototypical network on mean frame features (the "TSN head" of the official code).

References: Snell et al., Prototypical Networks, NeurIPS 2017; Wang et al., Temporal Segment
Networks, ECCV 2016.
"""

from torch import Tensor

from molo_torch_ref.frames import FrameNetwork
from molo_torch_ref.matching import class_means, cosine_distances, prototypes
from molo_torch_ref.structures import Output, check_clips


class ProtoNet(FrameNetwork):
    """Scores a class by the mean cosine of the query with its shots; videos are means of frames.

    Args:
        backbone: name of the backbone.
        euclidean: score by the negative squared distance to the mean of the shots instead.
    """

    def __init__(self, backbone: str = "resnet50", *, euclidean: bool = False):
        super().__init__(backbone)
        self.euclidean = euclidean

    def forward(self, support: Tensor, query: Tensor, support_labels: Tensor, n_way: int) -> Output:
        """Runs one episode; arguments and errors as those of :class:`MoLo`."""
        check_clips(support, query)
        videos_s, videos_q = (x.mean(1, keepdim=True) for x in self.frame_features(support, query))
        if self.euclidean:
            centers = prototypes(videos_s, support_labels, n_way)
            return Output(logits=-(videos_q - centers[:, 0]).square().sum(-1))
        cosines = 1.0 - cosine_distances(videos_q, videos_s)[:, :, 0, 0]
        return Output(logits=class_means(cosines, support_labels, n_way))
