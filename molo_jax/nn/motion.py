"""Motion branch: frame differences of feature maps, and their decoder to pixel differences.

Reference: Wang et al., MoLo, CVPR 2023, "Motion autodecoder".
"""

import jax
from flax import nnx
from jaxtyping import Array, Float

from molo_jax.nn import ops
from molo_jax.nn.layers import BatchNorm, Conv2d

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
        return jax.nn.relu(self.bn(y, set_sizes=(x.shape[0],), train=train))
