"""Decoding: a video file to the frames that are asked for, or `BadVideoError`.

Frames are numbered from 0 in the order in which a player shows them. `metadata.reading_plan`
decides how they are reached.
"""

import contextlib
import dataclasses
import fractions
import math
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple, TypeVar

import av
import numpy as np

from molo_jax.data.video.clock import FrameClock
from molo_jax.data.video.containers import UNLIMITED, BadVideoError, Deadline, check_file
from molo_jax.data.video.decoder import UprightPixels, whole_frames
from molo_jax.data.video.frames import ChooseFrames, FrameRateError
from molo_jax.data.video.images import resize_frames
from molo_jax.data.video.jumps import jump
from molo_jax.data.video.metadata import (
    PROVEN,
    VideoMetadata,
    container_name,
    decord_shows,
    open_video,
    reading_plan,
    scan,
)
from molo_jax.errors import MoloError

_Result = TypeVar("_Result")


class Probe(NamedTuple):
    """What the header of a file says: about how many frames, and how many a second."""

    length: int
    rate: fractions.Fraction


class _ChoiceError(Exception):
    """A mistake of the program in the choice of frames, which is no fault of the video.

    Attributes:
        error: what it raised.
    """

    def __init__(self, error: Exception):
        super().__init__(str(error))
        self.error = error


@contextlib.contextmanager
def one_video(path: str) -> Iterator[None]:
    """Makes whatever goes wrong while one video is read a BadVideoError of that video.

    Nobody knows everything that decoders do with a damaged file, and one file must not stop the
    work on all. The reason names the kind of the error, so that a mistake of ours can be told.
    """
    try:
        yield
    except MoloError:
        raise
    except _ChoiceError as mistake:
        raise mistake.error from None
    except MemoryError:
        reason = "there was not enough memory for its frames"
        raise BadVideoError(path, reason, transient=True) from None
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise BadVideoError(
            path, f"reading it failed ({type(error).__name__}: {reason})"
        ) from error


def decode_clip(
    path: str,
    choose: ChooseFrames,
    resize: int,
    metadata: VideoMetadata | None = None,
    *,
    seconds: float = math.inf,
) -> tuple[np.ndarray, VideoMetadata]:
    """Decodes the chosen frames of a video and resizes them to a square, see `resize_frames`.

    Without `metadata` the whole file is decoded, so that whether it is bad depends on the file
    alone and not on the frames that are chosen. With it only what leads to the chosen frames is
    decoded. The pixels are the same.

    Args:
        path: the video file.
        choose: gives the frame numbers for a length and frame rate; its FrameRateError means that
            the video does not allow a choice.
        resize: side of the square in pixels.
        metadata: what an earlier call returned for this file.
        seconds: time limit, see `Deadline`.

    Returns:
        (t, h, w, c) uint8 with h = w = resize and c = 3 (RGB), and the metadata for later calls.

    Raises:
        BadVideoError: the file cannot be opened or is no video, is empty, cut off or audio only,
            a frame cannot be decoded, or the time is up.
    """
    deadline = Deadline(seconds)

    def square(frame: np.ndarray) -> np.ndarray:
        return resize_frames(frame[None], resize)[0]

    with one_video(path):
        if metadata is None:
            metadata, numbers, kept = read_whole(path, choose, square, deadline)
        else:
            container = check_file(path)
            numbers = _choose(path, choose, metadata)
            wanted = sorted(set(numbers.tolist()))
            frames = _read_chosen(path, container, metadata, wanted, deadline)
            kept = {number: square(frame) for number, frame in frames}
    return np.stack([kept[number] for number in numbers.tolist()]), metadata


def read_whole(
    path: str,
    choose: ChooseFrames,
    use: Callable[[np.ndarray], _Result],
    deadline: Deadline = UNLIMITED,
) -> tuple[VideoMetadata, np.ndarray, dict[int, _Result]]:
    """Does what `read_timed` does, for those who need no times."""
    return read_timed(path, choose, lambda frame, _: use(frame), deadline, clock=None)


def read_timed(
    path: str,
    choose: ChooseFrames,
    use: Callable[[np.ndarray, float | None], _Result],
    deadline: Deadline = UNLIMITED,
    *,
    clock: type[FrameClock] | None = FrameClock,
) -> tuple[VideoMetadata, np.ndarray, dict[int, _Result]]:
    """Decodes a video in order to its end, and keeps something of each of the chosen frames.

    What the decoder gives is the truth. Without any damage it can be fewer frames than there are
    packets: some are never shown (VP8's alternate references, dropped frames of MPEG-4), and some
    at the beginning need frames before them that were cut off. Then the choice, which was made
    for the wrong length, is made anew.

    Args:
        path: the video file.
        choose: as for `decode_clip`.
        use: called with each chosen frame once, (h, w, 3) uint8, in ascending order, and with the
            seconds after the first frame at which it is shown; None where the file does not tell.
        deadline: when the reading has to be over.
        clock: tells the times; without one, they are all None.

    Returns:
        The metadata, the chosen numbers, and the results by number.

    Raises:
        BadVideoError: as for `decode_clip`.
    """
    metadata = scan(path, deadline)
    for _ in range(2):
        numbers = _choose(path, choose, metadata)
        reading = _Reading(path, deadline, clock)
        frames = reading.frames(set(numbers.tolist()))
        kept = {number: use(frame, reading.seconds) for number, frame in frames}
        if reading.count == metadata.length:
            sure = metadata.jumps_are_right and reading.plain
            return dataclasses.replace(metadata, jumps_are_right=sure), numbers, kept
        reason = f"{reading.count} frames could be decoded, {metadata.length} were expected"
        metadata = dataclasses.replace(metadata, length=reading.count, jumps_are_right=False)
    raise BadVideoError(path, reason)


def _choose(path: str, choose: ChooseFrames, metadata: VideoMetadata) -> np.ndarray:
    try:
        return choose(metadata.length, metadata.fps)
    except FrameRateError as error:
        raise BadVideoError(path, str(error)) from None
    except Exception as error:
        raise _ChoiceError(error) from error


def probe(path: str) -> Probe:
    """Looks at the header of a file and decodes its first frame, for a fast check.

    Of a file whose header does not tell how many frames there are the packets are read too.

    Raises:
        BadVideoError: the file cannot be opened, is no video, is cut off or audio only, or its
            first frame cannot be decoded. Damage further on is not found.
    """
    check_file(path)
    with open_video(path) as (container, stream):
        if next(whole_frames(path, container, stream, UNLIMITED), None) is None:
            raise BadVideoError(path, "none of its frames can be decoded")
        rate = stream.average_rate or fractions.Fraction(0)
        seconds = (container.duration or 0) / fractions.Fraction(av.time_base)
        if stream.duration:
            seconds = stream.duration * stream.time_base
        # With an edit list, fewer frames are shown than the header counts.
        lengths = [n for n in (stream.frames, round(seconds * rate)) if n > 0]
        known = container_name(container) in PROVEN and lengths
    if known:
        return Probe(min(lengths), rate)
    metadata = scan(path)
    return Probe(metadata.length, metadata.rate)


def decode_in_order(
    path: str, metadata: VideoMetadata, numbers: Collection[int], deadline: Deadline = UNLIMITED
) -> Iterator[tuple[int, np.ndarray]]:
    """Decodes a file from its start to the last of the wanted frames, one frame at a time.

    Args:
        path: the video file.
        metadata: what `scan` or an earlier decoding found out about it.
        numbers: of the frames that are given out.
        deadline: when the reading has to be over.

    Yields:
        The number of each wanted frame, ascending, with its pixels: (h, w, 3) uint8 RGB, upright.

    Raises:
        BadVideoError: a frame cannot be decoded.
    """
    reading, last = _Reading(path, deadline), max(numbers)
    yield from reading.frames(numbers, last)
    if reading.count <= last:
        raise BadVideoError(path, f"it has {reading.count} frames now, and had {metadata.length}")


class _Reading:
    """One decoding of a file, from its start on.

    Attributes:
        count: number of frames that were decoded.
        plain: whether decord gives the same pixels, see `decord_shows`.
        seconds: when the last frame was shown, if that is known.
    """

    def __init__(self, path: str, deadline: Deadline, clock: type[FrameClock] | None = None):
        self.count = 0
        self.plain = True
        self.seconds: float | None = None
        self._clock = clock
        self._path, self._deadline = path, deadline
        self._pixels = UprightPixels(path)

    def frames(
        self, wanted: Collection[int], last: int | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields the wanted frames, and ends after number `last` if given."""
        size = None
        with open_video(self._path, self._deadline) as (container, stream):
            clock = self._clock and self._clock(stream)
            for frame in whole_frames(self._path, container, stream, self._deadline):
                number = self.count
                self.count += 1
                if clock:
                    seconds = clock.read(frame)[0]
                    self.seconds = None if seconds is None else float(seconds)
                size = size or (frame.width, frame.height)
                self.plain = (
                    self.plain and decord_shows(frame) and size == (frame.width, frame.height)
                )
                if number in wanted:
                    yield number, self._pixels(frame)
                if number == last:
                    return
        if not self.count:
            raise BadVideoError(self._path, "none of its frames can be decoded")


def _read_chosen(
    path: str, container: str, metadata: VideoMetadata, numbers: list[int], deadline: Deadline
) -> Iterator[tuple[int, np.ndarray]]:
    # decord chooses among all formats of FFmpeg and takes no list of those allowed. So the file
    # must be, now and by its content, of a container that is proven.
    if container in PROVEN and reading_plan(metadata, numbers) == "jump":
        frames = jump(path, metadata, numbers, deadline)
        deadline.check(path)
        if frames is not None:
            return zip(numbers, frames, strict=True)
    return decode_in_order(path, metadata, numbers, deadline)
