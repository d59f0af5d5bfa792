"""Frame features matched by the bidirectional mean Hausdorff metric, without any encoder.

Reference: Wang et al., HyRSM, CVPR 2022, section 3.3; the baseline of MoLo's ablation.
"""

from flax import nnx
from jaxtyping import Array, Float, Int

from molo_jax.methods.episode import Features
from molo_jax.methods.evidence import BI_MHM, Evidence, Metric, of_prototypes
from molo_jax.methods.frames import FrameMethod, Stages
from molo_jax.methods.streams import Rule, Stream
from molo_jax.nn import matching


class BiMHM(FrameMethod):
    """Scores a class by the negative distance of the query's frames to those of its prototype."""

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
        classes = matching.prototypes(support, labels, n_way)
        return {}, -matching.bi_mean_hausdorff(matching.cosine_distances(query, classes))

    def evidence(
        self,
        support: Float[Array, "s t d"],
        query: Float[Array, "q t d"],
        support_labels: Int[Array, "s"],
        *,
        n_way: int,
    ) -> dict[str, Evidence]:
        classes = matching.prototypes(support, support_labels, n_way)
        distances = matching.cosine_distances(query, classes)
        return {"match": of_prototypes(distances, Metric(BI_MHM))}

    def streams(self, features: Features) -> dict[str, Stream]:
        return {"match": Stream(features, Rule(Metric(BI_MHM)))}
