"""The official way to load episodes, from its description: whole videos, decord, torch, on the CPU.

Of every clip of an episode the video is opened with decord's defaults, eight frames are fetched,
resized in float32, cropped and normalized; a DataLoader's item is an episode. Where the description
leaves a choice, the faster one is taken: float32 clips are stacked once and not copied into a batch
of one, and the flip and the color jitter of training queries are left out.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import decord
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from molo_jax.data.clips.episodes import ClipRequest, ResolvedEpisode
from molo_torch_ref import pixels

CROP = 224
_MIDDLE = (pixels.RESIZE - CROP) // 2


class Benchmark:
    """The official way.

    Args:
        options: those of the benchmark, with `sampler` (of the episodes), `sampling` and `files`
            (of each class).
    """

    def __init__(self, options: dict[str, Any]):
        decord.logging.set_level(decord.logging.QUIET)
        self._episodes = _Episodes(options)
        self._turn = _Turn()
        self._loader = DataLoader(
            self._episodes,
            batch_size=None,
            sampler=self._turn,
            num_workers=options["workers"],
            persistent_workers=True,
            # Of a process that was spawned the default is another than of a script.
            multiprocessing_context="fork",
            worker_init_fn=_one_thread,
        )

    def run(self, first: int, count: int) -> dict[str, Any]:
        """Loads episodes; returns seconds, and how often decord's default threads failed."""
        self._turn.indices = range(first, first + count)
        start = time.perf_counter()
        failures = sum(int(episode["failures"]) for episode in self._loader)
        return {"seconds": time.perf_counter() - start, "failures": failures}

    def clips(self, index: int) -> np.ndarray:
        """The support clips of an episode: (s, t, h, w, c) gray levels, cropped in the middle."""
        views = self._episodes.views(self._episodes.resolved(index).support, lambda: _MIDDLE)[0]
        gray_levels = (views * pixels.STD + pixels.MEAN) * 255
        return gray_levels.permute(0, 1, 3, 4, 2).numpy()


class _Turn(Sampler):
    """The episodes that are asked for next; everything in flight is used up with them."""

    indices = range(0)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


class _Episodes(Dataset):
    def __init__(self, options: dict[str, Any]):
        self._sampler, self._files = options["sampler"], options["files"]
        self._sampling = options["sampling"]

    def resolved(self, index: int) -> ResolvedEpisode:
        """The videos of an episode."""
        return self._sampler.resolve(self._sampler(index))

    def __getitem__(self, index: int) -> dict[str, Any]:
        episode = self.resolved(index)
        rng = np.random.default_rng(index)

        def draw() -> int:
            return int(rng.uniform(0, pixels.RESIZE - CROP))

        support, failed = self.views(episode.support, draw)
        query, failed_too = self.views(episode.query, draw)
        return {
            "support": support,
            "query": query,
            "support_labels": torch.from_numpy(episode.support_labels),
            "query_labels": torch.from_numpy(episode.query_labels),
            "failures": failed + failed_too,
        }

    def views(
        self, requests: tuple[ClipRequest, ...], draw: Callable[[], int]
    ) -> tuple[Tensor, int]:
        """The clips (v, t, c, h, w), and how often decord's default threads failed."""
        views, failures = [], 0
        for request in requests:
            path = self._files[request.class_position][request.video_position]
            try:
                frames = self._frames(path, request.draws)
            # Some VP9 files cannot be decoded with decord's default number of threads.
            except (decord.DECORDError, RuntimeError):
                failures += 1
                frames = self._frames(path, request.draws, num_threads=1)
            clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
            views.append(pixels.support_view(clip, draw(), draw(), CROP))
        return torch.stack(views), failures

    def _frames(self, path: str, draws: np.ndarray, **arguments: int) -> np.ndarray:
        reader = decord.VideoReader(path, **arguments)
        if self._sampling == "segments":
            chosen = pixels.segment_frames(len(reader), torch.from_numpy(draws))
        else:
            chosen = pixels.window_frames(len(reader), reader.get_avg_fps(), float(draws[0]))
        return reader.get_batch(chosen.tolist()).asnumpy()


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
