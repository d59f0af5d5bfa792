"""Batch normalization in training, with what it keeps for its gradient.

Differentiated operation by operation, it would keep several arrays of the size of its input. Here
the gradient is written out, and the input is kept, with mean and variance of each channel.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from molo_jax.nn.ops import to_float32

BATCH_NORM_EPSILON = 1e-5
# Samples, height and width.
_AXES = (0, 1, 2)


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


def _forward(x, scale, bias, set_sizes):
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


def _backward(set_sizes, kept, cotangents):
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


def _parts(x: Array, sizes: tuple[int, ...]) -> list[Array]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [x[start : start + size] for start, size in zip(starts, sizes, strict=True)]


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
