"""What all methods but MoLo start from: one feature vector for each frame of a clip.

Such a method says how frame features become what is kept of a clip (`encode`), how queries are
scored by it (`score`), and which terms of the loss it has beside the match (`loss_terms`).
"""

import abc
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from molo_jax.backbones import backbone_info
from molo_jax.methods.base import Method, check_clips, cross_entropy, join_sets, split_sets
from molo_jax.methods.episode import Episode, Features, Training
from molo_jax.methods.settings import Settings
from molo_jax.nn.ops import to_float32

# Intermediate values by name; see `Training.stages`.
Stages = dict[str, Any]


class FrameMethod(Method):
    """A method on the globally averaged features of single frames."""

    def __init__(self, settings: Settings, *, rngs: nnx.Rngs):
        super().__init__(settings, rngs=rngs)
        self.backbone = backbone_info(settings.backbone).build(rngs)

    def encode(
        self, frames: Float[Array, "v t d"], *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[Stages, Features]:
        """Computes what is kept of clips, each by itself; by default that is the frame features.

        Args:
            frames: features of the frames of each clip.
            train: whether dropout acts.
            rngs: source of dropout masks.

        Returns:
            Intermediate values and features, all with the clips as their leading axis.
        """
        del train, rngs
        return {}, frames

    @abc.abstractmethod
    def score(
        self,
        support: Features,
        query: Features,
        labels: Int[Array, "s"],
        *,
        n_way: int,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Stages, Float[Array, "q n"]]:
        """Scores queries, in training and outside.

        Returns:
            Intermediate values, and the logits.
        """

    def loss_terms(self, stages: Stages, episode: Episode) -> dict[str, Float[Array, ""]]:
        """Computes the terms of the loss beside the match; by default there are none."""
        del stages, episode
        return {}

    def metrics(self, stages: Stages, episode: Episode) -> dict[str, Float[Array, ""]]:
        """Computes further scalars that are reported; by default there are none."""
        del stages, episode
        return {}

    def __call__(
        self, episode: Episode, *, n_way: int, train: bool, rngs: nnx.Rngs | None = None
    ) -> Training:
        """Runs one episode.

        Args:
            episode: the clips; shots of a class may differ in number.
            n_way: number of classes.
            train: uses and tracks the batch statistics of each set, and applies dropout.
            rngs: source of dropout masks (stream ``dropout``), needed in training if a rate is not
                0.

        Returns:
            Logits, losses and every named stage: of the backbone's maps, of ``frames``, the
            features of frames, and those that the method names.

        Raises:
            ValueError: if the clips' shapes are not those of a clip, or the two sets' differ.
        """
        clips, sizes = join_sets(episode, self.settings)
        drop = {"train": train, "rngs": rngs}
        maps, frames = self._frames(clips, sizes, train=train)
        encoded, features = self.encode(frames, **drop)
        stages = maps | {"frames": frames} | encoded
        stages = {name: split_sets(value, sizes) for name, value in stages.items()}
        sets = split_sets(features, sizes)
        scored, logits = self.score(
            sets.support, sets.query, episode.support_labels, n_way=n_way, **drop
        )
        stages |= scored
        match = {"match": cross_entropy(logits, episode.query_labels)}
        return Training(
            logits=logits,
            losses=match | self.loss_terms(stages, episode),
            metrics=self.metrics(stages, episode),
            stages=stages,
        )

    def embed(self, clips: Float[Array, "v t h w 3"]) -> Features:
        check_clips(clips, self.settings)
        _, frames = self._frames(clips, (clips.shape[0],), train=False)
        return self.encode(frames, train=False, rngs=None)[1]

    def match(
        self, support: Features, query: Features, support_labels: Int[Array, "s"], *, n_way: int
    ) -> Float[Array, "q n"]:
        return self.score(support, query, support_labels, n_way=n_way)[1]

    def _frames(
        self, clips: Float[Array, "v t h w 3"], sizes: tuple[int, ...], *, train: bool
    ) -> tuple[Stages, Float[Array, "v t d"]]:
        """Runs the backbone and averages its last maps over space.

        Args:
            clips: clips of all sets, one set after the other.
            sizes: number of clips of each set.
            train: whether the sets' own batch statistics are used and tracked.
        """
        videos, count = clips.shape[:2]
        maps = self.backbone(
            clips.reshape(videos * count, *clips.shape[2:]),
            set_sizes=tuple(size * count for size in sizes),
            train=train,
        )
        maps = {name: x.reshape(videos, count, *x.shape[1:]) for name, x in maps.items()}
        last = maps[backbone_info(self.settings.backbone).output]
        return maps, jnp.mean(to_float32(last), axis=(2, 3))
