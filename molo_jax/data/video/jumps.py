"""Jumps to single frames of a video: with decord where it is installed, otherwise with PyAV.

Both give the same frames, with the same pixels: a jump is made only in files in which this is
proven, see `metadata.reading_plan`, and decord makes those alone in which the codec's norm fixes
every pixel, see `VideoMetadata.is_exact`. decord has no wheels for Linux on ARM and for macOS.
"""

import bisect
import functools
import itertools
import os
from collections.abc import Sequence
from types import ModuleType

import numpy as np

from molo_jax.data.video.containers import BadVideoError, Deadline
from molo_jax.data.video.decoder import UprightPixels, whole_frames
from molo_jax.data.video.metadata import VideoMetadata, open_video


@functools.cache
def installed_decord() -> ModuleType | None:
    """Returns decord, which prints nothing then; None where it is not installed or cannot run."""
    try:
        import decord
    # The latter two where its library is not found, or is made for another machine.
    except (ImportError, OSError, RuntimeError):
        return None
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def jump(
    path: str, metadata: VideoMetadata, numbers: Sequence[int], deadline: Deadline
) -> Sequence[np.ndarray] | None:
    """Decodes single frames of a file without the frames before the keyframes they depend on.

    Args:
        path: a file in which jumps are right.
        metadata: what the first decoding of the file found out.
        numbers: of the frames, ascending.
        deadline: when the reading has to be over.

    Returns:
        (h, w, 3) uint8 RGB for each number; None where the jumps do not lead to them, as in a file
        that has changed since.

    Raises:
        BadVideoError: the file cannot be opened, a frame cannot be decoded, or the time is up.
    """
    decord = installed_decord()
    if decord is None or not metadata.is_exact:
        return _with_pyav(path, metadata, numbers, deadline)
    return _with_decord(decord, path, metadata, numbers)


def _with_decord(
    decord: ModuleType, path: str, metadata: VideoMetadata, numbers: Sequence[int]
) -> np.ndarray | None:
    """The frames from decord; None if it cannot open the file, or sees another one in it."""
    try:
        # With more threads it fails on some VP9 files.
        reader = decord.VideoReader(os.path.abspath(path), num_threads=1)
        if len(reader) == metadata.length:
            return reader.get_batch(list(numbers)).asnumpy()
    # decord raises any of these; an AssertionError for a file without frames, UnicodeError for a
    # name that is not in UTF-8.
    except (decord.DECORDError, RuntimeError, AssertionError, UnicodeError):
        pass
    return None


def _with_pyav(
    path: str, metadata: VideoMetadata, numbers: Sequence[int], deadline: Deadline
) -> list[np.ndarray] | None:
    """The frames from PyAV; None if a jump ends elsewhere, or not all of them can be decoded."""
    try:
        return _sought(path, metadata, numbers, deadline)
    except BadVideoError as error:
        if error.transient:
            raise
        return None


def _sought(
    path: str, metadata: VideoMetadata, numbers: Sequence[int], deadline: Deadline
) -> list[np.ndarray] | None:
    number_at = dict(zip(metadata.keyframe_times, metadata.keyframes, strict=True))
    pixels, found = UprightPixels(path), []
    with open_video(path, deadline) as (container, stream):
        frames, position = whole_frames(path, container, stream, deadline), 0
        for number in numbers:
            place = bisect.bisect_right(metadata.keyframes, number) - 1
            if metadata.keyframes[place] > position:
                container.seek(metadata.keyframe_times[place], stream=stream)
                frames = whole_frames(path, container, stream, deadline)
                keyframe = next(frames, None)
                # FFmpeg may choose an earlier one, as with B-frames at uneven times.
                position = number_at.get(keyframe.pts) if keyframe else None
                if position is None or position > number:
                    return None
                frames = itertools.chain([keyframe], frames)
            frame = next(itertools.islice(frames, number - position, None), None)
            if frame is None:
                return None
            found.append(pixels(frame))
            position = number + 1
    return found
