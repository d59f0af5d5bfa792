"""Temporal-relational cross-attention between tuples of frames.

Reference: Perrett et al., Temporal-Relational CrossTransformers for Few-Shot Action Recognition,
CVPR 2021, section 3.
"""

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int

from molo_jax.backbones import backbone_info
from molo_jax.methods.episode import Sets
from molo_jax.methods.frame_outputs import Projections, Tuples
from molo_jax.methods.frames import FrameMethod, Stages
from molo_jax.methods.settings import TRXSettings
from molo_jax.nn.layers import layer_norm, linear
from molo_jax.nn.matching import members
from molo_jax.nn.ops import product
from molo_jax.nn.positions import textbook_sinusoids

# Frames of a tuple, for each cross-transformer.
CARDINALITIES = (2, 3)
# Width of keys and values, whatever that of the backbone is.
_WIDTH = 1152
# Weight of the positional encoding.
_POSITION_WEIGHT = 0.1
# Queries that are matched at once. Each takes the values that it expects of every support clip,
# 6 MB with 25 clips of 8 frames.
_QUERIES_AT_ONCE = 5
# Attention and distances decide predictions: never in reduced precision.
_PRECISION = lax.Precision.HIGHEST


class CrossTransformer(nnx.Module):
    """Cross-attention from the tuples of a query to those of each class's shots.

    A linear map of a tuple is the sum of a linear map of each of its frames, one for each place in
    the tuple. So a clip needs one projection for each frame and place, and not one for each tuple.

    Args:
        width: channels of a frame.
        cardinality: frames of a tuple.
        dropout: rate behind the positional encoding.
        rngs: source of the random weights.
    """

    def __init__(self, width: int, cardinality: int, *, dropout: float, rngs: nnx.Rngs):
        self.key_projection = linear(cardinality * width, _WIDTH, rngs=rngs)
        self.value_projection = linear(cardinality * width, _WIDTH, rngs=rngs)
        self.key_norm = layer_norm(_WIDTH, rngs=rngs)
        # Quirk kept: checkpoints hold it, and nothing uses it.
        self.value_norm = layer_norm(_WIDTH, rngs=rngs)
        self.cardinality = cardinality
        self.dropout = nnx.Dropout(dropout)

    def project(
        self, frames: Float[Array, "v t d"], *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[Float[Array, "v t d"], Projections]:
        """Returns the frames with their positions, and their projections."""
        y = frames + positions(*frames.shape[1:]).astype(frames.dtype)
        y = self.dropout(y, deterministic=not train, rngs=rngs)
        keys, values = (
            product("vtd,pdc->vtpc", y, layer.kernel[...].reshape(self.cardinality, -1, _WIDTH))
            for layer in (self.key_projection, self.value_projection)
        )
        return y, Projections(keys, values)

    def tuples(self, projections: Projections) -> tuple[Stages, Tuples]:
        """Adds up the projections of the frames of every tuple."""
        index = np.array(tuples(projections.keys.shape[1], self.cardinality))

        def of_tuples(projected, layer):
            places = [projected[:, index[:, p], p] for p in range(self.cardinality)]
            return sum(places[1:], places[0]) + layer.bias[...]

        keys = of_tuples(projections.keys, self.key_projection)
        values = of_tuples(projections.values, self.value_projection)
        found = Tuples(self.key_norm(keys), values)
        stages = {
            "key_projection": keys,
            "value_projection": values,
            "key_norm": found.keys,
        }
        return stages, found


class TRX(FrameMethod):
    """The mean of the logits of one :class:`CrossTransformer` for each cardinality."""

    # The products of one episode keep the processor busy, and its values fit into its cache.
    matched_at_once = 1

    def __init__(self, settings: TRXSettings, *, rngs: nnx.Rngs):
        super().__init__(settings, rngs=rngs)
        width, rate = backbone_info(settings.backbone).width, settings.dropout_position
        self.cross_transformers = nnx.List(
            [CrossTransformer(width, each, dropout=rate, rngs=rngs) for each in CARDINALITIES]
        )

    def encode(
        self, frames: Float[Array, "v t d"], *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[Stages, tuple[Projections, ...]]:
        both = [one.project(frames, train=train, rngs=rngs) for one in self.cross_transformers]
        stages = {
            f"cross_transformers.{i}.positioned": positioned
            for i, (positioned, _) in enumerate(both)
        }
        return stages, tuple(projections for _, projections in both)

    def score(
        self,
        support: tuple[Projections, ...],
        query: tuple[Projections, ...],
        labels: Int[Array, "s"],
        *,
        n_way: int,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Stages, Float[Array, "q n"]]:
        del train, rngs
        return self._score(support, query, labels, n_way, over_queries=_side_by_side)

    def match(
        self,
        support: tuple[Projections, ...],
        query: tuple[Projections, ...],
        support_labels: Int[Array, "s"],
        *,
        n_way: int,
    ) -> Float[Array, "q n"]:
        # A few queries after the other: what all of them expect would need much memory.
        few = functools.partial(lax.map, batch_size=_QUERIES_AT_ONCE)
        return self._score(support, query, support_labels, n_way, over_queries=few)[1]

    def _score(
        self, support, query, labels: Array, n_way: int, *, over_queries: Callable
    ) -> tuple[Stages, Float[Array, "q n"]]:
        stages, logits = {}, []
        for i, (one, *projections) in enumerate(
            zip(self.cross_transformers, support, query, strict=True)
        ):
            (named, shots), (named_query, queries) = (one.tuples(each) for each in projections)
            stages |= {
                f"cross_transformers.{i}.{name}": Sets(value, named_query[name])
                for name, value in named.items()
            }

            def distances(each: Tuples, shots: Tuples = shots) -> Float[Array, "n"]:
                return tuple_distances(each, shots, labels, n_way)

            logits.append(-over_queries(distances, queries))
        return stages, sum(logits[1:], logits[0]) / len(logits)

    @classmethod
    def fixed_buffers(cls, settings: TRXSettings) -> dict[str, np.ndarray]:
        width = backbone_info(settings.backbone).width
        # Checkpoints hold half as many positions more than frames.
        encoding = positions(settings.frames * 3 // 2, width)[None]
        buffers = {}
        for i, cardinality in enumerate(CARDINALITIES):
            buffers[f"transformers.{i}.pe.pe"] = encoding
            for j, each in enumerate(tuples(settings.frames, cardinality)):
                buffers[f"transformers.{i}.tuples.{j}"] = np.array(each, np.int64)
        return buffers


def positions(length: int, width: int) -> Float[np.ndarray, "length d"]:
    """Returns what is added to the features of the frames at each position, in float32."""
    return np.float32(_POSITION_WEIGHT) * textbook_sinusoids(length, width)


def tuples(frames: int, cardinality: int) -> list[tuple[int, ...]]:
    """Returns the ordered tuples of frame numbers ``i < j (< k ...)``, in lexicographic order."""
    return list(itertools.combinations(range(frames), cardinality))


def tuple_distances(
    query: Tuples, support: Tuples, labels: Int[Array, "s"], n_way: int
) -> Float[Array, "n"]:
    """Distance of one query to every class: squared differences of values, a mean over tuples.

    For every tuple of the query, each class expects a value (section 3.2): the mean of the values
    of all tuples of all its shots, weighted by one softmax over all of them.

    Args:
        query: the tuples of one clip, without an axis of clips.
        support: tuples of the support clips.
        labels: class of each support clip, each class at least once.
        n_way: number of classes.
    """
    scores = jnp.einsum("uc,swc->suw", query.keys, support.keys, precision=_PRECISION)
    scores = scores / query.keys.shape[-1] ** 0.5
    member = members(labels, n_way)
    # The largest score of each class, which keeps the exponentials within range.
    highest = jnp.max(lax.stop_gradient(scores), axis=2)
    highest = jnp.max(jnp.where(member[:, :, None], highest, -jnp.inf), axis=1)
    weights = jnp.exp(scores - highest[labels][:, :, None])
    share = member.astype(weights.dtype)
    total = jnp.einsum("ns,suw->nu", share, weights, precision=_PRECISION)
    sums = jnp.einsum("suw,swc->suc", weights, support.values, precision=_PRECISION)
    sums = jnp.einsum("ns,suc->nuc", share, sums, precision=_PRECISION)
    expected = sums / total[:, :, None]
    return jnp.sum(jnp.square(query.values - expected), axis=(1, 2)) / query.keys.shape[0]


def _side_by_side(function: Callable, queries: Tuples) -> Float[Array, "q n"]:
    return jax.vmap(function)(queries)
