"""The decoder of an open file: its frames, all of them whole, and their pixels, upright."""

from collections.abc import Iterator

import av
import numpy as np

from molo_jax.data.video.containers import STREAMS, BadVideoError, Deadline
from molo_jax.data.video.metadata import container_name, packets_before, packets_of


class UprightPixels:
    """Converts decoded frames of one file to RGB, turned the way in which they are to be shown.

    Args:
        path: the file, for the message of an error.
    """

    def __init__(self, path: str):
        self._path = path
        self._to_rgb = av.video.reformatter.VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """Returns the pixels, (h, w, 3) uint8.

        Raises:
            BadVideoError: the colors of the frame cannot be converted.
        """
        try:
            # With more threads, converting a small frame takes longer.
            rgb = self._to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
        except av.error.FFmpegError as error:
            reason = f"its colors cannot be converted to RGB ({error.strerror})"
            raise BadVideoError(self._path, reason) from None
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb


def whole_frames(
    path: str,
    container: av.container.InputContainer,
    stream: av.VideoStream,
    deadline: Deadline,
    hole: int | None = None,
) -> Iterator[av.VideoFrame]:
    """Decodes the frames of a stream, in the order in which they are shown, all of them whole.

    A recording without a stated length may end within a picture, which is left out.

    Args:
        path: the file, for the message of an error.
        container: the file as `metadata.open_video` gives it.
        stream: its video stream, likewise.
        deadline: when the reading has to be over.
        hole: the byte of the file from which on something is missing, if it is damaged; the packet
            before it is not trusted either.

    Yields:
        The frames as the decoder gives them, not converted to RGB and not turned upright.

    Raises:
        BadVideoError: the next frame cannot be decoded, or the time is up.
    """
    missing, damage = 0, BadVideoError(path, "damaged: its frames cannot be decoded to the end")
    may_end_anywhere, torn = container_name(container) in STREAMS, []
    packets = packets_of(path, container, stream, deadline)
    try:
        for packet in packets if hole is None else packets_before(hole, packets, stream):
            if packet.size and torn:
                raise damage
            missing += packet.size > 0 and not packet.is_discard
            for frame in _frames_of(packet, torn):
                missing -= 1
                yield frame
                deadline.check(path)
            if torn and not may_end_anywhere:
                raise damage
    except av.error.FFmpegError:
        deadline.check(path)
        raise damage from None
    # Every packet of AV1 shows a frame, and its decoder passes over what it does not understand.
    if missing > 0 and stream.codec.canonical_name == "av1":
        raise damage


def _frames_of(packet: av.Packet, torn: list[int | None]) -> list[av.VideoFrame]:
    """The whole frames that come out of the decoder with a packet.

    Args:
        packet: the next one.
        torn: the times of the pictures that are not whole; further ones are added.
    """
    try:
        frames = packet.decode()
    except av.error.FFmpegError:
        # A decoder may give out later what it made of such a packet, with nothing to tell it by.
        torn.append(packet.pts)
        return []
    torn.extend(frame.pts for frame in frames if frame.is_corrupt)
    return [frame for frame in frames if frame.pts not in torn] if torn else frames
