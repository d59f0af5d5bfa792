"""Motion branch: frame differences of feature maps, and their decoder to pixel differences.

Reference: Wang et al., MoLo, CVPR 2023, "Motion autodecoder".
"""

from flax import nnx
from jaxtyping import Array, Float

from molo_jax.nn import ops
from molo_jax.nn.layers import BatchNorm, Conv2d, recomputed
from molo_jax.nn.remat import BLOCK

# The branch works on one motion channel for this many backbone channels.
REDUCTION = 8


def motion_differences(
    reduced: Float[Array, "v t h w m"], convolved: Float[Array, "v t h w m"]
) -> Float[Array, "v t-1 h w m"]:
    """Difference maps ``d[t] = convolved[t + 1] - reduced[t]``."""
    return convolved[:, 1:] - reduced[:, :-1]


def frame_differences(clips: Float[Array, "v t h w 3"]) -> Float[Array, "v t-1 h w 3"]:
    """Differences of consecutive normalized frames, the autodecoder's target."""
    return clips[:, 1:] - clips[:, :-1]


def over_frames(module, x: Float[Array, "v t h w c"]) -> Float[Array, "v t oh ow f"]:
    """Applies a module for single maps to every frame of every clip."""
    y = module(x.reshape(-1, *x.shape[2:]))
    return y.reshape(*x.shape[:2], *y.shape[1:])


class UpBlock(nnx.Module):
    """Bilinear upsampling with aligned corners, 3x3 convolution, batch normalization, ReLU."""

    def __init__(self, in_features: int, features: int, factor: int, *, rngs: nnx.Rngs):
        self.conv = Conv2d(in_features, features, 3, padding=1, rngs=rngs)
        self.bn = BatchNorm(features)
        self.factor = factor

    def __call__(self, x: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n fh fw f"]:
        y = ops.upsample_conv3x3(x, self.conv.kernel[...], self.factor)
        return ops.relu(self.bn(y, set_sizes=(x.shape[0],), train=train))


class MotionDecoder(nnx.Module):
    """The autodecoder: difference maps of 1/32 of a frame's side to the difference of two frames.

    Args:
        in_features: channels of the difference maps.
        rngs: source of the random weights.
    """

    def __init__(self, in_features: int, *, rngs: nnx.Rngs):
        sizes = ((in_features, 128, 2), (128, 32, 4), (32, 16, 4))
        self.blocks = nnx.List([UpBlock(*size, rngs=rngs) for size in sizes])
        self.output = Conv2d(16, 3, 1, use_bias=True, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w m"], *, train: bool) -> dict[str, Array]:
        """Decodes maps.

        Returns:
            ``blocks.0``, ``blocks.1`` and ``blocks.2``, maps of 2, 8 and 32 times the side, and
            ``output``, the pixel differences ``(n, 32 h, 32 w, 3)``.
        """
        decoded = {}
        for number, block in enumerate(self.blocks):
            x = recomputed(BLOCK, lambda block, x: block(x, train=train), block, x)
            decoded[f"blocks.{number}"] = x
        return decoded | {"output": self.output(x)}
