"""MoLo: motion-augmented long-short contrastive learning for few-shot action recognition.

Reference: Wang et al., CVPR 2023, arXiv 2304.00946. Both streams (appearance and motion)
run through the same functions; what is the motion stream's own is called `motion_…`.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from molo_jax.backbones import backbone_info
from molo_jax.methods.base import (
    Method,
    accuracy,
    check_clips,
    cross_entropy,
    join_sets,
    split_sets,
)
from molo_jax.methods.episode import Episode, Training
from molo_jax.methods.evidence import BI_MHM, OTAM, Evidence, Metric, of_prototypes
from molo_jax.methods.molo_outputs import Matching, MoLoOutput, Tokens
from molo_jax.methods.settings import MoLoSettings
from molo_jax.methods.streams import Rule, Stream
from molo_jax.nn import attention, matching, motion, ops
from molo_jax.nn.layers import Conv2d, TemporalConv3d, linear, recomputed
from molo_jax.nn.positions import PositionalEncoder, sinusoids
from molo_jax.nn.remat import BLOCK

# Positions of the encoding: the class token and the frames.
_POSITIONS = MoLoSettings.most_frames + 1


class MoLo(Method):
    """The full network: backbone, motion branch with autodecoder, encoders, classifier, matching.

    Nothing depends on the number of frames or the crop. With one stream alone
    (``settings.streams``, the ablation of the paper's section 4.3) the other enters neither the
    scores nor the classifier nor the long-short terms; the decoder of the motion features, an
    auxiliary task of the backbone, stays.
    """

    def __init__(self, settings: MoLoSettings, *, rngs: nnx.Rngs):
        super().__init__(settings, rngs=rngs)
        info = backbone_info(settings.backbone)
        width, reduced = info.width, info.width // motion.REDUCTION
        uses_appearance, uses_motion = (
            settings.streams != "motion",
            settings.streams != "appearance",
        )
        if uses_appearance:
            self.contrast_scale = nnx.Param(jnp.ones((1,)))
        if uses_motion:
            self.motion_contrast_scale = nnx.Param(jnp.ones((1,)))
        if uses_appearance:
            self.class_token = nnx.Param(jax.random.normal(rngs.params(), (1, 1, width)))
        if uses_motion:
            self.motion_class_token = nnx.Param(jax.random.normal(rngs.params(), (1, 1, width)))
        self.backbone = info.build(rngs)
        self.positional_encoder = PositionalEncoder(
            width,
            positions=_POSITIONS,
            a=settings.positional_a,
            b=settings.positional_b,
            dropout=settings.dropout_position,
        )
        if uses_appearance:
            self.frame_encoder = self._encoder(width, rngs)
        if uses_motion:
            self.motion_encoder = self._encoder(width, rngs)
        self.motion_reduction = TemporalConv3d(width, reduced, rngs=rngs)
        self.motion_convolution = Conv2d(reduced, reduced, 3, padding=1, use_bias=True, rngs=rngs)
        if uses_motion:
            self.motion_expansion = Conv2d(reduced, width, 1, use_bias=True, rngs=rngs)
        self.classifier = linear(width, settings.num_classes, rngs=rngs)
        self.motion_decoder = motion.MotionDecoder(reduced, rngs=rngs)

    def _encoder(self, width: int, rngs: nnx.Rngs) -> attention.TemporalEncoder:
        return attention.TemporalEncoder(
            width,
            dropout_attention=self.settings.dropout_attention,
            dropout_feedforward=self.settings.dropout_feedforward,
            rngs=rngs,
        )

    def forward(
        self,
        episode: Episode,
        *,
        n_way: int,
        train: bool,
        reconstruct: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> MoLoOutput:
        """Runs one episode.

        Args:
            episode: the clips; shots of a class may differ in number.
            n_way: number of classes.
            train: uses and tracks the batch statistics of each set, and applies dropout.
            reconstruct: whether to run the autodecoder.
            rngs: source of dropout masks (stream ``dropout``), needed in training if a rate is not
                0.

        Returns:
            The outputs and every named stage.

        Raises:
            ValueError: if the clips' shapes are not those of a clip, or the two sets' differ.
        """
        clips, sizes = join_sets(episode, self.settings)
        stages, tokens = self._encode(clips, sizes, train=train, rngs=rngs)
        decoded = self._decode(stages.pop("differences"), train=train) if reconstruct else {}
        sets = {name: split_sets(value, sizes) for name, value in stages.items()}
        token_sets = split_sets(tokens, sizes)
        means = [jnp.mean(x, axis=1) for x in (tokens.appearance, tokens.motion) if x is not None]
        return MoLoOutput(
            scores=self.scores(
                token_sets.support, token_sets.query, episode.support_labels, n_way=n_way
            ),
            class_logits=self.classifier(sum(means[1:], means[0])),
            tokens=token_sets,
            reconstruction=ops.to_float32(decoded["motion_decoder.output"])
            if reconstruct
            else None,
            reconstruction_target=motion.frame_differences(clips),
            stages=sets | decoded,
        )

    def __call__(
        self, episode: Episode, *, n_way: int, train: bool, rngs: nnx.Rngs | None = None
    ) -> Training:
        output = self.forward(episode, n_way=n_way, train=train, rngs=rngs)
        return Training(
            logits=output.scores.match,
            losses=losses(output, episode),
            metrics={"class_accuracy": accuracy(output.class_logits, episode.classes)},
            stages=output.stages | {"scores": output.scores, "class_logits": output.class_logits},
        )

    @classmethod
    def fixed_buffers(cls, settings: MoLoSettings) -> dict[str, np.ndarray]:
        return {"pe.pe": sinusoids(_POSITIONS, backbone_info(settings.backbone).width)[None]}

    def total_loss(self, losses: Mapping[str, Float[Array, ""]]) -> Float[Array, ""]:
        """Weighs the terms.

        ``match + l_cls classification + l_con (s2q + q2s + s2q_motion + q2s_motion)
        + l_rec reconstruction``
        """
        settings = self.settings
        contrasts = [value for name, value in losses.items() if name.startswith(("s2q", "q2s"))]
        return (
            losses["match"]
            + settings.classification * losses["classification"]
            + settings.contrast * sum(contrasts[1:], contrasts[0])
            + settings.reconstruction * losses["reconstruction"]
        )

    def embed(self, clips: Float[Array, "v t h w 3"]) -> Tokens:
        check_clips(clips, self.settings)
        return self._encode(clips, (clips.shape[0],), train=False, rngs=None)[1]

    def match(
        self, support: Tokens, query: Tokens, support_labels: Int[Array, "s"], *, n_way: int
    ) -> Float[Array, "q n"]:
        return self.scores(support, query, support_labels, n_way=n_way).match

    def evidence(
        self, support: Tokens, query: Tokens, support_labels: Int[Array, "s"], *, n_way: int
    ) -> dict[str, Evidence]:
        """Takes the scores apart into ``appearance`` and ``motion``.

        The distances are those of frames; the global token, which enters the long-short terms of
        the loss alone, is not among them. Entry ``i`` of the motion stream is the change from frame
        ``i`` to frame ``i + 1``.
        """
        found = {}
        for name in ("appearance", "motion"):
            if getattr(query, name) is None:
                continue
            classes = matching.prototypes(getattr(support, name), support_labels, n_way)
            distances = matching.cosine_distances(getattr(query, name), classes)
            frames, _, _ = matching.split_streams(distances)
            found[name] = of_prototypes(frames, self._metric, self._weight(name))
        return found

    def streams(self, features: Tokens) -> dict[str, Stream]:
        """Takes apart what is compared: the tokens of frames, without the global token."""
        tokens = {name: getattr(features, name) for name in ("appearance", "motion")}
        return {
            name: Stream(each[:, 1:], Rule(self._metric, self._weight(name)))
            for name, each in tokens.items()
            if each is not None
        }

    @property
    def _metric(self) -> Metric:
        settings = self.settings
        if settings.matching == "otam":
            return Metric(OTAM, smoothing=settings.smoothing)
        return Metric(BI_MHM, single_direction=settings.single_direction)

    def _weight(self, stream: str) -> float:
        """Returns what a stream counts; a stream alone is not weighed."""
        weighed = stream == "motion" and self.settings.streams == "both"
        return self.settings.motion_weight if weighed else 1.0

    def scores(
        self, support: Tokens, query: Tokens, support_labels: Int[Array, "s"], *, n_way: int
    ) -> Matching:
        """Scores queries against the prototypes of the classes (long-short contrastive objective).

        Match logits are ``-(D_appearance + motion_weight D_motion)``, with one stream alone ``-D``;
        long-short logits are negative sums of distances to the global token, scaled by
        ``contrast_scale`` and ``motion_contrast_scale``.
        """
        found = {}
        for name, scale in (("appearance", "contrast_scale"), ("motion", "motion_contrast_scale")):
            if getattr(query, name) is None:
                found[name] = None, None, None
                continue
            classes = matching.prototypes(getattr(support, name), support_labels, n_way)
            distances = matching.cosine_distances(getattr(query, name), classes)
            frames, to_query, to_class = matching.split_streams(distances)
            weight = -getattr(self, scale)[...]
            found[name] = self._distance(frames), weight * to_query, weight * to_class
        (appearance, s2q, q2s), (moving, s2q_motion, q2s_motion) = found.values()
        if appearance is None or moving is None:
            distance = moving if appearance is None else appearance
        else:
            distance = appearance + self.settings.motion_weight * moving
        return Matching(
            match=-distance,
            support_to_query=s2q,
            query_to_support=q2s,
            support_to_query_motion=s2q_motion,
            query_to_support_motion=q2s_motion,
        )

    def _distance(self, frames: Float[Array, "q n i j"]) -> Float[Array, "q n"]:
        settings = self.settings
        if settings.matching == "otam":
            return matching.otam(frames, smoothing=settings.smoothing)
        return matching.bi_mean_hausdorff(frames, single_direction=settings.single_direction)

    def _encode(
        self, clips: Array, sizes: tuple[int, ...], *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[dict[str, Array], Tokens]:
        """Runs backbone, motion branch and encoders on the clips of all sets at once."""
        videos, frames = clips.shape[:2]
        maps = self.backbone(
            clips.reshape(videos * frames, *clips.shape[2:]),
            set_sizes=tuple(size * frames for size in sizes),
            train=train,
        )
        stages = {k: v.reshape(videos, frames, *v.shape[1:]) for k, v in maps.items()}
        features = stages[backbone_info(self.settings.backbone).output]
        reduced, convolved, differences = recomputed(
            BLOCK,
            lambda *arguments: _motion(*arguments),
            self.motion_reduction,
            self.motion_convolution,
            features,
        )
        stages |= {
            "motion_reduction": reduced,
            "motion_convolution": convolved,
            "differences": differences,
        }
        drop = {"train": train, "rngs": rngs}
        tokens = {"appearance": None, "motion": None}
        if self.settings.streams != "motion":
            appearance = self._stream(self.class_token, self.frame_encoder, features, **drop)
            stages |= appearance
            tokens["appearance"] = ops.relu(appearance["encoded"])
        if self.settings.streams != "appearance":
            expanded = motion.over_frames(self.motion_expansion, differences)
            moving = self._stream(
                self.motion_class_token,
                self.motion_encoder,
                ops.relu(expanded),
                **drop,
            )
            stages |= {"motion_expansion": expanded}
            stages |= {f"motion_{name}": value for name, value in moving.items()}
            tokens["motion"] = ops.relu(moving["encoded"])
        return stages, Tokens(**tokens)

    def _stream(self, token, encoder, maps: Array, **drop) -> dict[str, Array]:
        """Pools maps to frame tokens, adds class token and positions, and encodes."""
        tokens = _prepend_token(token[...], jnp.mean(ops.to_float32(maps), axis=(2, 3)))
        positioned = self.positional_encoder(tokens, **drop)
        train, rngs = drop["train"], drop["rngs"]
        encoded = recomputed(
            BLOCK,
            lambda encoder, x, rngs: encoder(x, train=train, rngs=rngs),
            encoder,
            positioned,
            rngs,
        )
        return {"positioned": positioned, **encoded}

    def _decode(self, differences: Array, *, train: bool) -> dict[str, Array]:
        """Decodes the difference maps of all videos in one batch to pixel differences."""
        videos, steps = differences.shape[:2]
        x = differences.reshape(videos * steps, *differences.shape[2:])
        decoded = self.motion_decoder(x, train=train)
        return {
            f"motion_decoder.{name}": value.reshape(videos, steps, *value.shape[1:])
            for name, value in decoded.items()
        }


def _motion(reduction, convolution, features: Array) -> tuple[Array, Array, Array]:
    """Reduces features to motion channels, convolves these, and takes differences of frames."""
    reduced = reduction(features)
    convolved = motion.over_frames(convolution, reduced)
    return reduced, convolved, motion.motion_differences(reduced, convolved)


def losses(output: MoLoOutput, episode: Episode) -> dict[str, Float[Array, ""]]:
    """Computes the unweighted terms of the loss; those of a stream that is not used are absent.

    Raises:
        ValueError: if the output was computed without reconstruction.
    """
    if output.reconstruction is None:
        raise ValueError("the loss needs the reconstruction: run the model with reconstruct=True")
    scores, labels = output.scores, episode.query_labels
    error = output.reconstruction - output.reconstruction_target
    contrasts = {
        "s2q": scores.support_to_query,
        "q2s": scores.query_to_support,
        "s2q_motion": scores.support_to_query_motion,
        "q2s_motion": scores.query_to_support_motion,
    }
    return {
        "match": cross_entropy(scores.match, labels),
        "classification": cross_entropy(output.class_logits, episode.classes),
        **{k: cross_entropy(v, labels) for k, v in contrasts.items() if v is not None},
        "reconstruction": jnp.mean(jnp.square(error)),
    }


def _prepend_token(
    token: Float[Array, "1 1 d"], tokens: Float[Array, "v l d"]
) -> Float[Array, "v l+1 d"]:
    """Puts the learnt class token in front of every clip's frame tokens."""
    return jnp.concatenate(
        [jnp.broadcast_to(token, (tokens.shape[0], 1, token.shape[-1])), tokens], 1
    )
