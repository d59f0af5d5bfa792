"""Layers with PyTorch's semantics: convolution, batch normalization over sets, linear maps."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from molo_jax.nn import normalization, ops, recomputation, remat

# Fraction of a running statistic that one update replaces (PyTorch's ``momentum``).
BATCH_NORM_MOMENTUM = 0.1
_LAYER_NORM_EPSILON = 1e-5


def torch_uniform(fan_in: int) -> nnx.Initializer:
    """PyTorch's default for kernels and biases: uniform within ``1 / sqrt(fan_in)`` of zero."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        return jax.random.uniform(key, shape, dtype, -bound, bound, out_sharding=out_sharding)

    return init


def he_fan_out(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """He et al.'s normal initialization by fan-out, as in torchvision's ResNet."""
    fan_out = math.prod(shape[:-2]) * shape[-1]
    return jax.random.normal(key, shape, dtype) * math.sqrt(2.0 / fan_out)


def recomputed(unit: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function, one unit of what :mod:`molo_jax.nn.remat` may compute again.

    Args:
        unit: its kind.
        function: changes nothing but the statistics of the modules among its arguments; a new
            function for every call, for JAX remembers what it has traced.
        arguments: modules, random numbers and arrays.
    """
    if not remat.recomputes(unit):
        return function(*arguments)
    if ops.traced_platform() == "cpu":
        return recomputation.tied_to_gradient(function, *arguments)
    return nnx.remat(function)(*arguments)


class Conv2d(nnx.Module):
    """2-D convolution with explicit symmetric padding; ``kernel`` is ``(h, w, c_in, c_out)``."""

    def __init__(
        self,
        in_features: int,
        features: int,
        size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        use_bias: bool = False,
        kernel_init: nnx.Initializer | None = None,
        rngs: nnx.Rngs,
    ):
        fan_in = size * size * in_features
        init = kernel_init or torch_uniform(fan_in)
        self.kernel = nnx.Param(init(rngs.params(), (size, size, in_features, features)))
        self.bias = (
            nnx.Param(torch_uniform(fan_in)(rngs.params(), (features,))) if use_bias else None
        )
        self.stride = stride
        self.padding = padding

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n oh ow f"]:
        y = ops.conv2d(x, self.kernel[...], stride=self.stride, padding=self.padding)
        return y if self.bias is None else _with_bias(y, self.bias[...])


def _with_bias(y: Array, bias: Array) -> Array:
    """Adds in float32, so that the gradient of the bias is summed in float32 too."""
    return (ops.to_float32(y) + bias).astype(y.dtype)


class TemporalConv3d(nnx.Module):
    """3-D convolution 3x3x3 over the frames of each clip, zero padding 1 on time, height and width.

    The ``kernel`` is ``(3, 3, 3, c_in, c_out)``, time first. Computed as one 2-D convolution that
    gives the contribution of a frame to its predecessor, itself and its successor, followed by a
    sum over shifted frames: the sums are those of the 3-D convolution.
    """

    def __init__(self, in_features: int, features: int, *, rngs: nnx.Rngs):
        init = torch_uniform(27 * in_features)
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, 3, in_features, features)))
        self.bias = nnx.Param(init(rngs.params(), (features,)))

    def __call__(self, x: Float[Array, "v t h w c"]) -> Float[Array, "v t h w f"]:
        kernel = self.kernel[...]
        taps = jnp.concatenate([kernel[0], kernel[1], kernel[2]], axis=-1)
        videos, frames = x.shape[:2]
        y = ops.conv2d(x.reshape(videos * frames, *x.shape[2:]), taps, padding=1)
        y = y.reshape(videos, frames, *y.shape[1:])
        to_next, to_same, to_previous = jnp.split(y, 3, axis=-1)
        pad = ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0))
        from_previous = jnp.pad(to_next[:, :-1], pad)
        from_next = jnp.pad(to_previous[:, 1:], [edge[::-1] for edge in pad])
        before, same, after = map(ops.to_float32, (from_previous, to_same, from_next))
        return ops.to_activations(before + same + after + self.bias[...])


class BatchNorm(nnx.Module):
    """Batch normalization whose batch can be several sets, each with its own statistics.

    In training, every set is normalized by its own mean and *biased* variance, and the running
    statistics take one update for each set in order, with the *unbiased* variance:
    ``new = 0.9 old + 0.1 batch``. Otherwise the running statistics normalize.

    Of bfloat16 maps, everything is computed in float32, and the result is rounded.
    """

    def __init__(self, features: int):
        self.scale = nnx.Param(jnp.ones((features,)))
        self.bias = nnx.Param(jnp.zeros((features,)))
        self.mean = nnx.BatchStat(jnp.zeros((features,)))
        self.var = nnx.BatchStat(jnp.ones((features,)))
        self.num_batches_tracked = nnx.BatchStat(jnp.zeros((), jnp.int32))

    def __call__(
        self, x: Float[Array, "n h w c"], *, set_sizes: tuple[int, ...], train: bool
    ) -> Float[Array, "n h w c"]:
        """Normalizes maps.

        Args:
            x: the maps of all sets, one set after the other.
            set_sizes: number of maps of each set.
            train: whether to use and track the statistics of the sets.
        """
        if not train:
            moments = self.mean[...], self.var[...]
            return normalization.affine(x, *moments, self.scale[...], self.bias[...])
        y, means, variances = normalization.normalize_sets(
            x, self.scale[...], self.bias[...], set_sizes
        )
        for number, size in enumerate(set_sizes):
            count = size * x.shape[1] * x.shape[2]
            self._track(self.mean, means[number])
            self._track(self.var, variances[number] * (count / max(count - 1, 1)))
            self.num_batches_tracked.set_value(self.num_batches_tracked.get_value() + 1)
        return y

    def _track(self, running: nnx.BatchStat, batch: Array) -> None:
        old = (1.0 - BATCH_NORM_MOMENTUM) * running.get_value()
        # `running[...] = …` asks a traced array for its sharding, whose refusal costs a search
        # through the whole program: half of the time that a training step takes to trace.
        running.set_value(old + BATCH_NORM_MOMENTUM * jax.lax.stop_gradient(batch))


class Linear(nnx.Linear):
    """A linear map in the current precision; the result has the type of the input."""

    def __call__(self, inputs: Float[Array, "*batch d"]) -> Float[Array, "*batch f"]:
        narrow = inputs.dtype == jnp.bfloat16
        kernel = self.kernel[...]
        y = lax.dot_general(
            inputs,
            kernel.astype(inputs.dtype) if narrow else kernel,
            (((inputs.ndim - 1,), (0,)), ((), ())),
            precision=ops.product_precision(inputs),
        )
        return y if self.bias is None else _with_bias(y, self.bias[...])


def linear(in_features: int, features: int, *, use_bias: bool = True, rngs: nnx.Rngs) -> Linear:
    """A linear map with PyTorch's default initialization."""
    init = torch_uniform(in_features)
    return Linear(
        in_features, features, use_bias=use_bias, kernel_init=init, bias_init=init, rngs=rngs
    )


def layer_norm(features: int, *, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Layer normalization with PyTorch's epsilon and a two-pass variance."""
    return nnx.LayerNorm(features, epsilon=_LAYER_NORM_EPSILON, use_fast_variance=False, rngs=rngs)
