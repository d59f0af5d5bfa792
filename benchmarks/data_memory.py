"""Memory of the input pipeline over many clips.

    python benchmarks/data_memory.py --out=DIR --dataset=NAME [--clips=100000] [--videos=DIR]

Streams clips of prepared videos, or of the videos themselves with `--videos`, through the same
pipeline as an evaluation, and prints the resident memory on the way and its growth by a line fitted
to all but the first tenth.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from _workers import processor
from absl import flags

from molo_jax import cli
from molo_jax.data.clips.dataset import VideoDataset
from molo_jax.data.clips.episodes import EpisodeSampler
from molo_jax.data.pipeline import clip_batches
from molo_jax.data.store.prepared import PreparedDataset
from molo_jax.errors import UsageError

_OUT = flags.DEFINE_string("out", None, "Folder of prepared videos.")
_DATASET = flags.DEFINE_string("dataset", "folder", "Name of the prepared data set.")
_VIDEOS = flags.DEFINE_string("videos", None, "Folder of videos, instead of prepared ones.")
_LISTS = flags.DEFINE_string("splits_dir", None, "Folder of their lists.")
_SPLIT = flags.DEFINE_string("split", "train", "Which split.")
_SAMPLING = flags.DEFINE_string("sampling", "segments", "Rule that chooses the frames.")
_CLIPS = flags.DEFINE_integer("clips", 100_000, "How many clips.", lower_bound=1000)
_WORKERS = flags.DEFINE_integer("workers", 2, "Clips read at the same time.", lower_bound=1)
_BATCH, _LINES = 50, 20


def main(argv: Sequence[str]) -> None:
    del argv
    if not (_OUT.value or (_VIDEOS.value and _LISTS.value)):
        raise UsageError("--out, or --videos and --splits_dir, must be given")
    source = _open()
    sampler = EpisodeSampler.from_split(
        source.split, seed=0, n_way=2, n_shot=1, n_query=1, num_frames=8
    )
    videos = [(c, v) for c, size in enumerate(source.class_sizes) for v in range(size)]
    # Drawn as they are needed, for the requests themselves would take memory.
    requests = _Requests(sampler, videos, _CLIPS.value)
    print(f"{processor()}, {_WORKERS.value} workers, {len(videos)} videos")
    began, used = time.perf_counter(), []
    batches = clip_batches(
        *(source, requests),
        batch_size=_BATCH,
        workers=_WORKERS.value,
        prefetch=2,
        resize=source.settings.resize if _OUT.value else 256,
        sampling=_SAMPLING.value,
    )
    every = max(1, _CLIPS.value // _BATCH // _LINES)
    with closing(batches):
        for number, _ in enumerate(batches, start=1):
            used.append(_resident_mib())
            if number % every == 0:
                rate = number * _BATCH / (time.perf_counter() - began)
                print(f"{number * _BATCH:8d} clips  {used[-1]:7.0f} MiB  {rate:6.0f} clips/s")
    steady = np.array(used[len(used) // 10 :])
    slope = np.polyfit(np.arange(len(steady)) * _BATCH, steady, 1)[0]
    print(f"growth: {slope * 100_000:+.1f} MiB in 100,000 clips, largest {max(used):.0f} MiB")


class _Requests(Sequence):
    """Clip i is of video i, going round."""

    def __init__(self, sampler: EpisodeSampler, videos: list[tuple[int, int]], count: int):
        self._sampler, self._videos, self._count = sampler, videos, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: int):
        return self._sampler.clip(*self._videos[place % len(self._videos)], place)


def _open():
    common = {"on_bad_video": "fail", "how_to_get": ""}
    if _OUT.value:
        return PreparedDataset.open(_OUT.value, _DATASET.value, _SPLIT.value, **common)
    return VideoDataset.open(_VIDEOS.value, _LISTS.value, _SPLIT.value, **common)


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


if __name__ == "__main__":
    cli.run(main)
