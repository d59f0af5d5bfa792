"""What every method but MoLo starts from: one feature vector for each frame of a clip."""

from torch import Tensor, nn

from molo_torch_ref.resnet import make_backbone


class FrameNetwork(nn.Module):
    """A backbone with global average pool; the methods add what they learn on top of that.

    Args:
        backbone: ``resnet18``, ``resnet34`` or ``resnet50``.

    Raises:
        ValueError: if there is no backbone of that name.
    """

    def __init__(self, backbone: str):
        super().__init__()
        self.backbone, self.width = make_backbone(backbone, pooled=True)

    def frame_features(self, *sets: Tensor) -> list[Tensor]:
        """Features ``(v, t, d)`` of each set of clips.

        Every set has a call of its own, and with it its own batch statistics in training.
        """
        return [
            self.backbone(clips.flatten(0, 1)).flatten(1).unflatten(0, clips.shape[:2])
            for clips in sets
        ]
