"""Sliding windows over a long video: clips of the same length, one every so many seconds.

The video is decoded once, frame by frame. A frame that no window looks at is not converted, and a
frame that is converted is kept only while a window that is not complete looks at it. So the memory
does not depend on the length of the video.
"""

import collections
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from molo_jax.data.video.containers import UNLIMITED, Deadline
from molo_jax.data.video.images import resize_frames
from molo_jax.data.video.timed import TimedFrame, UntilDamage, last_moment, timed_frames
from molo_jax.errors import UsageError

# Moments that are closer than this, in seconds, are the same: time stamps are fractions, and a
# multiple of a stride is rounded.
TOLERANCE = 1e-6
# A shorter window or stride, in seconds, is a mistake: no video has so many frames.
SHORTEST = 1e-3


class Window(NamedTuple):
    """What a network looks at of a stretch of a video.

    Attributes:
        start: where the window begins, in seconds from the first frame on.
        end: where it ends.
        pixels: its frames as squares.
    """

    start: float
    end: float
    pixels: UInt8[np.ndarray, "t r r 3"]


def windows(
    path: str,
    num_frames: int,
    resize: int,
    window: float,
    stride: float,
    *,
    deadline: Deadline = UNLIMITED,
) -> Iterator[Window]:
    """Cuts a video into windows and takes `num_frames` frames of each.

    Window k covers the seconds from k·stride to k·stride + window. Its frames are those that are
    shown at the centers of `num_frames` equal parts of the window:

        moment j = k·stride + (j + 1/2) · window / num_frames
        frame j  = the last frame whose time is not after moment j

    Windows that lie in the video as a whole are given. If one more window begins before the end of
    the video, it is replaced by the window of the same length that ends with the video. Of a video
    that is shorter than a window, all of it is one window.

    The window that ends with the video is planned by the times that the packets of the file state
    (:func:`molo_jax.data.video.timed.last_moment`). If the frames end elsewhere, by more than one
    of the equal parts, the last window begins at k·stride instead and ends with the video, and its
    moments behind the end show the last frame.

    Args:
        path: the video file.
        num_frames: frames of a window (t).
        resize: side of the squares in pixels (r), see :func:`resize_frames`.
        window: length of a window in seconds.
        stride: seconds from the beginning of one window to that of the next.
        deadline: when the reading has to be over.

    Yields:
        The windows, from the first to the last.

    Raises:
        BadVideoError: the video cannot be read to its end. Before that, the windows up to the last
            frame that could be decoded are given.
        UsageError: a length is no number of seconds that makes sense.
    """
    _check_lengths(window=window, stride=stride)
    sliding = _Sliding(num_frames, window, stride, last_moment(path, deadline))
    frames, shown = UntilDamage(timed_frames(path, deadline)), None
    for frame in frames:
        if shown is not None:
            yield from sliding.advance(shown.square, frame.seconds)
        shown = _Shown(frame, resize)
    if shown is not None:
        end = shown.frame.seconds + shown.frame.duration
        yield from sliding.advance(shown.square, end)
        yield from sliding.close(shown.square, end)
    if frames.error is not None:
        raise frames.error


def _check_lengths(**lengths: float) -> None:
    for name, seconds in lengths.items():
        if not (math.isfinite(seconds) and seconds >= SHORTEST):
            raise UsageError(
                f"the {name} is {seconds:g} s; expected a number of seconds from {SHORTEST:g} on"
            )


class _Shown:
    """The frame that is shown at present; its square is made when it is first asked for."""

    def __init__(self, frame: TimedFrame, resize: int):
        self.frame = frame
        self._resize, self._square = resize, None

    def square(self) -> np.ndarray:
        if self._square is None:
            self._square = resize_frames(self.frame.pixels()[None], self._resize)[0]
        return self._square


class _Open:
    """A window that is not complete, with the squares of the moments that are over."""

    def __init__(self, start: float, seconds: float, num_frames: int):
        self.start, self.end = start, start + seconds
        self._moments = (start + (np.arange(num_frames) + 0.5) * seconds / num_frames).tolist()
        self._squares: list[np.ndarray] = []

    def show(self, square: Callable[[], np.ndarray], until: float) -> None:
        """Takes the square of the frame that is shown now and until then, for the moments there."""
        for moment in self._moments[len(self._squares) :]:
            if moment >= until - TOLERANCE:
                break
            self._squares.append(square())

    def made(self) -> np.ndarray:
        return np.stack(self._squares)


class _Sliding:
    """The windows that are open at a moment of the video.

    Args:
        num_frames: frames of a window.
        seconds: length of a window.
        stride: seconds from one window to the next.
        planned_end: when the video ends, as far as is known beforehand.
    """

    def __init__(self, num_frames: int, seconds: float, stride: float, planned_end: float):
        self._num_frames, self._seconds, self._stride = num_frames, seconds, stride
        self._planned_end = planned_end
        self._next = 0  # number of the next window to begin
        self._covered = 0.0  # up to where complete windows reach
        self._open: collections.deque[_Open] = collections.deque()
        self._last = self._planned_last()

    def _planned_last(self) -> _Open | None:
        """The window that ends with the video, if the plan needs one."""
        end, length = self._planned_end, min(self._seconds, self._planned_end)
        count = max(0, math.floor((end - self._seconds) / self._stride + TOLERANCE) + 1)
        reached = max((count - 1) * self._stride + self._seconds, count * self._stride)
        if count and reached > end - TOLERANCE:
            return None
        return _Open(end - length, length, self._num_frames)

    def advance(self, square: Callable[[], np.ndarray], until: float) -> Iterator[Window]:
        """Lets the frame that is shown stay until then; gives the windows that end meanwhile."""
        for window in (*self._open, *filter(None, [self._last])):
            window.show(square, until)
        yield from self._complete(until)
        # A frame may stay for hours, so that windows begin and end while it is shown.
        while self._next * self._stride < until - TOLERANCE:
            window = _Open(self._next * self._stride, self._seconds, self._num_frames)
            window.show(square, until)
            self._open.append(window)
            self._next += 1
            yield from self._complete(until)

    def _complete(self, until: float) -> Iterator[Window]:
        while self._open and self._open[0].end <= until + TOLERANCE:
            window = self._open.popleft()
            self._covered = window.end
            yield Window(window.start, window.end, window.made())

    def close(self, square: Callable[[], np.ndarray], end: float) -> Iterator[Window]:
        """Gives the last window, at the end of the video, if something is left for it."""
        # Without any duration nothing has begun: then the video is a single frame.
        if self._next and (not self._open or self._covered > end - TOLERANCE):
            return
        part = self._seconds / self._num_frames
        if self._last is not None and abs(end - self._planned_end) <= part:
            window, start = self._last, max(end - self._seconds, 0.0)
        else:
            window = self._open[0] if self._open else _Open(0.0, end, self._num_frames)
            start = window.start
        window.show(square, math.inf)
        yield Window(start, end, window.made())
