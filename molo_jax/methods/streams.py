"""How a method compares clips, where it sees the tokens of clips through inner products only.

Such scores can be computed from a table of the inner products of all tokens of a split, in which an
episode is looked up: see :mod:`molo_jax.engine.products`. Letters: v videos, l tokens, d feature,
i token of the query, j token of the class.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from molo_jax.methods.evidence import Metric
from molo_jax.nn import matching


@dataclasses.dataclass(frozen=True)
class Rule:
    """How the inner products of tokens become the distance of a query and a class.

    Attributes:
        metric: how the distances of tokens become a distance of clips.
        weight: what the stream counts.
        each_clip: whether the query is compared with each support clip, and the distances to the
            clips of a class are averaged. Otherwise the tokens of a class are averaged first, to
            its prototype.
        squared: whether the distance of tokens is the squared Euclidean distance. Otherwise it is
            the cosine distance of :func:`molo_jax.nn.matching.cosine_distances`.
    """

    metric: Metric
    weight: float = 1.0
    each_clip: bool = False
    squared: bool = False

    def distance(
        self,
        products: Float[Array, "*batch i j"],
        query_norms: Float[Array, "*batch i"],
        class_norms: Float[Array, "*batch j"],
    ) -> Float[Array, "*batch"]:
        """Computes distances from inner products.

        Args:
            products: of the query's tokens and those of the class, or of one support clip.
            query_norms: Euclidean norms of the query's tokens.
            class_norms: Euclidean norms of the tokens of the class.
        """
        rows, columns = query_norms[..., :, None], class_norms[..., None, :]
        if self.squared:
            distances = jnp.square(rows) + jnp.square(columns) - 2.0 * products
        else:
            distances = 1.0 - matching.cosines_of(products, rows, columns)
        flat = distances.reshape(-1, 1, *distances.shape[-2:])
        return self.metric.distance(flat).reshape(distances.shape[:-2])


@dataclasses.dataclass(frozen=True)
class Stream:
    """The tokens of clips that one part of the scores compares, and how it compares them.

    The sum of ``weight * distance`` over all streams is the negative score, up to a number that is
    the same for all classes.
    """

    tokens: Float[Array, "v l d"]
    rule: Rule
