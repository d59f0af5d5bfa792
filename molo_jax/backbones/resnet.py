"""ResNet-18, 34 and 50 as in torchvision (v1.5), without average pooling and classifier.

Reference: He et al., Deep Residual Learning for Image Recognition, CVPR 2016; in the bottleneck the
stride sits on the 3x3 convolution.
"""

from flax import nnx
from jaxtyping import Array, Float

from molo_jax.backbones import BackboneInfo
from molo_jax.nn import ops
from molo_jax.nn.layers import BatchNorm, Conv2d, he_fan_out, recomputed
from molo_jax.nn.remat import BLOCK, STAGE


def _conv(in_features: int, features: int, size: int, *, stride: int = 1, rngs: nnx.Rngs) -> Conv2d:
    return Conv2d(
        in_features,
        features,
        size,
        stride=stride,
        padding=size // 2,
        kernel_init=he_fan_out,
        rngs=rngs,
    )


class Downsample(nnx.Module):
    """The 1x1 convolution and normalization on a shortcut that changes shape."""

    def __init__(self, in_features: int, features: int, stride: int, *, rngs: nnx.Rngs):
        self.conv = _conv(in_features, features, 1, stride=stride, rngs=rngs)
        self.bn = BatchNorm(features)

    def __call__(self, x, **norm):
        return self.bn(self.conv(x), **norm)


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions with a shortcut (ResNet-18 and 34)."""

    expansion = 1

    def __init__(self, in_features: int, width: int, stride: int, *, rngs: nnx.Rngs):
        self.conv1 = _conv(in_features, width, 3, stride=stride, rngs=rngs)
        self.bn1 = BatchNorm(width)
        self.conv2 = _conv(width, width, 3, rngs=rngs)
        self.bn2 = BatchNorm(width)
        changes = stride != 1 or in_features != width
        self.downsample = Downsample(in_features, width, stride, rngs=rngs) if changes else None

    def __call__(self, x, **norm):
        y = ops.relu(self.bn1(self.conv1(x), **norm))
        y = self.bn2(self.conv2(y), **norm)
        shortcut = x if self.downsample is None else self.downsample(x, **norm)
        return ops.relu(y + shortcut)


class Bottleneck(nnx.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut (ResNet-50)."""

    expansion = 4

    def __init__(self, in_features: int, width: int, stride: int, *, rngs: nnx.Rngs):
        features = width * self.expansion
        self.conv1 = _conv(in_features, width, 1, rngs=rngs)
        self.bn1 = BatchNorm(width)
        self.conv2 = _conv(width, width, 3, stride=stride, rngs=rngs)
        self.bn2 = BatchNorm(width)
        self.conv3 = _conv(width, features, 1, rngs=rngs)
        self.bn3 = BatchNorm(features)
        changes = stride != 1 or in_features != features
        self.downsample = Downsample(in_features, features, stride, rngs=rngs) if changes else None

    def __call__(self, x, **norm):
        y = ops.relu(self.bn1(self.conv1(x), **norm))
        y = ops.relu(self.bn2(self.conv2(y), **norm))
        y = self.bn3(self.conv3(y), **norm)
        shortcut = x if self.downsample is None else self.downsample(x, **norm)
        return ops.relu(y + shortcut)


class ResNet(nnx.Module):
    """The convolutional trunk: frames to feature maps of 1/32 of their size."""

    def __init__(self, info: BackboneInfo, *, rngs: nnx.Rngs):
        self.conv1 = _conv(3, info.stem, 7, stride=2, rngs=rngs)
        self.bn1 = BatchNorm(info.stem)
        block, features = Bottleneck if info.bottleneck else BasicBlock, info.stem
        for number, depth in enumerate(info.depths, 1):
            blocks, width = nnx.List([]), info.stem * 2 ** (number - 1)
            for i in range(depth):
                stride = 2 if i == 0 and number > 1 else 1
                blocks.append(block(features, width, stride, rngs=rngs))
                features = width * block.expansion
            setattr(self, f"layer{number}", blocks)

    def __call__(
        self, frames: Float[Array, "n h w 3"], *, set_sizes: tuple[int, ...], train: bool
    ) -> dict[str, Array]:
        """Computes the feature maps after the stem's pooling and after each of the four stages.

        Args:
            frames: normalized frames, one set after the other.
            set_sizes: number of frames of each set, for batch normalization.
            train: whether batch normalization uses and tracks the statistics of the sets.

        Returns:
            ``{"pool": ..., "layer1": ..., ..., "layer4": ...}``, each ``(n, h', w', c)``.
        """
        norm = {"set_sizes": set_sizes, "train": train}

        def stem(conv, bn, frames):
            x = ops.relu(bn(conv(frames), **norm))
            return ops.max_pool(x, window=3, stride=2, padding=1)

        def stage(blocks, x):
            for block in blocks:
                x = recomputed(BLOCK, lambda block, x: block(x, **norm), block, x)
            return x

        x = recomputed(BLOCK, stem, self.conv1, self.bn1, frames)
        maps = {"pool": x}
        for name in ("layer1", "layer2", "layer3", "layer4"):
            x = maps[name] = recomputed(
                STAGE, lambda blocks, x: stage(blocks, x), getattr(self, name), x
            )
        return maps
