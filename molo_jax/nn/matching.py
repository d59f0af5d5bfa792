"""Prototypes and the distances between token sequences.

Reference: Wang et al., MoLo, CVPR 2023, "Long-short contrastive objective"; the bidirectional mean
Hausdorff metric is that of Wang et al., HyRSM, CVPR 2022. Letters: q query, s support, n way, i and
j tokens, d feature.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from molo_jax.nn.ops import safe_norm

# Added to the product of norms, inside the cosine's denominator.
_COSINE_EPSILON = 0.01
# The least norm that a vector is divided by.
_SMALLEST_NORM = 1e-12
# The sums here are small and decide predictions: never in reduced precision.
_PRECISION = lax.Precision.HIGHEST


def prototypes(
    tokens: Float[Array, "s l d"], labels: Int[Array, "s"], n_way: int
) -> Float[Array, "n l d"]:
    """Mean token sequence of each class's shots, in ascending label order.

    Classes may have different numbers of shots, each at least one.
    """
    mean = _shares(labels, n_way, tokens.dtype)
    return jnp.einsum("ns,sld->nld", mean, tokens, precision=_PRECISION)


def class_means(
    scores: Float[Array, "q s"], labels: Int[Array, "s"], n_way: int
) -> Float[Array, "q n"]:
    """Mean over each class's shots of what was computed for every support clip.

    Classes may have different numbers of shots, each at least one.
    """
    shares = _shares(labels, n_way, scores.dtype)
    return jnp.einsum("ns,qs->qn", shares, scores, precision=_PRECISION)


def members(labels: Int[Array, "s"], n_way: int) -> Bool[Array, "n s"]:
    """Whether a support clip is one of a class."""
    return jnp.arange(n_way)[:, None] == labels[None]


def _shares(labels: Int[Array, "s"], n_way: int, dtype: jnp.dtype) -> Float[Array, "n s"]:
    """The weight of every support clip in the mean of each class."""
    member = members(labels, n_way).astype(dtype)
    return member / jnp.sum(member, axis=1, keepdims=True)


def cosines(a: Float[Array, "q i d"], b: Float[Array, "n j d"]) -> Float[Array, "q n i j"]:
    """``a.b / (|a| |b| + 0.01)`` between every token of ``a`` and every token of ``b``."""
    products = jnp.einsum("qid,njd->qnij", a, b, precision=_PRECISION)
    return cosines_of(products, safe_norm(a)[:, None, :, None], safe_norm(b)[None, :, None, :])


def cosines_of(products: Array, norms_a: Array, norms_b: Array) -> Array:
    """``a.b / (|a| |b| + 0.01)`` of inner products and norms; the shapes are those of a sum."""
    return products / (norms_a * norms_b + _COSINE_EPSILON)


def cosine_distances(a: Float[Array, "q i d"], b: Float[Array, "n j d"]) -> Float[Array, "q n i j"]:
    """``1 - a.b / (|a| |b| + 0.01)`` between every token of ``a`` and every token of ``b``."""
    return 1.0 - cosines(a, b)


def unit(x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
    """``x / max(|x|, 1e-12)``: the direction of a vector; zero for a zero vector.

    The gradient at a zero vector is that of ``x`` itself: finite, and small enough for an optimizer
    that keeps squares of gradients.
    """
    norm = safe_norm(x)[..., None]
    return x / jnp.where(norm == 0, 1.0, jnp.maximum(norm, _SMALLEST_NORM))


def bi_mean_hausdorff(
    distances: Float[Array, "q n i j"], *, single_direction: bool = False
) -> Float[Array, "q n"]:
    """Bidirectional mean Hausdorff distance up to a constant factor.

    ``D = sum_i min_j dist(i, j) + sum_j min_i dist(i, j)`` over the frame tokens ``i`` of the query
    and ``j`` of the prototype.

    Args:
        distances: distances between frame tokens.
        single_direction: keeps the first sum only.
    """
    query_to_class = jnp.sum(jnp.min(distances, axis=3), axis=2)
    if single_direction:
        return query_to_class
    return query_to_class + jnp.sum(jnp.min(distances, axis=2), axis=2)


def split_streams(
    distances: Float[Array, "q n i j"],
) -> tuple[Float[Array, "q n i-1 j-1"], Float[Array, "q n"], Float[Array, "q n"]]:
    """Separates frame-to-frame distances from the sums that involve one global token.

    Args:
        distances: distances between whole token sequences; token 0 is the global one.

    Returns:
        Frame-to-frame distances; ``sum_j dist(g_q, c_j)``; ``sum_i dist(q_i, g_c)``.
    """
    class_frames_to_query = jnp.sum(distances[:, :, 0, 1:], axis=2)
    query_frames_to_class = jnp.sum(distances[:, :, 1:, 0], axis=2)
    return distances[:, :, 1:, 1:], class_frames_to_query, query_frames_to_class


def otam(distances: Float[Array, "q n i j"], *, smoothing: float) -> Float[Array, "q n"]:
    """Ordered temporal alignment of both sequences, in both directions, added.

    Reference: Cao et al., Few-Shot Video Classification via Temporal Alignment, CVPR 2020, section
    3.3, with the softened minimum ``-smoothing log sum exp(-x / smoothing)``.

    Args:
        distances: distances between frame tokens.
        smoothing: lambda of the softened minimum, above 0.
    """
    return _alignment(distances, smoothing) + _alignment(jnp.swapaxes(distances, 2, 3), smoothing)


def _alignment(distances: Float[Array, "q n i j"], smoothing: float) -> Float[Array, "q n"]:
    """Cost of the best path from the first to the last row, softened.

    A column of zeros before the first and one behind the last let a path begin and end anywhere.
    Quirk kept: the first row is the plain sum of its distances, not softened.

    In a row, ``cost[m] = d[m] + softmin(above[m - 1], cost[m - 1])``, in the first and the last
    column with ``above[m]`` too. With ``c[m] = (d[1] + ... + d[m] - cost[m]) / smoothing`` this is
    the running sum ``exp(c[m]) = exp(c[m - 1]) + exp(...)``, so a row takes one cumulative
    logsumexp, which neither overflows nor underflows.
    """
    scaled = jnp.pad(distances, ((0, 0), (0, 0), (0, 0), (1, 1))) / smoothing
    rows = jnp.moveaxis(jnp.cumsum(scaled, axis=-1), 2, 0)
    logsumexp_axis = rows.ndim - 2

    def next_row(above: Array, sums: Array) -> tuple[Array, None]:
        # Column by column, what a path brings along that comes from the row above.
        first = jnp.logaddexp(above[..., :1], above[..., 1:2])
        last = jnp.logaddexp(above[..., -2:-1], above[..., -1:])
        start = jnp.zeros_like(first)
        arriving = jnp.concatenate([first, above[..., 1:-2], last], axis=-1) + sums[..., :-1]
        reached = jnp.concatenate([start, arriving], axis=-1)
        return lax.cumlogsumexp(reached, axis=logsumexp_axis) - sums, None

    best, _ = lax.scan(next_row, -rows[0], rows[1:])
    return -smoothing * best[..., -1]
