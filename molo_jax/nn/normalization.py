"""Batch normalization in training, with what it keeps for its gradient.

Differentiated operation by operation, it would keep several arrays of the size of its input. Here
the gradient is written out, and the input is kept, with mean and variance of each channel.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from molo_jax.nn.ops import to_float32, traced_platform

BATCH_NORM_EPSILON = 1e-5
# Samples, height and width.
_AXES = (0, 1, 2)
_PIXELS = (1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize_sets(
    x: Float[Array, "n h w c"],
    scale: Float[Array, "c"],
    bias: Float[Array, "c"],
    set_sizes: tuple[int, ...],
) -> tuple[Float[Array, "n h w c"], Float[Array, "k c"], Float[Array, "k c"]]:
    """Normalizes every set of maps by its own mean and biased variance.

    ``y = (x - mean) scale / sqrt(var + 1e-5) + bias``. With ``u = (x - mean) / sqrt(var + 1e-5)``
    and the gradient ``g`` of ``y``, that of ``x`` is
    ``scale / sqrt(var + 1e-5) (g - mean(g) - u mean(g u))``.

    Args:
        x: the maps of all sets, one set after the other.
        scale: factor of each channel.
        bias: what is added to each channel.
        set_sizes: number of maps of each set.

    Returns:
        The normalized maps, of the type of ``x``; mean and variance of each set, through which no
        gradient flows.
    """
    return _forward(x, scale, bias, set_sizes)[0]


@jax.named_scope("batch_norm")
def _forward(x, scale, bias, set_sizes):
    if traced_platform() == "cpu":
        return _forward_map_by_map(x, scale, bias, set_sizes)
    normalized, means, variances = [], [], []
    for part in _parts(x, set_sizes):
        wide = to_float32(part)
        mean = jnp.mean(wide, axis=_AXES)
        variance = jnp.mean(jnp.square(wide - mean), axis=_AXES)
        normalized.append(affine(part, mean, variance, scale, bias))
        means.append(mean)
        variances.append(variance)
    means, variances = jnp.stack(means), jnp.stack(variances)
    return (jnp.concatenate(normalized), means, variances), (x, scale, means, variances)


@jax.named_scope("batch_norm")
def _backward(set_sizes, kept, cotangents):
    if traced_platform() == "cpu":
        return _backward_map_by_map(set_sizes, kept, cotangents[0])
    x, scale, means, variances = kept
    of_x, of_scale, of_bias = [], [], []
    parts = zip(_parts(x, set_sizes), _parts(cotangents[0], set_sizes), strict=True)
    for number, (part, of_y) in enumerate(parts):
        of_y = to_float32(of_y)
        inverse = lax.rsqrt(variances[number] + BATCH_NORM_EPSILON)
        unit = (to_float32(part) - means[number]) * inverse
        of_bias.append(jnp.sum(of_y, axis=_AXES))
        of_scale.append(jnp.sum(of_y * unit, axis=_AXES))
        count = part.shape[0] * part.shape[1] * part.shape[2]
        inner = of_y - of_bias[-1] / count - unit * (of_scale[-1] / count)
        of_x.append((scale * inverse * inner).astype(x.dtype))
    return jnp.concatenate(of_x), sum(of_scale[1:], of_scale[0]), sum(of_bias[1:], of_bias[0])


normalize_sets.defvjp(_forward, _backward)


def _forward_map_by_map(x, scale, bias, set_sizes):
    """Computes the same as :func:`_forward`, without a copy of each set, which costs on a CPU."""
    wide, counts = to_float32(x), _counts(x, set_sizes)
    means = _sums_of_sets(jnp.sum(wide, axis=_PIXELS), set_sizes) / counts
    from_mean = wide - _of_maps(means, set_sizes)
    variances = _sums_of_sets(jnp.sum(jnp.square(from_mean), axis=_PIXELS), set_sizes) / counts
    factors = _of_maps(scale * lax.rsqrt(variances + BATCH_NORM_EPSILON), set_sizes)
    y = (from_mean * factors + bias).astype(x.dtype)
    return (y, means, variances), (x, scale, means, variances)


def _backward_map_by_map(set_sizes, kept, of_y):
    x, scale, means, variances = kept
    of_y, counts = to_float32(of_y), _counts(x, set_sizes)
    from_mean = to_float32(x) - _of_maps(means, set_sizes)
    inverse = lax.rsqrt(variances + BATCH_NORM_EPSILON)
    of_bias = _sums_of_sets(jnp.sum(of_y, axis=_PIXELS), set_sizes)
    of_scale = inverse * _sums_of_sets(jnp.sum(of_y * from_mean, axis=_PIXELS), set_sizes)
    shift = _of_maps(of_bias / counts, set_sizes)
    slope = _of_maps(inverse * of_scale / counts, set_sizes)
    of_x = _of_maps(scale * inverse, set_sizes) * (of_y - shift - from_mean * slope)
    return of_x.astype(x.dtype), jnp.sum(of_scale, axis=0), jnp.sum(of_bias, axis=0)


def _counts(x: Array, set_sizes: tuple[int, ...]) -> Float[np.ndarray, "k 1"]:
    """Pixels of each set."""
    return np.float32([[size * x.shape[1] * x.shape[2]] for size in set_sizes])


def _sums_of_sets(of_maps: Array, set_sizes: tuple[int, ...]) -> Array:
    return jnp.stack([jnp.sum(part, axis=0) for part in _parts(of_maps, set_sizes)])


def _of_maps(of_sets: Array, set_sizes: tuple[int, ...]) -> Float[Array, "n 1 1 c"]:
    """Repeats the values of each set for its maps."""
    maps = [
        jnp.broadcast_to(values, (size, *values.shape))
        for values, size in zip(of_sets, set_sizes, strict=True)
    ]
    return jnp.concatenate(maps)[:, None, None]


def _parts(x: Array, sizes: tuple[int, ...]) -> list[Array]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [x[start : start + size] for start, size in zip(starts, sizes, strict=True)]


@jax.named_scope("batch_norm")
def affine(
    x: Float[Array, "n h w c"],
    mean: Float[Array, "c"],
    variance: Float[Array, "c"],
    scale: Float[Array, "c"],
    bias: Float[Array, "c"],
) -> Float[Array, "n h w c"]:
    """Computes ``(x - mean) scale / sqrt(var + 1e-5) + bias`` for each channel.

    Computed in float32 at least; the result has the type of ``x``.
    """
    factor = scale * lax.rsqrt(variance + BATCH_NORM_EPSILON)
    return ((to_float32(x) - mean) * factor + bias).astype(x.dtype)
