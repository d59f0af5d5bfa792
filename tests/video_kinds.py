"""Videos in every kind of file that people have, each with what decord makes of it."""

import itertools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import pytest
from videos import HEIGHT, WIDTH, coded_frame, read_packets, write_packets, write_video

from molo_jax.data.video.jumps import installed_decord

needs_decord = pytest.mark.skipif(
    installed_decord() is None, reason="decord has no wheel for this machine"
)
# FRAMES frames of video VIDEO, a keyframe about every GROUP of them.
VIDEO, FRAMES, GROUP = 19, 40, 8
# What decord's jumps do with a kind of file. Those that are not trusted are right here, but other
# files that look the same to us may not be.
RIGHT, NOT_TRUSTED = "right", "right, but not trusted"
OTHER_FRAMES, OTHER_PIXELS, FAILS = "other frames", "other pixels", "an error"


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        file_name: name of a file of the kind.
        make: writes one and returns the numbers of the frames that a player shows.
        decord: what decord's jumps do with it.
    """

    file_name: str
    make: Callable[[Path], list[int]]
    decord: str


def plain(codec: str = "libx264", options: str = "", **settings) -> Callable[[Path], list[int]]:
    """Encodes, with options such as "bf=2 g=3"."""
    stream_options = {"g": str(GROUP)} | dict(option.split("=", 1) for option in options.split())

    def make(path: Path) -> list[int]:
        write_video(
            path,
            video=VIDEO,
            frames=FRAMES,
            colored=True,
            codec=codec,
            stream_options=stream_options,
            **settings,
        )
        return list(range(FRAMES))

    return make


X264_GROUPS = "x264-params=keyint=8:min-keyint=1:scenecut=0:bframes=3:b-adapt=0"
X265_GROUPS = "x265-params=log-level=none:keyint=8:min-keyint=1:scenecut=0:bframes=3:b-adapt=0"
_XVID = {"codec": "mpeg4", "tag": "XVID"}
_UNEVEN = list(itertools.accumulate((1 + i * 7919 % 5 for i in range(FRAMES - 1)), initial=0))


def turned(quarters: int) -> Callable[[Path], list[int]]:
    """A film that is to be shown turned clockwise, as phones take them."""
    # In the matrix a and b say where the x axis of the picture goes to, c and d where y does.
    a, b, c, d = {1: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 3: (0, -1, 1, 0)}[quarters]

    def make(path: Path) -> list[int]:
        codes = plain(turns=quarters)(path)
        content = bytearray(path.read_bytes())
        place = content.index(b"tkhd") + 4 + 40
        matrix = (a, b, 0, c, d, 0)
        content[place : place + 24] = b"".join(
            (n << 16).to_bytes(4, "big", signed=True) for n in matrix
        )
        path.write_bytes(content)
        return codes

    return make


def edited(make: Callable[[Path], list[int]]) -> Callable[[Path], list[int]]:
    """MP4 with an edit list that shows the second from frame 10 on."""

    def make_edited(path: Path) -> list[int]:
        make(path)
        content = bytearray(path.read_bytes())
        place = content.index(b"elst") + 12
        begin = int.from_bytes(content[place + 4 : place + 8], "big") + 10 * 512
        content[place : place + 8] = (1000).to_bytes(4, "big") + begin.to_bytes(4, "big")
        path.write_bytes(content)
        return list(range(10, 35))

    return make_edited


def cut_off_start(path: Path) -> list[int]:
    """An open group at the beginning: the frames before its keyframe cannot be decoded."""
    whole = path.with_name(f"whole{path.suffix}")
    plain(options=f"{X264_GROUPS}:open-gop=1")(whole)
    packets = read_packets(whole)
    second = [number for number, packet in enumerate(packets) if packet.is_keyframe][1]
    assert min(packet.pts for packet in packets[second:]) < packets[second].pts
    write_packets(path, whole, packets[second:])
    return list(range(packets[second].pts // 40, FRAMES))


def hidden(path: Path) -> list[int]:
    """VP8 with packets that are decoded and not shown, as its alternate references are."""
    whole = path.with_name(f"whole{path.suffix}")
    plain("libvpx")(whole)
    packets = read_packets(whole)
    numbers = {5, 6, 21, 34}
    for number in numbers:
        data = packets[number].data
        packets[number].data = bytes([data[0] & ~0x10]) + data[1:]
    write_packets(path, whole, packets)
    return [number for number in range(FRAMES) if number not in numbers]


def dropped(path: Path) -> list[int]:
    """MPEG-4 in which frames like the one before are marked as not coded."""
    whole = path.with_name(f"whole{path.suffix}")
    numbers = [number - (number in (5, 6, 21, 34)) for number in range(FRAMES)]
    settings = _XVID | {"stream_options": {"g": str(GROUP)}}
    write_video(whole, video=VIDEO, frames=numbers, colored=True, **settings)
    packets = read_packets(whole)
    for number in (5, 21, 34):
        packets[number].data = not_coded(packets[number].data)
    write_packets(path, whole, packets)
    return [code for number, code in enumerate(numbers) if number not in (5, 21, 34)]


def packed(path: Path) -> list[int]:
    """MPEG-4 with each B-frame in one packet with the frame before it, as DivX wrote it.

    An empty packet stands where the B-frame would be.
    """
    whole = path.with_name(f"whole{path.suffix}")
    plain(**_XVID, options="bf=1 b_strategy=0 g=300 sc_threshold=1000000000")(whole)
    packets = read_packets(whole)
    first = packets[0].data
    note, frame = first.index(b"\0\0\1\xb2"), first.index(b"\0\0\1\xb6")
    packets[0].data = first[:note] + b"\0\0\1\xb2DivX503b1393p" + first[frame:]
    for number in range(1, FRAMES - 1, 2):
        reference, between = packets[number], packets[number + 1]
        assert between.data[between.data.index(b"\0\0\1\xb6") + 4] >> 6 == 2
        reference.data, between.data = reference.data + between.data, not_coded(reference.data)
    for number, packet in enumerate(packets):
        packet.pts = packet.dts = number
        packet.is_keyframe = number == 0
    write_packets(path, whole, packets)
    return list(range(FRAMES))


def not_coded(packet: bytes) -> bytes:
    """An MPEG-4 packet for the same time that says that there is no frame; for 25 a second."""
    start = packet.index(b"\0\0\1\xb6") + 4
    bits = f"{int.from_bytes(packet[start : start + 4], 'big'):032b}"
    seconds = bits.index("0", 2) + 1  # after the type there is a 1 for each second that passed
    time = bits[seconds + 1 : seconds + 6]  # between two markers
    header = f"01{bits[2:seconds]}1{time}10" + "0"
    header += "1" * (-len(header) % 8)
    return b"\0\0\1\xb6" + int(header, 2).to_bytes(len(header) // 8, "big")


def left_out(path: Path) -> list[int]:
    """Motion JPEG in AVI with empty chunks: the frame before is shown for longer."""
    plain("mjpeg")(path)
    content = bytearray(path.read_bytes())
    first, index = content.index(b"movi"), content.rindex(b"idx1")
    for number in (5, 6, 21):
        entry = index + 8 + 16 * number
        place = first + int.from_bytes(content[entry + 8 : entry + 12], "little")
        length = int.from_bytes(content[place + 4 : place + 8], "little")
        filler = (length + length % 2 - 8).to_bytes(4, "little")
        content[place + 4 : place + 16] = bytes(4) + b"JUNK" + filler
        content[entry + 12 : entry + 16] = bytes(4)
    path.write_bytes(content)
    return [number for number in range(FRAMES) if number not in (5, 6, 21)]


def without_rate(path: Path) -> list[int]:
    """WebM with uneven times that does not state a duration of its frames."""
    codes = plain("libvpx", times=_UNEVEN)(path)
    content = bytearray(path.read_bytes())
    place = content.index(b"\x23\xe3\x83\x84")
    content[place : place + 8] = b"\xec\x86" + bytes(6)  # a filler of the same length
    path.write_bytes(content)
    return codes


def growing(path: Path) -> list[int]:
    """VP8 whose pictures double in size halfway."""
    parts = [path.with_name(f"part{number}{path.suffix}") for number in range(2)]
    half = FRAMES // 2
    for number, part in enumerate(parts):
        frames = range(number * half, (number + 1) * half)
        write_video(part, video=VIDEO, frames=frames, colored=True, codec="libvpx")
    enlarge(parts[1], half)
    packets = [packet for part in parts for packet in read_packets(part)]
    for number, packet in enumerate(packets):
        packet.pts = packet.dts = 40 * number
    write_packets(path, parts[0], packets)
    return list(range(FRAMES))


def enlarge(path: Path, first: int) -> None:
    """Writes the second half of `growing`, in twice the size."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=25)
        stream.width, stream.height = 2 * WIDTH, 2 * HEIGHT
        for number in range(first, 2 * first):
            image = coded_frame(VIDEO, number, True, 2 * WIDTH, 2 * HEIGHT)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())


KINDS = {
    "H.264 in MP4": Kind("a.mp4", plain(options="bf=3"), RIGHT),
    "H.264 in MP4 without B-frames": Kind("a.mp4", plain(options="bf=0"), RIGHT),
    "H.264 in MP4 with sound": Kind("a.mp4", plain(sound=True), RIGHT),
    "H.264 in MP4 in fragments": Kind(
        "a.mp4", plain(file_options={"movflags": "frag_keyframe+empty_moov"}), RIGHT
    ),
    "H.264 in MP4 with a pyramid of B-frames": Kind(
        "a.mp4", plain(options=f"{X264_GROUPS}:bframes=7:b-pyramid=normal"), RIGHT
    ),
    "H.264 in Matroska": Kind("a.mkv", plain(options="bf=3"), RIGHT),
    "H.264 in QuickTime": Kind("a.mov", plain(options="bf=3"), RIGHT),
    "H.264 in open groups": Kind("a.mp4", plain(options=f"{X264_GROUPS}:open-gop=1"), OTHER_FRAMES),
    "H.264 in open groups in Matroska": Kind(
        "a.mkv", plain(options=f"{X264_GROUPS}:open-gop=1"), OTHER_FRAMES
    ),
    "H.264 that begins within an open group": Kind("a.mkv", cut_off_start, OTHER_FRAMES),
    "H.264 with recovery points": Kind(
        "a.mp4", plain(options="x264-params=intra-refresh=1:keyint=8:bframes=0"), OTHER_FRAMES
    ),
    "H.264 in AVI": Kind("a.avi", plain(), OTHER_FRAMES),
    "H.264 in a transport stream": Kind("a.ts", plain(), OTHER_FRAMES),
    "H.264 without a container": Kind("a.h264", plain(), FAILS),
    "H.264 with an edit list": Kind("a.mp4", edited(plain(options="bf=2")), OTHER_FRAMES),
    "H.264 at uneven times": Kind("a.mp4", plain(times=_UNEVEN, options="bf=2"), RIGHT),
    "H.264 at 29.97 a second": Kind("a.mp4", plain(fps=Fraction(30000, 1001)), RIGHT),
    "H.264 in BT.709": Kind("a.mp4", plain(colors={"colorspace": 1}), RIGHT),
    "H.264 in full range": Kind("a.mp4", plain(pixels="yuvj420p"), RIGHT),
    "H.264 in 10 bits": Kind("a.mp4", plain(pixels="yuv420p10le"), OTHER_PIXELS),
    "H.264 interlaced": Kind(
        "a.mp4", plain(options="x264-params=keyint=8:interlaced=1"), OTHER_PIXELS
    ),
    "H.264 turned by 90 degrees": Kind("a.mp4", turned(1), FAILS),
    "H.264 turned by 180 degrees": Kind("a.mp4", turned(2), NOT_TRUSTED),
    "H.264 turned by 270 degrees": Kind("a.mp4", turned(3), FAILS),
    "H.264 in M4V": Kind("a.m4v", plain(), RIGHT),
    "H.264 in Flash video": Kind("a.flv", plain(), NOT_TRUSTED),
    "H.264 in an AVCHD stream": Kind("a.m2ts", plain(), OTHER_FRAMES),
    "H.264 in a camera's stream": Kind("a.MTS", plain(), OTHER_FRAMES),
    "MPEG-4 in 3GP": Kind("a.3gp", plain("mpeg4", "bf=0"), RIGHT),
    "Windows Media": Kind("a.wmv", plain("wmv2"), NOT_TRUSTED),
    "VP8 in Ogg": Kind("a.ogv", plain("libvpx"), FAILS),
    "GIF": Kind("a.gif", plain("gif", pixels="rgb8"), FAILS),
    "MPEG-2 of a DVD": Kind("a.vob", plain("mpeg2video", "bf=2"), OTHER_FRAMES),
    "MPEG-1 in .mpeg": Kind("a.mpeg", plain("mpeg1video"), OTHER_FRAMES),
    "HEVC in MP4": Kind("a.mp4", plain("libx265", f"{X265_GROUPS}:open-gop=0"), RIGHT),
    "HEVC in open groups": Kind(
        "a.mp4", plain("libx265", f"{X265_GROUPS}:open-gop=1"), OTHER_FRAMES
    ),
    "HEVC with frames shown before the keyframe they follow": Kind(
        "a.mp4", plain("libx265", f"{X265_GROUPS}:open-gop=0:min-keyint=8:radl=3"), NOT_TRUSTED
    ),
    "XviD in AVI": Kind("a.avi", plain(**_XVID, options="bf=0"), RIGHT),
    "XviD in AVI with B-frames": Kind("a.avi", plain(**_XVID, options="bf=2"), OTHER_FRAMES),
    "DivX in AVI with packed B-frames": Kind("a.avi", packed, OTHER_FRAMES),
    "XviD in AVI with frames not coded": Kind("a.avi", dropped, OTHER_FRAMES),
    "MPEG-4 in MP4": Kind("a.mp4", plain("mpeg4", "bf=0"), RIGHT),
    "MPEG-4 in MP4 with B-frames": Kind("a.mp4", plain("mpeg4", "bf=2"), OTHER_FRAMES),
    "VP8 in WebM": Kind("a.webm", plain("libvpx"), RIGHT),
    "VP8 with hidden frames": Kind("a.webm", hidden, OTHER_FRAMES),
    "VP8 of a size that changes": Kind("a.webm", growing, OTHER_PIXELS),
    "VP8 without a frame rate": Kind("a.webm", without_rate, FAILS),
    "VP8 without a length": Kind("a.webm", plain("libvpx", file_options={"live": "1"}), FAILS),
    "VP9 in WebM": Kind("a.webm", plain("libvpx-vp9"), RIGHT),
    "VP9 with alternate references": Kind(
        "a.webm", plain("libvpx-vp9", "auto-alt-ref=1 lag-in-frames=16 g=20"), RIGHT
    ),
    "VP9 at uneven times": Kind("a.webm", plain("libvpx-vp9", times=_UNEVEN), RIGHT),
    "VP9 in MP4": Kind("a.mp4", plain("libvpx-vp9"), RIGHT),
    "AV1 in MP4": Kind("a.mp4", plain("libsvtav1", "preset=12"), FAILS),
    "AV1 in WebM": Kind("a.webm", plain("libsvtav1", "preset=12"), FAILS),
    "AV1 with an edit list": Kind("a.mp4", edited(plain("libsvtav1", "preset=12")), FAILS),
    "Motion JPEG in AVI": Kind("a.avi", plain("mjpeg"), RIGHT),
    "Motion JPEG in AVI with empty chunks": Kind("a.avi", left_out, NOT_TRUSTED),
    "MPEG-1": Kind("a.mpg", plain("mpeg1video"), OTHER_FRAMES),
    "MPEG-2": Kind("a.mpg", plain("mpeg2video", "bf=2"), OTHER_FRAMES),
    "MPEG-2 in Matroska": Kind("a.mkv", plain("mpeg2video", "bf=2"), OTHER_FRAMES),
}
