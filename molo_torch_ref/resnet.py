"""ResNet-18, 34 and 50 (v1.5) without classifier, numbered as a Sequential.

Reference: He et al., Deep Residual Learning for Image Recognition, CVPR 2016; in a bottleneck the
stride sits on the 3x3 convolution.
"""

import dataclasses

from torch import Tensor, nn


def _conv(channels: int, features: int, size: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(channels, features, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _shortcut(channels: int, features: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and channels == features:
        return None
    return nn.Sequential(_conv(channels, features, 1, stride), nn.BatchNorm2d(features))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = _conv(channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        features = width * self.expansion
        self.conv1 = _conv(channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, features, 1)
        self.bn3 = nn.BatchNorm2d(features)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels, features, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


@dataclasses.dataclass(frozen=True)
class Backbone:
    """The shape of a ResNet.

    Attributes:
        depths: blocks of the four stages.
        block: the class of the blocks.
        width: channels of the stem and inside the first stage; each further stage has twice as
            many.
    """

    depths: tuple[int, int, int, int]
    block: type[BasicBlock] | type[Bottleneck]
    width: int = 64


BACKBONES = {
    "resnet18": Backbone((2, 2, 2, 2), BasicBlock),
    "resnet34": Backbone((3, 4, 6, 3), BasicBlock),
    "resnet50": Backbone((3, 4, 6, 3), Bottleneck),
}


def make_backbone(name: str, pooled: bool = False) -> tuple[nn.Sequential, int]:
    """Builds a backbone: 0 convolution, 1 normalization, 2 ReLU, 3 max-pool, 4 to 7 the stages.

    Args:
        name: a name in `BACKBONES`.
        pooled: whether a global average pool follows, as number 8.

    Returns:
        The module, from frames ``(n, 3, h, w)`` to maps ``(n, d, h / 32, w / 32)``, pooled
        ``(n, d, 1, 1)``; and ``d``.

    Raises:
        ValueError: if there is no backbone of that name.
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone {name!r} is unknown; choose one of {', '.join(BACKBONES)}")
    shape = BACKBONES[name]
    stem = _conv(3, shape.width, 7, 2), nn.BatchNorm2d(shape.width)
    stages, channels = [], shape.width
    for number, depth in enumerate(shape.depths):
        blocks, width = [], shape.width * 2**number
        for i in range(depth):
            blocks.append(shape.block(channels, width, stride=2 if i == 0 and number else 1))
            channels = width * shape.block.expansion
        stages.append(nn.Sequential(*blocks))
    pool = [nn.AdaptiveAvgPool2d(1)] if pooled else []
    trunk = *stem, nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1), *stages, *pool
    return nn.Sequential(*trunk), channels
