"""The interface of a few-shot method, and what all of them share.

Letters: v videos, s support, q query, n way, t frame, h w space, k training classes.
"""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from molo_jax.backbones import backbone_info
from molo_jax.methods.episode import Episode, Features, Sets, Training
from molo_jax.methods.evidence import Evidence
from molo_jax.methods.settings import Settings
from molo_jax.methods.streams import Stream


class Method(nnx.Module, abc.ABC):
    """A network that learns from episodes and scores queries by their support clips.

    Parameters are float32. A method fits any number of classes, shots and queries.

    Args:
        settings: everything that fixes its computation.
        rngs: source of the random weights.

    Attributes:
        matched_at_once: episodes that an evaluation matches side by side. The memory of
            :meth:`match` grows with it; a method whose `match` has large intermediate values sets a
            smaller number.
    """

    matched_at_once: ClassVar[int] = 64

    def __init__(self, settings: Settings, *, rngs: nnx.Rngs):
        self.settings = settings

    @abc.abstractmethod
    def embed(self, clips: Float[Array, "v t h w 3"]) -> Features:
        """Computes what the method keeps of clips, with running statistics, without dropout.

        A clip's features do not depend on the other clips, so they are computed once and matched
        in any number of episodes.

        Raises:
            ValueError: if the shape is not that of clips.
        """

    @abc.abstractmethod
    def match(
        self, support: Features, query: Features, support_labels: Int[Array, "s"], *, n_way: int
    ) -> Float[Array, "q n"]:
        """Scores queries, outside training.

        Args:
            support: features of the support clips.
            query: features of the queries.
            support_labels: class of each support clip, ``0 .. n_way - 1``, each at least once;
                classes may have different numbers of shots.
            n_way: number of classes.
        """

    def evidence(
        self, support: Features, query: Features, support_labels: Int[Array, "s"], *, n_way: int
    ) -> dict[str, Evidence]:
        """Takes the scores of `match` apart into streams and, where it can, pairs of frames.

        By default there is one stream, ``match``, and nothing is said about frames.

        Args:
            support: features of the support clips.
            query: features of the queries.
            support_labels: class of each support clip, as for `match`.
            n_way: number of classes.

        Returns:
            Each stream by its name; the weighted distances of all add up to the distances: the
            negative scores minus `settings.smallest_distance`.
        """
        scores = self.match(support, query, support_labels, n_way=n_way)
        return {"match": Evidence(-scores - self.settings.smallest_distance)}

    def streams(self, features: Features) -> dict[str, Stream]:
        """Takes apart what `match` compares, if it sees tokens through inner products only.

        By default there are no streams: `match` alone can compare the features then.

        Args:
            features: of clips, from `embed`; only slices of the arrays are taken, so that arrays on
                disk are not read.

        Returns:
            Each stream by its name. The negative sum of their weighted distances is what `match`
            returns, up to a number that is the same for all classes.
        """
        del features
        return {}

    @abc.abstractmethod
    def __call__(
        self, episode: Episode, *, n_way: int, train: bool, rngs: nnx.Rngs | None = None
    ) -> Training:
        """Runs one episode with its losses.

        Args:
            episode: the clips and their classes; shots of a class may differ in number.
            n_way: number of classes.
            train: uses and tracks the batch statistics of each set, and applies dropout.
            rngs: source of dropout masks (stream ``dropout``), needed in training if a rate is not
                0.

        Raises:
            ValueError: if the clips' shapes are not those of a clip, or the two sets' differ.
        """

    @classmethod
    def fixed_buffers(cls, settings: Settings) -> dict[str, np.ndarray]:
        """Returns what official checkpoints hold beside the weights, by its names there."""
        return {}

    def loss_weights(self) -> Mapping[str, float]:
        """Returns the weight of each term of the loss; a term that is not named has weight 1."""
        return {}

    def total_loss(self, losses: Mapping[str, Float[Array, ""]]) -> Float[Array, ""]:
        """Weighs the terms of one episode; a step minimizes the mean of this over its episodes."""
        weights = self.loss_weights()
        return sum(value * weights.get(name, 1.0) for name, value in losses.items())


def join_sets(episode: Episode, settings: Settings) -> tuple[Array, tuple[int, int]]:
    """Returns the clips of both sets in one array, support first, and the sizes of the sets.

    Raises:
        ValueError: if the clips' shapes are not those of a clip, or the two sets' differ.
    """
    support, query = episode.support, episode.query
    check_clips(support, settings, "support")
    check_clips(query, settings, "query")
    if support.shape[1:] != query.shape[1:]:
        raise ValueError(
            f"support clips are {support.shape[1:]}, query clips {query.shape[1:]} "
            "(frames, height, width, channels); both sets need the same"
        )
    return jnp.concatenate([support, query]), (support.shape[0], query.shape[0])


def split_sets(tree: Any, sizes: tuple[int, int]) -> Sets:
    """Undoes `join_sets` for every leaf of a tree."""
    support, query = sizes
    return Sets(
        support=jax.tree.map(lambda x: x[:support], tree),
        query=jax.tree.map(lambda x: x[support : support + query], tree),
    )


def check_clips(clips: Array, settings: Settings, which: str = "embedded") -> None:
    """Checks the shape of clips.

    Raises:
        ValueError: naming the shape and what a method with these settings takes.
    """
    shape, stride = clips.shape, backbone_info(settings.backbone).stride
    if len(shape) != 5 or shape[-1] != 3:
        raise ValueError(
            f"{which} clips have shape {shape}; expected (videos, frames, height, width, 3)"
        )
    least, most = settings.least_frames, settings.most_frames
    if shape[1] < least or (most is not None and shape[1] > most):
        limit = f" and at most {most}" if most is not None else ""
        raise ValueError(
            f"{which} clips have {shape[1]} frames; {settings.title} needs at least {least}{limit}"
        )
    if shape[2] % stride or shape[3] % stride or 0 in shape:
        raise ValueError(
            f"{which} clips are {shape[2]}x{shape[3]} pixels; both sides must be positive "
            f"multiples of {stride}"
        )


def cross_entropy(logits: Float[Array, "v k"], labels: Int[Array, "v"]) -> Float[Array, ""]:
    """Mean cross-entropy of softmax scores against integer labels, in nats."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def accuracy(logits: Float[Array, "v k"], labels: Int[Array, "v"]) -> Float[Array, ""]:
    """Fraction of rows whose largest score is that of their label."""
    return jnp.mean(jnp.argmax(logits, axis=-1) == labels)
