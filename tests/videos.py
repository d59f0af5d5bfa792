"""Small videos whose pixels say which video and which frame they are."""

import dataclasses
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT, BITS = 64, 48, 8
# Colors of the columns for 0 and for 1, which alternate; they differ in their amount of red.
_COLORS = np.array([[(0, 70, 255), (0, 200, 0)], [(255, 60, 0), (255, 0, 200)]], np.uint8)


def coded_frame(
    video: int, frame: int, colored: bool = False, width: int = WIDTH, height: int = HEIGHT
) -> np.ndarray:
    """The frame's number as 8 dark or bright columns above, the video's number below."""
    halves = []
    for number in (frame, video):
        bits = (number >> np.arange(BITS)) & 1
        colors = bits[:, None].repeat(3, axis=1).astype(np.uint8) * 255
        if colored:
            colors = _COLORS[bits, np.arange(BITS) % 2]
        row = np.repeat(colors, width // BITS, axis=0)
        halves.append(np.broadcast_to(row[None], (height // 2, width, 3)))
    return np.concatenate(halves)


def read_codes(clip: np.ndarray) -> tuple[list[int], list[int]]:
    """The frame numbers and the video numbers of a clip (t, h, w, c) of any size."""
    _, height, width, _ = clip.shape
    columns = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    weights = 1 << np.arange(BITS)
    above, below = (
        (clip[:, row, columns, 0] > 127) @ weights for row in (height // 4, height * 3 // 4)
    )
    return above.tolist(), below.tolist()


def write_video(
    path: Path,
    *,
    video: int = 0,
    frames: int | Iterable[int] = 17,
    colored: bool = False,
    turns: int = 0,
    codec: str = "libx264",
    fps: int | Fraction = 25,
    times: list[int] | None = None,
    tag: str | None = None,
    pixels: str | None = None,
    colors: dict[str, int] | None = None,
    stream_options: dict[str, str] | None = None,
    file_options: dict[str, str] | None = None,
    sound: bool = False,
) -> Path:
    """Writes a video.

    Args:
        path: the file; its extension decides the container.
        video: its number.
        frames: how many, or the number that each of them shows.
        colored: columns in colors instead of black and white.
        turns: quarter turns that the pictures are stored turned by, counterclockwise.
        codec: name of the encoder.
        fps: frames a second.
        times: when each frame is shown, in units of 1/90 second.
        tag: the four characters for the codec.
        pixels: name of the pixel format.
        colors: the codec's properties that say what the colors mean.
        stream_options: options of the encoder.
        file_options: options of the container.
        sound: add a second of silence.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = range(frames) if isinstance(frames, int) else list(frames)
    with av.open(str(path), "w", options=file_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=stream_options or {})
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = pixels or ("yuvj420p" if codec == "mjpeg" else "yuv420p")
        stream.codec_context.thread_count = 1
        if tag:
            stream.codec_context.codec_tag = tag
        if times:
            stream.codec_context.time_base = Fraction(1, 90)
        for name, value in (colors or {}).items():
            setattr(stream.codec_context, name, value)
        silence = container.add_stream("aac", rate=16000) if sound else None
        container.start_encoding()
        for place, number in enumerate(numbers):
            size = (WIDTH, HEIGHT) if turns % 2 == 0 else (HEIGHT, WIDTH)
            image = np.rot90(coded_frame(video, number, colored, *size), turns)
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
            if colors:  # said of the converted picture, not meant for its conversion
                picture = picture.reformat(format=stream.pix_fmt)
                for name, value in colors.items():
                    setattr(picture, name, value)
            if times:
                picture.pts, picture.time_base = times[place], Fraction(1, 90)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
        if silence:
            _write_silence(container, silence)
    return path


def write_audio(path: Path) -> Path:
    """Writes a file without a video."""
    with av.open(str(path), "w") as container:
        _write_silence(container, container.add_stream("aac", rate=16000))
    return path


def _write_silence(container: av.container.OutputContainer, stream: av.AudioStream) -> None:
    sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
    sound.rate = 16000
    container.mux(stream.encode(sound))
    container.mux(stream.encode())


@dataclasses.dataclass
class StoredPacket:
    """A packet as it is in a file, with its times in units of the stream."""

    data: bytes
    pts: int
    dts: int
    is_keyframe: bool


def read_packets(path: Path) -> list[StoredPacket]:
    """The packets of the video stream."""
    with av.open(str(path)) as container:
        return [
            StoredPacket(bytes(p), p.pts, p.dts, p.is_keyframe)
            for p in container.demux(video=0)
            if p.size
        ]


def write_packets(path: Path, like: Path, packets: list[StoredPacket]) -> None:
    """Writes packets into a new file with the stream description of another one."""
    with av.open(str(like)) as source, av.open(str(path), "w") as container:
        described = source.streams.video[0]
        stream = container.add_stream_from_template(described)
        for stored in packets:
            packet = av.Packet(stored.data)
            packet.pts, packet.dts = stored.pts, stored.dts
            packet.is_keyframe, packet.time_base = stored.is_keyframe, described.time_base
            packet.stream = stream
            container.mux(packet)
