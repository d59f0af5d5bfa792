"""A video with the labels of its segments drawn on it, for people."""

import bisect
import contextlib
import dataclasses
import io
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from molo_jax.data.video.containers import UNLIMITED, BadVideoError, Deadline, open_container
from molo_jax.data.video.decode import whole_frames
from molo_jax.data.video.metadata import container_name, open_video, packets_of
from molo_jax.data.video.timed import TimedFrame, UntilDamage, timed_frames
from molo_jax.errors import MoloError, UsageError
from molo_jax.files import failure, replacing, written
from molo_jax.prediction.panel import Panel, draw_panel
from molo_jax.prediction.timeline import Segment, segment_text
from molo_jax.prediction.windows import TOLERANCE

_LOG = logging.getLogger(__name__)

# FFmpeg's names of the containers that can be written, by the ending of a file.
CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
_ENCODER = {"preset": "veryfast", "crf": "20"}
# BT.709, by its number in H.264.
_BT709 = 1
# The unit of time is that of the video, so that all times are kept, or this one if that of the
# video is finer than an encoder needs.
_FINEST, _USUAL_UNIT = Fraction(1, 10**7), Fraction(1, 90_000)


@dataclasses.dataclass(frozen=True)
class AnnotatedVideo:
    """What was written.

    Attributes:
        frames: number of frames.
        sound: whether the sound of the video is in the new file too.
        error: why the new file ends before the video does; None if it does not.
    """

    frames: int
    sound: bool
    error: BadVideoError | None


def annotate(
    path: str,
    segments: Sequence[Segment],
    destination: str | os.PathLike[str],
    *,
    font: str | None = None,
    deadline: Deadline = UNLIMITED,
    progress: Callable[[float], None] | None = None,
) -> AnnotatedVideo:
    """Writes a video again, with the label and a bar for the probability on each frame.

    The new file holds H.264 (yuv420p, BT.709) and the sound as it is, if its container allows that.
    Every frame is upright and keeps its time, counted from the first frame on; sound before that is
    left out. A width or height that is odd grows by one pixel, because of yuv420p. Frames in
    segments without a class are left as they are. One frame after the other is read, drawn on and
    written.

    Args:
        path: the video file.
        segments: in the order of time.
        destination: the new file; its ending decides the container, see :data:`CONTAINERS`.
        font: a font file for the labels; by default :func:`molo_jax.prediction.panel.font_for`
            chooses.
        deadline: when the reading has to be over.
        progress: called after each frame with the seconds of the video that are done.

    Returns:
        What was written. Of a damaged video it reaches to the damage, and `error` says so.

    Raises:
        BadVideoError: no frame of the video can be read.
        MoloError: the new file cannot be written; nothing of it stays.
        UsageError: the ending is not known, or the new file would replace the video.
    """
    destination = Path(destination)
    container = _check(path, destination)
    frames = timed_frames(path, deadline)
    first = next(frames)
    source = _source(path, deadline)
    rest = UntilDamage(itertools.chain([first], frames))
    with (
        _writing(destination),
        replacing(destination) as temporary,
        _sound(path, source.origin, deadline) as sound,
        av.open(os.path.abspath(temporary), "w", format=container) as output,
    ):
        writer = _Writer(output, source, sound, _Labels(segments, font), destination)
        for frame in rest:
            writer.write(frame)
            if progress is not None:
                progress(frame.seconds)
        writer.finish()
    return AnnotatedVideo(writer.count, writer.has_sound, rest.error)


def _check(path: str, destination: Path) -> str:
    container = CONTAINERS.get(destination.suffix.lower())
    if container is None:
        endings = ", ".join(CONTAINERS)
        raise UsageError(f"{destination} does not end like a video that can be written ({endings})")
    if destination.exists() and os.path.exists(path) and os.path.samefile(path, destination):
        raise UsageError(f"{destination} is the video itself; choose another name for the new one")
    return container


@contextlib.contextmanager
def _writing(destination: Path) -> Iterator[None]:
    """Names the new file in what FFmpeg and the operating system say of it."""
    with written(destination):
        try:
            yield
        except av.error.FFmpegError as error:
            reason = failure(error) if isinstance(error, OSError) else error.strerror
            raise MoloError(f"{destination} cannot be written: {reason}") from error


@dataclasses.dataclass(frozen=True)
class _Source:
    """What the new video takes over from the file beside its frames.

    Attributes:
        rate: frames a second, for the encoder.
        unit: in which times are counted, in seconds.
        pixel_aspect: width of a pixel by its height, where the file states it.
        origin: time stamp of the first frame in seconds.
    """

    rate: Fraction
    unit: Fraction
    pixel_aspect: Fraction | None
    origin: Fraction


def _source(path: str, deadline: Deadline) -> _Source:
    with open_video(path, deadline) as (container, stream):
        first = next(whole_frames(path, container, stream, deadline), None)
        if first is None:
            raise BadVideoError(path, "none of its frames can be decoded")
        aspect, unit = stream.sample_aspect_ratio, stream.time_base or _USUAL_UNIT
        if aspect and round(first.rotation / 90) % 2:
            aspect = 1 / aspect
        # AVI counts all its streams from 0.
        stamped = first.pts is not None and container_name(container) != "avi"
        return _Source(
            rate=(stream.average_rate or Fraction(25)).limit_denominator(1001),
            unit=unit if unit >= _FINEST else _USUAL_UNIT,
            pixel_aspect=aspect or None,
            origin=first.pts * stream.time_base if stamped else Fraction(0),
        )


class _Labels:
    """The panels of the segments, each drawn once."""

    def __init__(self, segments: Sequence[Segment], font: str | None):
        self._segments, self._font = segments, font
        self._starts = [segment.start for segment in segments]
        self._drawn: tuple[int, Panel] | None = None

    def at(self, seconds: float, size: tuple[int, int]) -> Panel | None:
        """The panel for a frame at a moment; None where no class is known."""
        place = bisect.bisect_right(self._starts, seconds + TOLERANCE) - 1
        if place < 0:
            return None
        segment = self._segments[place]
        if not segment.known or seconds > segment.end + TOLERANCE:
            return None
        if self._drawn is None or self._drawn[0] != place:
            text = segment_text(segment)
            self._drawn = place, draw_panel(text, segment.probability, size, self._font)
        return self._drawn[1]


class _Sound:
    """The packets of a sound, with times that count from the first frame on."""

    def __init__(self, stream: av.AudioStream, packets: Iterable[av.Packet], origin: Fraction):
        self.stream = stream
        self._shift = round(origin / stream.time_base)
        self._packets, self._waiting, self._last = iter(packets), None, -1

    def until(self, seconds: float) -> Iterator[av.Packet]:
        """Gives the next packets, up to a moment."""
        while (packet := self._waiting or self._next()) is not None:
            if packet.pts * packet.time_base > seconds:
                self._waiting = packet
                return
            self._waiting = None
            yield packet

    def _next(self) -> av.Packet | None:
        # Damage of the sound ends the sound; that of the frames is said by those who read them.
        with contextlib.suppress(av.error.FFmpegError, BadVideoError):
            for packet in self._packets:
                if not packet.size or packet.is_discard or packet.dts is None:
                    continue
                packet.pts = (packet.dts if packet.pts is None else packet.pts) - self._shift
                packet.dts -= self._shift
                # A container takes no times that go back, and none before the first frame.
                if packet.dts > self._last:
                    self._last = packet.dts
                    return packet
        return None


@contextlib.contextmanager
def _sound(path: str, origin: Fraction, deadline: Deadline) -> Iterator[_Sound | None]:
    """Opens the file once more, for its sound."""
    with open_container(path, deadline) as container:
        stream = container.streams.best("audio")
        if stream is None or stream.codec_context is None:
            yield None
        else:
            yield _Sound(stream, packets_of(path, container, stream, deadline), origin)


class _Writer:
    """Encodes frames into a new file, with the sound beside them.

    Attributes:
        count: number of frames that were written.
        has_sound: whether the file gets the sound.
    """

    def __init__(
        self,
        output: av.container.OutputContainer,
        source: _Source,
        sound: _Sound | None,
        labels: _Labels,
        destination: Path,
    ):
        self.count, self._last, self._end = 0, -1, 0.0
        self._output, self._source, self._labels = output, source, labels
        self._stream = output.add_stream("libx264", rate=source.rate, options=_ENCODER)
        self._size: tuple[int, int] | None = None
        self._sound, self._sound_stream = sound, None
        if sound is not None and _holds(output.format.name, sound.stream):
            self._sound_stream = output.add_stream_from_template(sound.stream)
        elif sound is not None:
            name = sound.stream.codec_context.name
            _LOG.warning("%s has no sound: its kind of file cannot hold %s", destination, name)
        self.has_sound = self._sound_stream is not None

    def write(self, frame: TimedFrame) -> None:
        """Draws the label onto a frame, and writes it."""
        pixels = frame.pixels()
        if self._size is None:
            self._begin(*pixels.shape[:2])
        pixels = _fitted(pixels, self._size)
        panel = self._labels.at(frame.seconds, self._size)
        if panel is not None:
            panel.lay_over(pixels)
        picture = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )
        # An encoder takes no two frames for the same moment.
        self._last = max(round(frame.seconds / self._source.unit), self._last + 1)
        picture.pts, picture.time_base = self._last, self._source.unit
        self._mux_sound(frame.seconds)
        self._output.mux(self._stream.encode(picture))
        self._end = frame.seconds + frame.duration
        self.count += 1

    def finish(self) -> None:
        """Writes what the encoder has kept back, and the rest of the sound."""
        self._output.mux(self._stream.encode())
        self._mux_sound(self._end)

    def _begin(self, height: int, width: int) -> None:
        self._size = height + height % 2, width + width % 2
        context = self._stream.codec_context
        context.height, context.width = self._size
        context.pix_fmt, context.time_base = "yuv420p", self._source.unit
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = ColorRange.MPEG
        if self._source.pixel_aspect:
            context.sample_aspect_ratio = self._source.pixel_aspect

    def _mux_sound(self, seconds: float) -> None:
        if self._sound_stream is None:
            return
        for packet in self._sound.until(seconds):
            packet.stream = self._sound_stream
            self._output.mux(packet)


def _holds(container: str, stream: av.AudioStream) -> bool:
    """Whether a container takes a sound as it is; some say so only when the file begins."""
    with contextlib.suppress(ValueError, av.error.FFmpegError):
        with av.open(io.BytesIO(), "w", format=container) as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
        return True
    return False


def _fitted(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pixels in the size of the new video, as an array that can be drawn on."""
    height, width = pixels.shape[:2]
    missing = size[0] - height, size[1] - width
    if missing not in ((0, 0), (0, 1), (1, 0), (1, 1)):
        # Some videos change their size on the way.
        return cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA)
    if any(missing):
        return np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    return pixels if pixels.flags.writeable else pixels.copy()
