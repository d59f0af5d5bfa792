"""One network at work on clips: what it keeps of each, and how these are compared."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Int, UInt8

from molo_jax.backbones import backbone_info
from molo_jax.data.augment import eval_views
from molo_jax.engine.mesh import make_mesh
from molo_jax.engine.step import make_embed, make_match
from molo_jax.errors import MoloError
from molo_jax.methods.episode import Features
from molo_jax.nn.precision import using
from molo_jax.prediction.clips import Clip
from molo_jax.prediction.sources import Network

# Pixels that are embedded at once on a CPU and elsewhere: eight and 512 frames of 224×224.
_PIXELS_AT_ONCE = {"cpu": 8 * 224 * 224}
_PIXELS_ELSEWHERE = 512 * 224 * 224
_MOST_CLIPS_AT_ONCE = 64
# Queries that are matched in one call at most, and the features that are gathered for them.
_MOST_QUERIES_AT_ONCE = 64
_MATCHED_BYTES = 2**28


@dataclasses.dataclass(frozen=True)
class EmbeddedClip:
    """What is kept of a clip.

    Attributes:
        name: of the clip, such as its path.
        digest: of its content.
        features: what the method keeps of it; a pytree of arrays.
        thumbnails: the frames that the network looked at, small, upright.
        numbers: which frames of the video they are.
        seconds: when they are shown; None where that is not known.
    """

    name: str
    digest: str
    features: Features
    thumbnails: UInt8[np.ndarray, "t h w 3"]
    numbers: np.ndarray
    seconds: np.ndarray | None


class Embedder:
    """A network that embeds clips and matches them.

    Args:
        network: the network.

    Attributes:
        network: the network.
        embedded: number of clips that it has embedded so far.
    """

    def __init__(self, network: Network):
        self.network = network
        self.embedded = 0
        self._weights = network.params, network.batch_stats
        # The jitted matching by number of classes.
        self._matching: dict[int, Callable] = {}
        # One device: clips come one at a time.
        self._mesh = make_mesh(jax.local_devices()[:1])

    def embed_pixels(self, pixels: UInt8[np.ndarray, "v t r r 3"]) -> Features:
        """Computes the features of clips, as an evaluation does.

        Args:
            pixels: squares of side ``rule.resize``.

        Returns:
            A pytree of arrays with the clips as their leading axis.
        """
        parts, batch = [], self.clips_at_once
        for start in range(0, len(pixels), batch):
            part = pixels[start : start + batch]
            filled = np.concatenate([part, np.repeat(part[:1], batch - len(part), axis=0)])
            features = jax.device_get(self._embed(*self._weights, filled))
            count = len(part)
            parts.append(jax.tree.map(lambda x, count=count: np.asarray(x[:count]), features))
        self.embedded += len(pixels)
        return jax.tree.map(lambda *each: np.concatenate(each), *parts)

    def embed(self, clips: Sequence[Clip]) -> list[EmbeddedClip]:
        """Computes what is kept of clips."""
        if not clips:
            return []
        features = self.embed_pixels(np.stack([clip.pixels for clip in clips]))
        return [
            EmbeddedClip(
                name=clip.name,
                digest=clip.digest,
                features=jax.tree.map(lambda x, i=i: x[i], features),
                thumbnails=clip.thumbnails,
                numbers=clip.numbers,
                seconds=clip.seconds,
            )
            for i, clip in enumerate(clips)
        ]

    def logits(
        self,
        support: Sequence[Features],
        labels: Int[np.ndarray, "s"],
        query: Sequence[Features],
        n_way: int,
    ) -> Float[np.ndarray, "q n"]:
        """Scores queries, each by itself: a score does not depend on the other queries.

        A score is the negative distance, at most 0.

        Args:
            support: features of the support clips.
            labels: class of each, ``0 .. n_way - 1``, each class at least once.
            query: features of the queries.
            n_way: number of classes.

        Raises:
            MoloError: the scores are not finite.
        """
        shots, count = np.arange(len(support), dtype=np.int32), len(support)
        episodes = [(shots, count + i, labels) for i in range(len(query))]
        return self._scores([*support, *query], episodes, n_way)

    def leave_one_out(
        self, support: Sequence[Features], labels: Int[np.ndarray, "s"], n_way: int
    ) -> Float[np.ndarray, "s n"]:
        """Scores each support clip by the others.

        One clip of every other class is left out too, where it has two or more: a class with fewer
        clips than the others would be at a disadvantage, since the mean of few clips is noisier.
        Which clips, is drawn with a fixed seed.

        Returns:
            A row for each clip; it is NaN where the clip is the only one of its class.
        """
        labels = np.asarray(labels)
        counts = np.bincount(labels, minlength=n_way)
        asked = [i for i, label in enumerate(labels) if counts[label] > 1]
        scores = np.full((len(support), n_way), np.nan, np.float32)
        if asked:
            rng = np.random.default_rng(0)
            others = {i: _others(i, labels, counts, rng) for i in asked}
            episodes = [(others[i], i, labels[others[i]]) for i in asked]
            scores[asked] = self._scores(support, episodes, n_way)
        return scores

    def evidence(
        self,
        support: Sequence[Features],
        labels: Int[np.ndarray, "s"],
        query: Features,
        n_way: int,
    ) -> dict[str, Any]:
        """Says what the scores of a query are made of, see `molo_jax.methods.evidence`."""
        stacked = _stacked(support), _stacked([query])
        found = self._evidence(*self._weights, *stacked, np.asarray(labels, np.int32), n_way=n_way)
        return jax.device_get(found)

    @functools.cached_property
    def structure(self) -> Features:
        """What is kept of one clip, as a pytree of `jax.ShapeDtypeStruct`."""
        rule = self.network.rule
        shape = (1, rule.num_frames, rule.resize, rule.resize, 3)
        pixels = jax.ShapeDtypeStruct(shape, np.uint8)
        features = jax.eval_shape(self._embed, *self._weights, pixels)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), features)

    @functools.cached_property
    def clips_at_once(self) -> int:
        """Number of clips that are embedded at once."""
        rule = self.network.rule
        limit = _PIXELS_AT_ONCE.get(jax.default_backend(), _PIXELS_ELSEWHERE)
        clips = limit // (rule.num_frames * rule.crop**2)
        return max(1, min(clips, _MOST_CLIPS_AT_ONCE))

    @functools.cached_property
    def _embed(self) -> Callable:
        network = self.network
        info = backbone_info(network.settings.backbone)
        crop, scale = network.rule.crop, (info.mean, info.std)
        return make_embed(
            network.graphdef,
            preprocess=lambda clips: eval_views(clips, crop, scale),
            mesh=self._mesh,
            precision=network.precision,
        )

    def _scores(
        self,
        features: Sequence[Features],
        episodes: Sequence[tuple[np.ndarray, int, np.ndarray]],
        n_way: int,
    ) -> Float[np.ndarray, "e n"]:
        """Matches episodes of one query among features: positions of shots, of query, labels."""
        if not episodes:
            return np.zeros((0, n_way), np.float32)
        # Powers of two, so that few shapes are compiled for.
        table = _stacked(features, 1 << (len(features) - 1).bit_length())
        each = sum(leaf.nbytes for leaf in jax.tree.leaves(features[0]))
        fitting = _MATCHED_BYTES // (each * (1 + len(episodes[0][0])))
        most = min(_MOST_QUERIES_AT_ONCE, 1 << max(0, fitting.bit_length() - 1))
        batch = min(1 << (len(episodes) - 1).bit_length(), most)
        match, found = self._match(n_way), []
        for start in range(0, len(episodes), batch):
            part = episodes[start : start + batch]
            filled = [*part, *[part[0]] * (batch - len(part))]
            shots = np.stack([shots for shots, _, _ in filled]).astype(np.int32)
            query = np.int32([[position] for _, position, _ in filled])
            labels = np.stack([labels for _, _, labels in filled]).astype(np.int32)
            logits = np.asarray(match(*self._weights, table, shots, query, labels))
            found.append(logits[: len(part), 0])
        scores = np.concatenate(found)
        if not np.isfinite(scores).all():
            raise MoloError(
                f"the scores of {self.network.source} are not finite, so nothing can be predicted;"
                " its weights or running statistics are broken"
            )
        return scores + self.network.settings.smallest_distance

    def _match(self, n_way: int) -> Callable:
        if n_way not in self._matching:
            network = self.network
            self._matching[n_way] = make_match(
                network.graphdef, n_way=n_way, precision=network.precision
            )
        return self._matching[n_way]

    @functools.cached_property
    def _evidence(self) -> Callable:
        network = self.network

        @functools.partial(jax.jit, static_argnames="n_way")
        def evidence(params, batch_stats, support, query, labels, n_way):
            with using(network.precision):
                model = nnx.merge(network.graphdef, params, batch_stats)
                return model.evidence(support, query, labels, n_way=n_way)

        return evidence


def _others(
    clip: int, labels: np.ndarray, counts: np.ndarray, rng: np.random.Generator
) -> Int[np.ndarray, "r"]:
    """Returns the positions of the clips that score one that is left out."""
    left_out = [clip]
    for label in np.flatnonzero(counts > 1):
        if label != labels[clip]:
            left_out.append(int(rng.choice(np.flatnonzero(labels == label))))
    return np.delete(np.arange(len(labels), dtype=np.int32), left_out)


def _stacked(features: Sequence[Features], rows: int = 0) -> Features:
    """Stacks the features of clips; with `rows`, rows of zeros fill up to so many."""

    def stack(*leaves: np.ndarray) -> jax.Array:
        filling = [np.zeros_like(leaves[0])] * max(0, rows - len(leaves))
        return jnp.asarray(np.stack([*leaves, *filling]))

    return jax.tree.map(stack, *features)
