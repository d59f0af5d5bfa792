"""What a video file says of its frames, and in which way they are therefore read."""

import bisect
import contextlib
import dataclasses
import fractions
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import av

from molo_jax.data.video.containers import (
    UNLIMITED,
    BadVideoError,
    Deadline,
    check_file,
    open_container,
)

# What may be asked for single frames, see `reading_plan`: codecs by container, and the formats of
# pixels that decord converts to RGB as PyAV does.
PROVEN = {
    "mov": {"h264", "hevc", "mpeg4", "vp9"},
    "matroska": {"h264", "hevc", "vp8", "vp9"},
    "avi": {"mjpeg", "mpeg4"},
}
# Codecs whose norm says what a decoder gives for each pixel. The cosine transform of the others may
# be rounded in another way by decord's FFmpeg than by PyAV's: MPEG-4 differs by 1 or 2 levels.
_EXACT = {"h264", "hevc", "vp8", "vp9"}
_PROVEN_PIXELS = ("yuv420p", "yuvj420p")
# Where a frame of MPEG-4 begins in a packet, and what tells that it is a B-frame.
_MPEG4_FRAME = re.compile(rb"\x00\x00\x01\xb6([\x80-\xbf])?")
# Time of a jump, and of the look through the file that decord begins with, in decoded frames.
_FRAMES_A_JUMP, _FRAMES_A_LOOK = 12, 1 / 10


@dataclasses.dataclass(frozen=True)
class VideoMetadata:
    """What is known of the frames of a file.

    Attributes:
        length: number of frames; those that an edit list leaves out are not counted.
        rate: average frames a second, as decord's `get_avg_fps` gives it; where the file states
            none, that of its frames; 0 if there is none either (a single frame).
        keyframes: numbers of the frames that the file calls keyframes.
        jumps_are_right: whether single frames may be jumped to.
        keyframe_times: the time stamps of the keyframes, where jumps are right.
        is_exact: whether every decoder gives the same pixels, so that decord may jump, too.
    """

    length: int
    rate: fractions.Fraction
    keyframes: tuple[int, ...]
    jumps_are_right: bool
    keyframe_times: tuple[int, ...] = ()
    is_exact: bool = True

    @property
    def fps(self) -> float:
        """The frame rate as a float."""
        return float(self.rate)


def reading_plan(metadata: VideoMetadata, frames: Sequence[int]) -> Literal["jump", "in_order"]:
    """Decides whether frames are jumped to, or PyAV reads the file from its start.

    The decision is the same with decord and without it, see `jumps.jump`; decord's limits are the
    narrower ones. decord's jumps (`get_batch`, `seek`) give wrong frames, silently, for

        MPEG-4 with B-frames, also packed as in many AVI files · open groups of pictures (H.264,
        HEVC, MPEG-2) · recovery points in place of keyframes · H.264 in AVI · MPEG-1 and MPEG-2 ·
        transport streams · edit lists · packets that are never shown

    and other pixels than PyAV for 10 bits and interlaced frames. They fail for most videos that
    are to be turned upright, AV1, and files without lengths or rates. Read in order by PyAV all of
    these are right. So jumps are allowed for what is on a list of proven kinds and whose packets
    show none of the above (`scan`), and if a first decoding found the frames to be as expected
    (`decode.read_whole`).

    They pay if they save decoding. Milliseconds for 8 frames spread over a video, read in order or
    with decord's jumps, on one core of an AMD EPYC:

        VP9 240×427, 48 frames, one keyframe                   19   26
        MPEG-4 320×240, 175 frames, one keyframe               25   29
        H.264 340×256, 300 frames, a keyframe every 250        70   73
        the same with a keyframe every 12                      95   42
        the same, 900 frames, with a keyframe every 30        247   69

    The estimate counts the frames that have to be decoded, and what a jump and decord's look
    through the file cost beyond that.

    Args:
        metadata: of the file.
        frames: the numbers that are wanted, ascending.
    """
    if not metadata.jumps_are_right:
        return "in_order"
    cost, position = metadata.length * _FRAMES_A_LOOK, -1
    for number in frames:
        keyframe = metadata.keyframes[bisect.bisect_right(metadata.keyframes, number) - 1]
        if keyframe > position:
            cost += _FRAMES_A_JUMP
            position = keyframe
        cost += number + 1 - position
        position = number + 1
    return "jump" if cost < position else "in_order"


class _Packet(NamedTuple):
    """What counts of a packet; packets come in the order in which they are decoded."""

    time: int | None
    is_keyframe: bool
    is_simple: bool  # see `_simple_test`
    is_dropped: bool


def scan(path: str, deadline: Deadline = UNLIMITED) -> VideoMetadata:
    """Finds out about the frames of a file from its packets, without decoding them.

    Args:
        path: the file.
        deadline: when the reading has to be over.

    Raises:
        BadVideoError: it cannot be opened, is no video, cut off, damaged, audio only or empty, or
            the time is up.
    """
    check_file(path, walk=True)
    with open_video(path, deadline) as (container, stream):
        is_simple, packets = _simple_test(stream), []
        for packet in packets_of(path, container, stream, deadline):
            if packet.size:  # the last one only ends the stream
                packets.append(
                    _Packet(packet.pts, packet.is_keyframe, is_simple(packet), packet.is_discard)
                )
        shown = [packet for packet in packets if not packet.is_dropped]
        if not shown:
            raise BadVideoError(path, "it has no frames")
        rate = stream.average_rate or fractions.Fraction(0)
        times = [packet.time for packet in shown]
        if None in times or len(set(times)) < len(times):
            return VideoMetadata(len(shown), rate, (), jumps_are_right=False)
        numbers = {time: number for number, time in enumerate(sorted(times))}
        keyframe_times = tuple(sorted(packet.time for packet in shown if packet.is_keyframe))
        jumps_are_right = (
            len(shown) == len(packets)
            and _is_proven(container, stream)
            and _jumps_lead_there(packets, stream)
        )
        return VideoMetadata(
            len(shown),
            rate or _rate_of(times, stream.time_base),
            tuple(numbers[time] for time in keyframe_times),
            jumps_are_right,
            keyframe_times if jumps_are_right else (),
            stream.codec.canonical_name in _EXACT,
        )


def _rate_of(times: list[int], time_base: fractions.Fraction) -> fractions.Fraction:
    seconds = (max(times) - min(times)) * time_base
    return (len(times) - 1) / seconds if seconds else fractions.Fraction(0)


def _is_proven(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """Whether a file is of a kind that decord opens and, jumps apart, gives the right frames of.

    The kinds are the same where PyAV jumps, which passes more of them: which frames of a file are
    jumped to depends on the file alone.
    """
    return (
        stream.codec.canonical_name in PROVEN.get(container_name(container), ())
        and stream.codec_context.pix_fmt in _PROVEN_PIXELS
        and len(container.streams.video) == 1
        and bool(stream.average_rate)
        and container.duration is not None
    )


def decord_shows(frame: av.VideoFrame) -> bool:
    """Whether decord makes the same pixels of a frame as PyAV."""
    proven = frame.format.name in _PROVEN_PIXELS
    return proven and not frame.interlaced_frame and frame.rotation == 0


def container_name(container: av.container.InputContainer) -> str:
    """The first of the names that FFmpeg has for the format of a file, as "mov" for MP4."""
    return container.format.name.split(",")[0]


def _jumps_lead_there(packets: list[_Packet], stream: av.VideoStream) -> bool:
    """Whether decoding from a keyframe on gives the frames from its number on, and no others."""
    times = [packet.time for packet in packets]
    in_order = sorted(times)
    if container_name(stream.container) == "avi" and in_order[-1] - in_order[0] >= len(times):
        return False  # some frames are left out, and the ones before them stay for longer
    latest = in_order[0] - 1
    for packet, place in zip(packets, in_order, strict=True):
        if packet.is_keyframe and not latest < packet.time == place:
            return False  # what is decoded before it is shown after it, or the other way round
        latest = max(latest, packet.time)
    return packets[0].is_keyframe and all(packet.is_simple for packet in packets)


def _simple_test(stream: av.VideoStream) -> Callable[[av.Packet], bool]:
    """Tells from the content of a packet whether jumps get along with it."""
    codec = stream.codec.canonical_name
    if codec == "mpeg4":
        return lambda packet: _is_forward_frame(bytes(packet))
    if codec not in _UNITS:
        return lambda packet: True
    units, header = _UNITS[codec], stream.codec_context.extradata or b""
    if len(header) <= units.width_at or header[0] != 1:
        return lambda packet: False  # another layout, as in AVI
    width = (header[units.width_at] & 3) + 1
    return lambda packet: not packet.is_keyframe or _is_start(bytes(packet), units, width)


def _is_forward_frame(packet: bytes) -> bool:
    """Whether a packet of MPEG-4 is one frame and no B-frame.

    Many AVI files have a B-frame packed behind the frame it refers to, and an empty one later.
    """
    return _MPEG4_FRAME.findall(packet) == [b""]


class _Units(NamedTuple):
    """The layout of H.264 or HEVC in MP4 and Matroska: units with their lengths before them.

    Attributes:
        width_at: where in the header the width of the lengths stands.
        shift: how many bits of a unit's first byte follow its kind.
        mask: the bits of the kind.
        starts: kinds of units that need nothing from before them (IDR).
    """

    width_at: int
    shift: int
    mask: int
    starts: tuple[int, ...]


_UNITS = {"h264": _Units(4, 0, 0x1F, (5,)), "hevc": _Units(21, 1, 0x3F, (19, 20))}


def _is_start(packet: bytes, units: _Units, width: int) -> bool:
    """Whether decoding can start with the packet of a keyframe.

    In H.264 and HEVC there are also frames from which on the picture becomes right, after a while
    or except for the ones shown before it. Containers call these keyframes too.
    """
    offset = 0
    while offset + width < len(packet):
        if (packet[offset + width] >> units.shift) & units.mask in units.starts:
            return True
        offset += width + int.from_bytes(packet[offset : offset + width], "big")
    return False


@contextlib.contextmanager
def open_video(
    path: str, deadline: Deadline = UNLIMITED
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Opens a file and finds its video stream; errors of FFmpeg become BadVideoError."""
    try:
        with open_container(path, deadline) as container:
            stream = container.streams.best("video")
            if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
                raise BadVideoError(path, "it has no video stream (audio only?)")
            if stream.codec_context is None:
                raise BadVideoError(path, "there is no decoder for its video stream")
            stream.codec_context.thread_count = 1  # the callers decode several videos at a time
            yield container, stream
    except av.error.FFmpegError as error:
        raise BadVideoError(path, f"damaged: it cannot be read ({error.strerror})") from None


def packets_of(
    path: str,
    container: av.container.InputContainer,
    stream: av.VideoStream,
    deadline: Deadline,
) -> Iterator[av.Packet]:
    """The packets of a stream; the last one is empty and only ends the stream.

    Raises:
        av.error.FFmpegError: the file is damaged.
        BadVideoError: the time is up.
    """
    while True:
        try:
            for packet in container.demux(stream):
                deadline.check(path)
                yield packet
            return
        except av.error.BlockingIOError:
            # There is no packet in the next 64 KiB of a transport stream, as behind its last one
            # in a file that was made larger than it needed to be.
            deadline.check(path)


def packets_before(
    hole: int, packets: Iterable[av.Packet], stream: av.VideoStream
) -> Iterator[av.Packet]:
    """The packets before a byte, without the last one, of which a part may be lost; then an end."""
    waiting = None
    for packet in packets:
        if not packet.size or packet.pos >= hole:
            break
        if waiting is not None:
            yield waiting
        waiting = packet
    end = av.Packet()
    end.stream = stream
    yield end
