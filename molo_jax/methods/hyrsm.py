"""HyRSM: hybrid relation of the videos of an episode, matched by the Hausdorff metric.

Reference: Wang et al., Hybrid Relation Guided Set Matching for Few-shot Action Recognition, CVPR
2022.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int

from molo_jax.backbones import backbone_info
from molo_jax.methods.base import accuracy, cross_entropy
from molo_jax.methods.episode import Episode, Sets
from molo_jax.methods.evidence import BI_MHM, Evidence, Metric, of_clips, of_prototypes
from molo_jax.methods.frame_outputs import Encoded
from molo_jax.methods.frames import FrameMethod, Stages
from molo_jax.methods.settings import HyRSMSettings
from molo_jax.nn import matching, ops
from molo_jax.nn.attention import Attention, RelationAttention
from molo_jax.nn.layers import linear, recomputed, torch_uniform
from molo_jax.nn.positions import PositionalEncoder, sinusoids
from molo_jax.nn.remat import BLOCK

_POSITIONS = HyRSMSettings.most_frames
# The distances decide predictions: never in reduced precision.
_PRECISION = lax.Precision.HIGHEST


class Fusion(nnx.Module):
    """Linear map of a frame token with its video's relation behind it, 2 D to D channels.

    It is the sum of a map of the one and a map of the other, which are computed apart: the frames
    once for a clip, the relation for every query. The ``kernel`` is that of a one-dimensional
    convolution of size 1, ``(1, 2 d, d)``.
    """

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        init = torch_uniform(2 * width)
        self.kernel = nnx.Param(init(rngs.params(), (1, 2 * width, width)))
        self.bias = nnx.Param(init(rngs.params(), (width,)))
        self.width = width

    def of_frames(self, frames: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        return self._mapped(frames, self.kernel[0, : self.width]) + self.bias[...]

    def of_relation(self, related: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        return self._mapped(related, self.kernel[0, self.width :])

    @staticmethod
    def _mapped(tokens: Float[Array, "*batch d"], kernel: Float[Array, "d f"]) -> Array:
        return jnp.matmul(tokens, kernel, precision=ops.product_precision(tokens))


class HyRSM(FrameMethod):
    """Frame tokens that know their video and the other videos of the episode, matched by Bi-MHM.

    The relation is computed for every query by itself, between the query and the support videos,
    or the prototypes of the classes (``settings.prototypes_first``, the official "5-shot" head).
    With one shot both are the same.
    """

    def __init__(self, settings: HyRSMSettings, *, rngs: nnx.Rngs):
        super().__init__(settings, rngs=rngs)
        width = backbone_info(settings.backbone).width
        self.positional_encoder = PositionalEncoder(
            width,
            positions=_POSITIONS,
            a=settings.positional_a,
            b=settings.positional_b,
            dropout=settings.dropout_position,
        )
        self.frame_encoder = Attention(width, dropout=settings.dropout_attention, rngs=rngs)
        self.relation = RelationAttention(
            width,
            dropout=settings.dropout_relation,
            dropout_weights=settings.dropout_relation_weights,
            rngs=rngs,
        )
        self.fusion = Fusion(width, rngs=rngs)
        self.classifier = linear(width, settings.num_classes, rngs=rngs)

    def encode(
        self, frames: Float[Array, "v t d"], *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[Stages, Encoded]:
        positioned = self.positional_encoder(frames, train=train, rngs=rngs)
        encoded = recomputed(
            BLOCK,
            lambda encoder, x, rngs: encoder(x, train=train, rngs=rngs),
            self.frame_encoder,
            positioned,
            rngs,
        )
        tokens = ops.relu(encoded)
        stages = {
            "positioned": positioned,
            "encoded": encoded,
            "class_logits": self.classifier(tokens),
        }
        return stages, Encoded(jnp.mean(tokens, axis=1), self.fusion.of_frames(tokens))

    def score(
        self,
        support: Encoded,
        query: Encoded,
        labels: Int[Array, "s"],
        *,
        n_way: int,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Stages, Float[Array, "q n"]]:
        """Scores queries by the negative distances of their new frame tokens to the support's.

        Returns:
            ``relation``, tokens of the support videos and the query (q, s + 1, d) before ReLU, and
            ``tokens``, the new frame tokens, of the support (q, s, t, d), of the queries (q, t, d);
            and the logits.
        """
        drop = {"train": train, "rngs": rngs}
        stages, frames, labels = self._frame_distances(support, query, labels, n_way, **drop)
        distances = matching.bi_mean_hausdorff(frames)
        return stages, -matching.class_means(distances, labels, n_way)

    def _frame_distances(
        self,
        support: Encoded,
        query: Encoded,
        labels: Int[Array, "s"],
        n_way: int,
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Stages, Float[Array, "q m i j"], Int[Array, "m"]]:
        """Computes the distances of the new frame tokens.

        Returns:
            The stages of `score`; the distances of every query frame to every frame of each support
            clip, or of each prototype (``settings.prototypes_first``); and the class of each.
        """
        if self.settings.prototypes_first:
            # Both are linear in the encoded frame tokens, so they are those of the prototypes.
            means = matching.prototypes(support.means[:, None], labels, n_way)[:, 0]
            support = Encoded(means, matching.prototypes(support.mapped, labels, n_way))
            labels = jnp.arange(n_way)
        queries = query.means.shape[0]
        shots = jnp.broadcast_to(support.means, (queries, *support.means.shape))
        videos = jnp.concatenate([shots, query.means[:, None]], axis=1)
        relation = self.relation(videos, train=train, rngs=rngs)
        mapped = self.fusion.of_relation(ops.relu(relation))[:, :, None]
        tokens = Sets(support=support.mapped + mapped[:, :-1], query=query.mapped + mapped[:, -1])
        products = jnp.einsum(
            "qid,qsjd->qsij",
            matching.unit(tokens.query),
            matching.unit(tokens.support),
            precision=_PRECISION,
        )
        return {"relation": relation, "tokens": tokens}, 1.0 - products, labels

    def match(
        self, support: Encoded, query: Encoded, support_labels: Int[Array, "s"], *, n_way: int
    ) -> Float[Array, "q n"]:
        # One query after the other: each has new frame tokens of all support videos.
        def one(each: Encoded) -> Float[Array, "n"]:
            alone = jax.tree.map(lambda x: x[None], each)
            return self.score(support, alone, support_labels, n_way=n_way)[1][0]

        return lax.map(one, query)

    def evidence(
        self, support: Encoded, query: Encoded, support_labels: Int[Array, "s"], *, n_way: int
    ) -> dict[str, Evidence]:
        def one(each: Encoded) -> Float[Array, "m i j"]:
            alone = jax.tree.map(lambda x: x[None], each)
            return self._frame_distances(support, alone, support_labels, n_way)[1][0]

        frames, metric = lax.map(one, query), Metric(BI_MHM)
        if self.settings.prototypes_first:
            return {"match": of_prototypes(frames, metric)}
        return {"match": of_clips(frames, metric, support_labels, n_way)}

    def loss_terms(self, stages: Stages, episode: Episode) -> dict[str, Float[Array, ""]]:
        return {"classification": cross_entropy(*_of_every_frame(stages, episode))}

    def metrics(self, stages: Stages, episode: Episode) -> dict[str, Float[Array, ""]]:
        return {"class_accuracy": accuracy(*_of_every_frame(stages, episode))}

    def loss_weights(self) -> Mapping[str, float]:
        return {"classification": self.settings.classification}

    @classmethod
    def fixed_buffers(cls, settings: HyRSMSettings) -> dict[str, np.ndarray]:
        return {"pe.pe": sinusoids(_POSITIONS, backbone_info(settings.backbone).width)[None]}


def _of_every_frame(
    stages: Stages, episode: Episode
) -> tuple[Float[Array, "f k"], Int[Array, "f"]]:
    """Scores of the training classes for every frame, support first, and its video's class."""
    logits = stages["class_logits"]
    both = jnp.concatenate([logits.support, logits.query])
    videos, frames, classes = both.shape
    return both.reshape(videos * frames, classes), jnp.repeat(episode.classes, frames)
