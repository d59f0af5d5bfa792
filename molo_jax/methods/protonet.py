"""Prototypical network on mean frame features, called the TSN head in the official code.

References: Snell et al., Prototypical Networks for Few-shot Learning, NeurIPS 2017; Wang et al.,
Temporal Segment Networks, ECCV 2016.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from molo_jax.methods.episode import Features
from molo_jax.methods.evidence import BI_MHM, Metric
from molo_jax.methods.frames import FrameMethod, Stages
from molo_jax.methods.streams import Rule, Stream
from molo_jax.nn import matching


class ProtoNet(FrameMethod):
    """Scores a class by the mean cosine of the query with its shots; a video is a mean of frames.

    With ``settings.euclidean``, the score is the negative squared distance to the mean of the
    shots.
    """

    def encode(
        self, frames: Float[Array, "v t d"], *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[Stages, Float[Array, "v d"]]:
        del train, rngs
        return {}, jnp.mean(frames, axis=1)

    def score(
        self,
        support: Float[Array, "s d"],
        query: Float[Array, "q d"],
        labels: Int[Array, "s"],
        *,
        n_way: int,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Stages, Float[Array, "q n"]]:
        del train, rngs
        if self.settings.euclidean:
            centers = matching.prototypes(support[:, None], labels, n_way)[:, 0]
            return {}, -jnp.sum(jnp.square(query[:, None] - centers), axis=-1)
        cosines = matching.cosines(query[:, None], support[:, None])[:, :, 0, 0]
        return {}, matching.class_means(cosines, labels, n_way)

    def streams(self, features: Features) -> dict[str, Stream]:
        # The distance of two sequences of one token each is that of the tokens.
        metric, squared = Metric(BI_MHM, single_direction=True), self.settings.euclidean
        return {"match": Stream(features[:, None], Rule(metric, 1.0, not squared, squared))}
