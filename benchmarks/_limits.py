"""What bounds the loading of prepared frames: raw frames instead of JPEG, and JPEG alone."""

import concurrent.futures
import time
from pathlib import Path
from typing import Any

import numpy as np
from _our_way import RESIZE, load_episodes

from molo_jax.data.clips.source import ClipSource
from molo_jax.data.lists.splits import Split
from molo_jax.data.video.encode import EncodedVideo, encode_video
from molo_jax.data.video.frames import ChooseFrames
from molo_jax.data.video.images import decode_jpegs

_CROP = 224
_MEAN, _STD = 0.45, 0.225


class Benchmark:
    """Both limits, on the first video of every class; the others are as long.

    Args:
        options: those of the benchmark, with `sampler` (of the episodes), `sampling`, `files` (of
            each class), `split`, `settings` (of the preparation) and `folder` (for raw frames).
    """

    def __init__(self, options: dict[str, Any]):
        self._options = options
        self._videos = [encode_video(files[0], options["settings"]) for files in options["files"]]
        self._raw = _RawFrames(options["split"], self._videos, Path(options["folder"]))
        self._threads = concurrent.futures.ThreadPoolExecutor(options["workers"])

    def raw_bytes(self) -> float:
        """Bytes of a video as raw frames."""
        return float(np.mean([len(v.images) for v in self._videos])) * RESIZE * RESIZE * 3

    def raw(self, first: int, count: int) -> dict[str, Any]:
        """Loads episodes from raw frames that are mapped into memory; returns the seconds."""
        start = time.perf_counter()
        load_episodes(self._raw, first, count, self._options)
        return {"seconds": time.perf_counter() - start}

    def jpeg(self, first: int, count: int) -> dict[str, Any]:
        """Decodes the images of as many episodes, and nothing else; returns the seconds."""
        rng = np.random.default_rng(first)
        clips = []
        for _ in range(count * self._options["clips_per_episode"]):
            images = self._videos[rng.integers(len(self._videos))].images
            chosen = rng.choice(len(images), 8, replace=False)
            clips.append([images[i] for i in sorted(chosen)])
        start = time.perf_counter()
        for _ in self._threads.map(lambda images: decode_jpegs(images, RESIZE), clips):
            pass
        return {"seconds": time.perf_counter() - start}

    def crop(self, count: int) -> float:
        """Seconds that a thread takes to crop a clip and normalize it in float32."""
        clips = [self._raw.frames(c)[:8] for c in range(len(self._videos))]
        work = [clips[i % len(clips)] for i in range(count)]
        start = time.perf_counter()
        for _ in self._threads.map(_crop_and_normalize, work):
            pass
        return (time.perf_counter() - start) / count * self._options["workers"]


def _crop_and_normalize(clip: np.ndarray) -> np.ndarray:
    margin = (RESIZE - _CROP) // 2
    pixels = clip[:, margin : margin + _CROP, margin : margin + _CROP].astype(np.float32)
    pixels *= np.float32(1 / (255 * _STD))
    pixels -= np.float32(_MEAN / _STD)
    return pixels


class _RawFrames(ClipSource):
    """Frames as arrays in files that are mapped into memory; a class shows its first video only."""

    def __init__(self, split: Split, videos: list[EncodedVideo], folder: Path):
        super().__init__(split, "fail")
        self._videos = videos
        self._frames = [_mapped(folder / ".raw_frames", v) for v in videos]

    def frames(self, class_position: int) -> np.ndarray:
        """The frames (n, h, w, c) uint8 of a class."""
        return self._frames[class_position]

    def path(self, class_position: int, video_position: int) -> str:
        return self.video(class_position, video_position).name

    def check_use(self, *, sampling: str, num_frames: int, resize: int) -> None:
        """Made for the clips of this benchmark."""

    def _identity(self) -> list[str]:
        return [video.name for videos in self.split.videos for video in videos]

    def _read(
        self, video: tuple[int, int], choose: ChooseFrames, resize: int, out: np.ndarray | None
    ) -> np.ndarray:
        stored = self._videos[video[0]]
        numerator, denominator = stored.rate
        chosen = choose(stored.length, numerator / denominator)
        places = np.searchsorted(stored.numbers, chosen)
        return np.take(self._frames[video[0]], places, axis=0, out=out, mode="clip")


def _mapped(path: Path, video: EncodedVideo) -> np.ndarray:
    """The frames of a video in a file that ends with this process."""
    shape = (len(video.images), RESIZE, RESIZE, 3)
    frames = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    path.unlink()
    for image, frame in zip(video.images, frames, strict=True):
        frame[:] = decode_jpegs([image], RESIZE)[0]
    frames.flush()
    return frames
