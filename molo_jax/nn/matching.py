"""Prototypes and the distances between token sequences.

Reference: Wang et al., MoLo, CVPR 2023, "Long-short contrastive objective"; the bidirectional mean
Hausdorff metric is that of Wang et al., HyRSM, CVPR 2022. Letters: q query, s support, n way, i and
j tokens, d feature.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from molo_jax.nn.ops import safe_norm

# Added to the product of norms, inside the cosine's denominator.
_COSINE_EPSILON = 0.01
# The sums here are small and decide predictions: never in reduced precision.
_PRECISION = lax.Precision.HIGHEST


def prototypes(
    tokens: Float[Array, "s l d"], labels: Int[Array, "s"], n_way: int
) -> Float[Array, "n l d"]:
    """Mean token sequence of each class's shots, in ascending label order.

    Classes may have different numbers of shots, each at least one.
    """
    member = (jnp.arange(n_way)[:, None] == labels[None]).astype(tokens.dtype)
    mean = member / jnp.sum(member, axis=1, keepdims=True)
    return jnp.einsum("ns,sld->nld", mean, tokens, precision=_PRECISION)


def cosine_distances(a: Float[Array, "q i d"], b: Float[Array, "n j d"]) -> Float[Array, "q n i j"]:
    """``1 - a.b / (|a| |b| + 0.01)`` between every token of ``a`` and every token of ``b``."""
    products = jnp.einsum("qid,njd->qnij", a, b, precision=_PRECISION)
    norms = safe_norm(a)[:, None, :, None] * safe_norm(b)[None, :, None, :]
    return 1.0 - products / (norms + _COSINE_EPSILON)


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
    """
    columns = jnp.moveaxis(jnp.pad(distances, ((0, 0), (0, 0), (0, 0), (1, 1))), 3, 0)
    # Rows l, of shape (columns, q, n, l).
    first = jnp.cumsum(columns[..., 0], axis=0)

    def softmin(*values: Array) -> Array:
        stacked = jnp.stack(values)
        return -smoothing * jax.nn.logsumexp(-stacked / smoothing, axis=0)

    above = list(first)
    for row in range(1, distances.shape[2]):
        here = [jnp.zeros_like(above[0])]
        for column in range(1, len(above)):
            paths = [above[column - 1], here[column - 1]]
            if column in (1, len(above) - 1):
                paths.append(above[column])
            here.append(columns[column, ..., row] + softmin(*paths))
        above = here
    return above[-1]
