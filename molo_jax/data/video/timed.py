"""The frames of a video with the moments at which they are shown, one after the other.

For videos that are too long to be kept as a whole. What a damaged file shows until the damage is
given out, and the error comes at that place.
"""

import contextlib
import dataclasses
import fractions
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

import av
import numpy as np

from molo_jax.data.video.clock import FrameClock, seconds_a_frame
from molo_jax.data.video.container_parts import hole_in
from molo_jax.data.video.containers import UNLIMITED, BadVideoError, Deadline, check_file
from molo_jax.data.video.decode import one_video
from molo_jax.data.video.decoder import UprightPixels, whole_frames
from molo_jax.data.video.metadata import open_video, packets_of

_Item = TypeVar("_Item")

_ZERO = fractions.Fraction(0)


@dataclasses.dataclass(frozen=True, eq=False)
class TimedFrame:
    """A decoded frame, which is converted to RGB only if its pixels are asked for.

    Attributes:
        number: counted from 0 in the order in which the frames are shown.
        seconds: when it is shown; the first frame is shown at 0.
        duration: for how many seconds it is shown, as far as the file tells; 0 where it does not.
            For all frames but the last, the time of the next frame is more reliable.
    """

    number: int
    seconds: float
    duration: float
    _decoded: av.VideoFrame
    _convert: Callable[[av.VideoFrame], np.ndarray]

    def pixels(self) -> np.ndarray:
        """Converts the frame.

        Returns:
            (h, w, 3) uint8 RGB, upright.

        Raises:
            BadVideoError: its colors cannot be converted.
        """
        return self._convert(self._decoded)


def timed_frames(path: str, deadline: Deadline = UNLIMITED) -> Iterator[TimedFrame]:
    """Decodes a video from its start to its end, one frame at a time.

    :class:`~molo_jax.data.video.clock.FrameClock` says what the time of a frame is.

    A file of which bytes are missing, as its container tells, is read up to there. Then this is
    said.

    Args:
        path: the video file.
        deadline: when the reading has to be over.

    Yields:
        The frames in the order in which they are shown; their times never decrease.

    Raises:
        BadVideoError: there are no frames, or no further ones although the file is not at its end,
            or the time is up. What was given out before is right.
    """
    with _as_far_as_it_goes(path, walk=True) as defect:
        # Decoders pass over a hole in silence, and may give torn frames beside it and at a cut.
        hole = None
        if defect is not None:
            hole = hole_in(defect.reason) or os.path.getsize(path)
        yield from _frames(path, deadline, hole)
        if defect is not None:
            raise defect


class UntilDamage(Generic[_Item]):
    """What comes out of a video until its end or until damage, which then is remembered.

    Args:
        items: an iterator that raises BadVideoError at the damage, as `timed_frames` gives it.

    Attributes:
        error: what ended the iteration too early; None if nothing did.
    """

    def __init__(self, items: Iterable[_Item]):
        self.error: BadVideoError | None = None
        self._items = items

    def __iter__(self) -> Iterator[_Item]:
        try:
            yield from self._items
        except BadVideoError as error:
            self.error = error


@contextlib.contextmanager
def _as_far_as_it_goes(path: str, *, walk: bool = False) -> Iterator[BadVideoError | None]:
    """Lets a file be read of which bytes are missing; an error then says that they are.

    Args:
        path: the file.
        walk: whether to follow all its parts, see `check_file`.

    Yields:
        What is missing, if anything is.
    """
    defect = _defect(path, walk)
    try:
        with one_video(path):
            yield defect
    except BadVideoError as error:
        if defect is None or error.transient:
            raise
        raise defect from None


def _defect(path: str, walk: bool) -> BadVideoError | None:
    """What the container tells to be missing in a file that may be opened all the same."""
    try:
        check_file(path, walk=walk)
    except BadVideoError as error:
        # To open a pipe would wait for somebody to write to it.
        if error.transient or not os.path.isfile(path):
            raise
        return error
    return None


def _frames(path: str, deadline: Deadline, hole: int | None) -> Iterator[TimedFrame]:
    convert, number = UprightPixels(path), -1
    with open_video(path, deadline) as (container, stream):
        clock = FrameClock(stream)
        for number, frame in enumerate(whole_frames(path, container, stream, deadline, hole)):
            seconds, duration = clock.read(frame)
            if seconds is None:
                raise BadVideoError(
                    path,
                    "it says neither when its frames are shown nor how many there are a second",
                )
            yield TimedFrame(number, float(seconds), float(duration), frame, convert)
    if number < 0:
        raise BadVideoError(path, "none of its frames can be decoded")


def video_seconds(path: str) -> float | None:
    """Estimates from its header how long a video is, for a progress bar.

    Returns:
        Seconds, or None where the header does not tell. A file that was cut off states the length
        that it had.

    Raises:
        BadVideoError: the file cannot be opened, or is no video.
    """
    with _as_far_as_it_goes(path), open_video(path) as (container, stream):
        if stream.duration:
            return float(stream.duration * stream.time_base)
        if container.duration:
            return float(fractions.Fraction(container.duration, av.time_base))
        return float(stream.frames * seconds_a_frame(stream)) or None


def last_moment(path: str, deadline: Deadline = UNLIMITED) -> float:
    """Finds out when the last frame of a video ends, from its packets, without decoding them.

    The file is read once, which takes a hundredth of the time of its decoding. The end of the
    frames that are decoded later may be another one, if frames at the beginning cannot be decoded
    or time stamps begin anew.

    Returns:
        Seconds from the first frame on; of a damaged file, up to the damage.

    Raises:
        BadVideoError: the file cannot be opened or is no video, or the time is up.
    """
    first, end, count, all_known = None, _ZERO, 0, True
    with _as_far_as_it_goes(path), open_video(path, deadline) as (container, stream):
        step = seconds_a_frame(stream)
        try:
            for packet in packets_of(path, container, stream, deadline):
                if not packet.size or packet.is_discard:
                    continue
                count += 1
                all_known = all_known and packet.pts is not None
                if packet.pts is not None:
                    begin = packet.pts * packet.time_base
                    length = packet.duration * packet.time_base if packet.duration else step
                    first = begin if first is None else min(first, begin)
                    end = max(end, begin + length)
        except av.error.FFmpegError:
            deadline.check(path)
    return float(end - first if all_known and count else count * step)
