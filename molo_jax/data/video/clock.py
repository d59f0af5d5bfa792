"""When the frames of a video are shown, by what its file says."""

import fractions

import av

from molo_jax.data.video.metadata import container_name

# A time stamp that lies further back than this many seconds begins a new counting.
_NEW_COUNTING = 1
_ZERO = fractions.Fraction(0)


class FrameClock:
    """Tells when the frames of a stream are shown, which are handed to it in order.

    The time of a frame is its time stamp, counted from that of the first frame. A frame without a
    time stamp follows the one before it at the frame rate of the file, and so do frames in AVI,
    unless others are left out between them. Times never go back: a frame
    whose time stamp is earlier than the one before it is shown together with that one. A time stamp
    more than a second earlier begins a new counting, as in recordings that were joined.

    Args:
        stream: the video stream, of a container that is open.
    """

    def __init__(self, stream: av.VideoStream):
        self._base, self._step = stream.time_base, seconds_a_frame(stream)
        # AVI has a place for each frame in the order of decoding, and no time at which it is shown:
        # the n-th frame that is shown has the n-th place, not its own.
        self._by_place = container_name(stream.container) == "avi"
        self._origin: fractions.Fraction | None = None  # time stamp of the moment 0, if known
        self._last: fractions.Fraction | None = None

    def read(self, frame: av.VideoFrame) -> tuple[fractions.Fraction | None, fractions.Fraction]:
        """Returns when the next frame is shown, and for how long, in seconds.

        The former is None if the file says neither that nor how many frames there are a second;
        the latter is 0 if the file does not say it.
        """
        base = frame.time_base or self._base
        stamp = frame.dts if self._by_place else frame.pts
        stamp = None if stamp is None else stamp * base
        if self._last is None:
            seconds = _ZERO
        elif stamp is None or self._origin is None:
            seconds = self._next_step()
        elif stamp - self._origin < self._last - _NEW_COUNTING:
            self._origin, seconds = None, self._next_step()
        else:
            seconds = max(stamp - self._origin, self._last)
        if seconds is not None:
            if self._origin is None and stamp is not None:
                self._origin = stamp - seconds
            self._last = seconds
        return seconds, frame.duration * base if frame.duration else self._step

    def _next_step(self) -> fractions.Fraction | None:
        return self._last + self._step if self._step else None


def seconds_a_frame(stream: av.VideoStream) -> fractions.Fraction:
    """Seconds from one frame to the next, by the frame rate of the file; 0 if it states none."""
    rate = stream.average_rate or stream.guessed_rate
    return 1 / rate if rate else _ZERO
