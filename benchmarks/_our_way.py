"""The project's own ways to load episodes: directly from videos, and from prepared frames."""

import contextlib
import time
from typing import Any

import numpy as np

from molo_jax.data.clips.source import ClipSource
from molo_jax.data.pipeline import clip_batches, episode_batches
from molo_jax.errors import MoloError

RESIZE = 256
_MARGIN = 16
_PREFETCH = 2


class Benchmark:
    """One of the two.

    Args:
        options: those of the benchmark, with `path` ("direct" or "prepared"), `sampler` (of the
            episodes), `sampling`, `dataset`, `folder` and `prepared` (folder of prepared videos).
    """

    def __init__(self, options: dict[str, Any]):
        self._options = options
        self._source = _open(options)

    def first_reading(self) -> dict[str, Any]:
        """Reads every video once, the first time in this process; returns seconds and clips."""
        sampler = self._options["sampler"]
        sizes = enumerate(sampler.class_sizes)
        requests = [sampler.clip(c, n, 0) for c, size in sizes for n in range(size)]
        start = time.perf_counter()
        stream = clip_batches(self._source, requests, batch_size=8, **self._settings())
        with contextlib.closing(stream) as batches:
            clips = sum(int(batch.ok.sum()) for batch in batches)
        return {"seconds": time.perf_counter() - start, "clips": clips}

    def run(self, first: int, count: int) -> dict[str, Any]:
        """Loads episodes; returns the seconds."""
        start = time.perf_counter()
        load_episodes(self._source, first, count, self._options)
        return {"seconds": time.perf_counter() - start}

    def clips(self, index: int) -> np.ndarray:
        """The support clips of an episode: (s, t, h, w, c) uint8, cropped in the middle."""
        sampler = self._options["sampler"]
        support = sampler.resolve(sampler(index)).support
        kept = slice(_MARGIN, RESIZE - _MARGIN)
        read = {"sampling": self._options["sampling"], "resize": RESIZE}
        return np.stack([self._source.read_clip(r, **read)[:, kept, kept] for r in support])

    def _settings(self) -> dict[str, Any]:
        return pipeline_settings(self._options)


def pipeline_settings(options: dict[str, Any]) -> dict[str, Any]:
    """What all streams have in common."""
    return {
        "workers": options["workers"],
        "prefetch": _PREFETCH,
        "resize": RESIZE,
        "sampling": options["sampling"],
    }


def load_episodes(source: ClipSource, first: int, count: int, options: dict[str, Any]) -> None:
    """Takes episodes out of the project's pipeline."""
    stream = episode_batches(
        source,
        options["sampler"],
        start=first,
        stop=first + count,
        batch_size=1,
        **pipeline_settings(options),
    )
    with contextlib.closing(stream) as batches:
        loaded = sum(len(batch["index"]) for batch in batches)
    if loaded != count:
        raise MoloError(f"{loaded} episodes were loaded; expected {count}")


def _open(options: dict[str, Any]) -> ClipSource:
    policy = {"on_bad_video": "fail", "how_to_get": "Remove the folder and start again."}
    if options["path"] == "direct":
        from molo_jax.data.clips.dataset import VideoDataset

        folder = options["folder"]
        return VideoDataset.open(f"{folder}/videos", f"{folder}/splits", "train", **policy)
    from molo_jax.data.store.prepared import PreparedDataset

    return PreparedDataset.open(options["prepared"], options["dataset"], "train", **policy)
