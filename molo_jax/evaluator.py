"""Evaluates networks on the episodes of a split: reads, embeds and matches their clips."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from flax import nnx
from jax.sharding import Mesh

from molo_jax.console import Progress
from molo_jax.data.clips.episodes import ClipRequest, EpisodeSampler
from molo_jax.data.clips.source import ClipSource
from molo_jax.data.pipeline import clip_batches
from molo_jax.engine import hosts
from molo_jax.engine.evaluation import FeatureStore, Score, evaluate_episodes
from molo_jax.engine.mesh import on_this_host, replicated
from molo_jax.engine.prefetch import place_clips, prefetched
from molo_jax.engine.step import make_embed, make_match
from molo_jax.methods.base import Method
from molo_jax.methods.episode import Features
from molo_jax.nn.precision import Precision
from molo_jax.same_data import BadVideos


@dataclasses.dataclass(frozen=True)
class EvaluationData:
    """The episodes that networks are evaluated on, and how their clips are read and embedded.

    Attributes:
        dataset: the videos of the split.
        samplers: (way, number of shots) -> the episodes of so many classes and shots.
        num_frames: frames of a clip.
        reading: `sampling`, `resize`, `workers` and `prefetch` of
            :func:`molo_jax.data.pipeline.clip_batches`.
        preprocess: turns the pixels of clips into what networks embed.
        mesh: the devices.
        clip_batch, episode_batch: clips embedded, and episodes matched, at once on each device.
        cache_mib: memory for embedded clips, in MiB.
        precision: what networks compute in.
    """

    dataset: ClipSource
    samplers: Mapping[tuple[int, int], EpisodeSampler]
    num_frames: int
    reading: Mapping[str, Any]
    preprocess: Callable[[jax.Array], jax.Array]
    mesh: Mesh
    clip_batch: int
    episode_batch: int
    cache_mib: int
    precision: Precision

    @property
    def uses_bank(self) -> bool:
        """Whether each video has its own draws of frames, so that features can be kept on disk."""
        return all(sampler.frame_draw == "video" for sampler in self.samplers.values())


class Evaluator:
    """Evaluates networks of one structure, whose programs are compiled once.

    Args:
        data: the episodes.
        graphdef: the structure of the networks.
    """

    def __init__(self, data: EvaluationData, graphdef: nnx.GraphDef):
        self._data = data
        self._embed = make_embed(
            graphdef, preprocess=data.preprocess, mesh=data.mesh, precision=data.precision
        )
        self._graphdef = graphdef
        self._gather = jax.jit(lambda ok: ok, out_shardings=replicated(data.mesh))
        self._bad_videos = BadVideos(data.dataset)
        self._matches: dict[int, Callable[..., jax.Array]] = {}
        # Whether the network has been compiled, by clips before these.
        self._has_run = False

    def match(self, way: int, *arrays: Any) -> jax.Array:
        """Returns the logits of episodes given by positions in the features.

        Each host computes for itself, whatever the others do.

        Args:
            way: number of classes of an episode.
            arrays: those of :func:`molo_jax.engine.step.make_match`; the weights may lie on the
                devices of all hosts.
        """
        if way not in self._matches:
            precision = self._data.precision
            self._matches[way] = make_match(self._graphdef, n_way=way, precision=precision)
        return self._matches[way](*on_this_host(arrays))

    def model(self, params: nnx.State, batch_stats: nnx.State) -> Method:
        """Returns the network of such weights."""
        return nnx.merge(self._graphdef, params, batch_stats)

    def scores(
        self,
        params: nnx.State,
        batch_stats: nnx.State,
        *,
        episodes: int,
        title: str,
        static: bool = False,
    ) -> dict[tuple[int, int], Score]:
        """Evaluates a network; each distinct clip is embedded once for all ways and shots.

        With several processes, all of them call this, and get the same scores: each decodes and
        embeds its share of the clips, and all match all episodes.

        Args:
            params: the network's parameters.
            batch_stats: its batch-normalization statistics.
            episodes: how many episodes for each way and number of shots.
            title: what the progress bar says.
            static: show one frame of each clip again and again.
        """
        weights = params, batch_stats
        self._bad_videos.exchange()
        with Progress(title, "clips") as bar:
            store = FeatureStore(
                lambda clips: self.embed(*weights, clips, static=static, bar=bar),
                self._capacity(*weights),
            )
            cells = self._data.samplers
            return {cell: self._score(weights, store, cell, episodes, title) for cell in cells}

    def embed(
        self,
        params: nnx.State,
        batch_stats: nnx.State,
        requests: Sequence[ClipRequest],
        *,
        static: bool = False,
        bar: Progress | None = None,
    ) -> Iterator[tuple[np.ndarray, Features]]:
        """Decodes and embeds clips, batch by batch; leaves out those that turn out bad.

        With several processes, all of them call this for the same clips. Each decodes its share of
        every batch; all get the features of all clips, and know the same bad videos at the end.

        Yields:
            The positions of the clips in `requests`, and their features.
        """
        data = self._data
        size = data.clip_batch * data.mesh.size
        batches = clip_batches(
            data.dataset,
            requests,
            batch_size=size,
            static=static,
            process_index=hosts.index(),
            process_count=hosts.count(),
            **data.reading,
        )
        if not self._has_run:
            logging.info(
                "the first clips compile the network, which takes some seconds to a minute on a CPU"
            )
            self._has_run = True
        if bar is not None:
            bar.reset(len(requests))
        with contextlib.closing(batches):
            placed = prefetched(batches, lambda x: place_clips(x.clips, x.ok, data.mesh))
            for start, batch in zip(range(0, len(requests), size), placed, strict=True):
                features = self._embed(params, batch_stats, batch.clips)
                positions = np.arange(start, min(start + size, len(requests)))
                ok = np.asarray(self._gather(batch.ok))[: len(positions)]
                if not ok.all():
                    self._bad_videos.exchange()
                features = jax.device_get(features)
                yield positions[ok], jax.tree.map(lambda x, ok=ok: x[: len(ok)][ok], features)
                if bar is not None:
                    bar.update(len(positions))

    def _score(
        self,
        weights: tuple[nnx.State, nnx.State],
        store: FeatureStore,
        cell: tuple[int, int],
        episodes: int,
        title: str,
    ) -> Score:
        sampler, is_bad = self._data.samplers[cell], self._data.dataset.is_bad
        (way, shot), own_weights = cell, on_this_host(weights)
        with Progress(f"{title} {way}-way {shot}-shot", "episodes", episodes) as bar:
            return evaluate_episodes(
                lambda index: sampler.resolve(sampler(index), is_bad),
                episodes,
                store=store,
                match=lambda *arrays: self.match(way, *own_weights, *arrays),
                batch=self._data.episode_batch,
                advance=bar.update,
            )

    def like(self, params: nnx.State, batch_stats: nnx.State) -> Features:
        """Returns the features of no clip: empty arrays of the types and shapes of a network's."""
        data, clips = self._data, self._data.mesh.size
        shape = (clips, data.num_frames, *[data.reading["resize"]] * 2, 3)
        pixels = jax.ShapeDtypeStruct(shape, np.uint8)
        features = jax.eval_shape(self._embed, params, batch_stats, pixels)
        return jax.tree.map(lambda leaf: np.empty((0, *leaf.shape[1:]), leaf.dtype), features)

    def _capacity(self, params: nnx.State, batch_stats: nnx.State) -> int:
        """Returns how many clips' features fit into the memory that they may take."""
        leaves = jax.tree.leaves(self.like(params, batch_stats))
        each = sum(math.prod(leaf.shape[1:]) * leaf.dtype.itemsize for leaf in leaves)
        return max(1, self._data.cache_mib * 2**20 // each)
