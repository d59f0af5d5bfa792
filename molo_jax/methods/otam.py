"""Ordered temporal alignment of frame features.

Reference: Cao et al., Few-Shot Video Classification via Temporal Alignment, CVPR 2020.
"""

from flax import nnx
from jaxtyping import Array, Float, Int

from molo_jax.methods.episode import Features
from molo_jax.methods.evidence import OTAM as ALIGNMENT
from molo_jax.methods.evidence import Evidence, Metric, of_clips
from molo_jax.methods.frames import FrameMethod, Stages
from molo_jax.methods.streams import Rule, Stream
from molo_jax.nn import matching


class OTAM(FrameMethod):
    """Scores a class by the negative mean cost of aligning the query with each of its shots."""

    def score(
        self,
        support: Float[Array, "s t d"],
        query: Float[Array, "q t d"],
        labels: Int[Array, "s"],
        *,
        n_way: int,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Stages, Float[Array, "q n"]]:
        del train, rngs
        distances = matching.cosine_distances(query, support)
        costs = matching.otam(distances, smoothing=self.settings.smoothing)
        return {}, -matching.class_means(costs, labels, n_way)

    def evidence(
        self,
        support: Float[Array, "s t d"],
        query: Float[Array, "q t d"],
        support_labels: Int[Array, "s"],
        *,
        n_way: int,
    ) -> dict[str, Evidence]:
        distances = matching.cosine_distances(query, support)
        return {"match": of_clips(distances, self._metric, support_labels, n_way)}

    def streams(self, features: Features) -> dict[str, Stream]:
        return {"match": Stream(features, Rule(self._metric, each_clip=True))}

    @property
    def _metric(self) -> Metric:
        return Metric(ALIGNMENT, smoothing=self.settings.smoothing)
