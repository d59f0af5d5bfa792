"""MoLo: motion-augmented long-short contrastive learning for few-shot action recognition.

Reference: Wang et al., CVPR 2023, arXiv 2304.00946. Attribute names follow the official PyTorch
modules. Both streams (appearance and motion) run through the same functions.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from molo_jax.model import matching, motion, resnet, temporal
from molo_jax.model.layers import Conv2d, TemporalConv3d, linear
from molo_jax.model.structures import (
    Matching,
    MoLoConfig,
    MoLoOutput,
    Sets,
    Stages,
    Tokens,
)


class MoLo(nnx.Module):
    """The full network: backbone, motion branch with autodecoder, encoders, classifier, matching.

    Parameters are float32; nothing depends on the number of frames or the crop, as long as a clip
    has 2 to 19 frames and the crop is divisible by 32.
    """

    def __init__(self, config: MoLoConfig, *, rngs: nnx.Rngs):
        width = resnet.feature_width(config.backbone)
        reduced = width // motion.REDUCTION
        self.config = config
        self.scale = nnx.Param(jnp.ones((1,)))
        self.scale_motion = nnx.Param(jnp.ones((1,)))
        self.class_token = nnx.Param(jax.random.normal(rngs.params(), (1, 1, width)))
        self.class_token_motion = nnx.Param(jax.random.normal(rngs.params(), (1, 1, width)))
        self.backbone = resnet.ResNet(config.backbone, rngs=rngs)
        self.pe = temporal.PositionalEncoder(
            width, a=config.positional_a, b=config.positional_b, dropout=config.dropout_position
        )
        self.temporal_atte_before = self._encoder(width, rngs)
        self.temporal_atte_before_motion = self._encoder(width, rngs)
        self.motion_reduce = TemporalConv3d(width, reduced, rngs=rngs)
        self.motion_conv = Conv2d(reduced, reduced, 3, padding=1, use_bias=True, rngs=rngs)
        self.motion_up = Conv2d(reduced, width, 1, use_bias=True, rngs=rngs)
        self.classification_layer = linear(width, config.num_classes, rngs=rngs)
        self.up1 = motion.UpBlock(reduced, 128, 2, rngs=rngs)
        self.up2 = motion.UpBlock(128, 32, 4, rngs=rngs)
        self.up3 = motion.UpBlock(32, 16, 4, rngs=rngs)
        self.outc = Conv2d(16, 3, 1, use_bias=True, rngs=rngs)

    def _encoder(self, width: int, rngs: nnx.Rngs) -> temporal.TemporalEncoder:
        return temporal.TemporalEncoder(
            width,
            dropout_attention=self.config.dropout_attention,
            dropout_feedforward=self.config.dropout_feedforward,
            rngs=rngs,
        )

    def __call__(
        self,
        support: Float[Array, "s t h w 3"],
        query: Float[Array, "q _ _ _ 3"],
        support_labels: Int[Array, "s"],
        *,
        n_way: int,
        train: bool,
        reconstruct: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> MoLoOutput:
        """Runs one episode.

        Args:
            support: normalized support clips; shots of a class may differ in number.
            query: normalized query clips, any number.
            support_labels: class of each support clip, ``0 .. n_way - 1``, each at least once.
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
        _check_clips(support, "support")
        _check_clips(query, "query")
        if support.shape[1:] != query.shape[1:]:
            raise ValueError(
                f"support clips are {support.shape[1:]}, query clips {query.shape[1:]} "
                "(frames, height, width, channels); both sets need the same"
            )
        clips, sizes = jnp.concatenate([support, query]), (support.shape[0], query.shape[0])
        stages, tokens = self._encode(clips, sizes, train=train, rngs=rngs)
        decoded = self._decode(stages.pop("differences"), train=train) if reconstruct else {}
        sets = {name: _split(value, sizes) for name, value in stages.items()}
        token_sets = _split(tokens, sizes)
        return MoLoOutput(
            logits=self.match(token_sets.support, token_sets.query, support_labels, n_way=n_way),
            class_logits=self.classification_layer(
                jnp.mean(tokens.appearance, axis=1) + jnp.mean(tokens.motion, axis=1)
            ),
            tokens=token_sets,
            reconstruction=decoded["outc"] if reconstruct else None,
            reconstruction_target=motion.frame_differences(clips),
            stages=_stages(sets, decoded),
        )

    def embed(self, clips: Float[Array, "v t h w 3"]) -> Tokens:
        """Computes the tokens of clips with the running statistics and without dropout.

        A clip's tokens do not depend on the other clips, so they can be computed once and matched
        in any number of episodes.

        Raises:
            ValueError: if the shape is not that of clips.
        """
        _check_clips(clips, "embedded")
        return self._encode(clips, (clips.shape[0],), train=False, rngs=None)[1]

    def match(
        self, support: Tokens, query: Tokens, support_labels: Int[Array, "s"], *, n_way: int
    ) -> Matching:
        """Scores queries against the prototypes of the classes (long-short contrastive objective).

        Match logits are ``-(D_appearance + motion_weight D_motion)``; long-short logits are
        negative sums of distances to the global token, scaled by ``scale`` and ``scale_motion``.
        """
        streams = []
        for name, scale in (("appearance", self.scale), ("motion", self.scale_motion)):
            classes = matching.prototypes(getattr(support, name), support_labels, n_way)
            distances = matching.cosine_distances(getattr(query, name), classes)
            frames, to_query, to_class = matching.split_streams(distances)
            distance = matching.bi_mean_hausdorff(
                frames, single_direction=self.config.single_direction
            )
            streams.append((distance, -scale[...] * to_query, -scale[...] * to_class))
        (appearance, s2q, q2s), (moving, s2q_motion, q2s_motion) = streams
        return Matching(
            match=-(appearance + self.config.motion_weight * moving),
            support_to_query=s2q,
            query_to_support=q2s,
            support_to_query_motion=s2q_motion,
            query_to_support_motion=q2s_motion,
        )

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
        reduced = self.motion_reduce(stages["layer4"])
        convolved = motion.over_frames(self.motion_conv, reduced)
        differences = motion.motion_differences(reduced, convolved)
        lifted = motion.over_frames(self.motion_up, differences)
        stages |= {
            "motion_reduce": reduced,
            "motion_conv": convolved,
            "differences": differences,
            "motion_up": lifted,
        }
        drop = {"train": train, "rngs": rngs}
        appearance = self._stream(
            self.class_token, self.temporal_atte_before, stages["layer4"], **drop
        )
        moving = self._stream(
            self.class_token_motion, self.temporal_atte_before_motion, jax.nn.relu(lifted), **drop
        )
        stages |= appearance | {f"{name}_motion": value for name, value in moving.items()}
        return stages, Tokens(
            appearance=jax.nn.relu(appearance["encoded"]), motion=jax.nn.relu(moving["encoded"])
        )

    def _stream(self, token, encoder, maps: Array, **drop) -> dict[str, Array]:
        """Pools maps to frame tokens, adds class token and positions, and encodes."""
        tokens = temporal.prepend_token(token[...], jnp.mean(maps, axis=(2, 3)))
        positioned = self.pe(tokens, **drop)
        return {"pe": positioned, **encoder(positioned, **drop)}

    def _decode(self, differences: Array, *, train: bool) -> dict[str, Array]:
        """Decodes the difference maps of all videos in one batch to pixel differences."""
        videos, steps = differences.shape[:2]
        x = differences.reshape(videos * steps, *differences.shape[2:])
        decoded = {}
        for name in ("up1", "up2", "up3"):
            x = decoded[name] = getattr(self, name)(x, train=train)
        decoded["outc"] = self.outc(x)
        return {k: v.reshape(videos, steps, *v.shape[1:]) for k, v in decoded.items()}


def _check_clips(clips: Array, which: str) -> None:
    shape = clips.shape
    if len(shape) != 5 or shape[-1] != 3:
        raise ValueError(
            f"{which} clips have shape {shape}; expected (videos, frames, height, width, 3)"
        )
    if not 2 <= shape[1] < temporal.MAX_POSITIONS:
        raise ValueError(
            f"{which} clips have {shape[1]} frames; motion needs at least 2 and the positional "
            f"encoding allows at most {temporal.MAX_POSITIONS - 1}"
        )
    if shape[2] % resnet.STRIDE or shape[3] % resnet.STRIDE or 0 in shape:
        raise ValueError(
            f"{which} clips are {shape[2]}x{shape[3]} pixels; both sides must be positive "
            f"multiples of {resnet.STRIDE}"
        )


def _split(tree, sizes: tuple[int, ...]) -> Sets:
    support, query = sizes
    return Sets(
        support=jax.tree.map(lambda x: x[:support], tree),
        query=jax.tree.map(lambda x: x[support : support + query], tree),
    )


def _stages(sets: dict[str, Sets], decoded: dict[str, Array]) -> Stages:
    missing = dict.fromkeys(("up1", "up2", "up3", "outc"))
    named = {name: value for name, value in sets.items() if name != "differences"}
    return Stages(**named, **(missing | decoded))
