"""One video to the images that are stored of it: decoded once, in order."""

import dataclasses
import functools

import numpy as np

from molo_jax.data.containers import BadVideoError
from molo_jax.data.decode import read_whole
from molo_jax.data.images import encode_jpeg, resize_frames
from molo_jax.data.records import Settings


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedVideo:
    """What is stored of a video.

    Attributes:
        length: number of its frames.
        rate: frames a second, as numerator and denominator.
        numbers: (n,) int64 numbers of the stored frames, ascending.
        images: the stored frames as JPEG.
    """

    length: int
    rate: tuple[int, int]
    numbers: np.ndarray
    images: list[bytes]


def encode_video(path: str, settings: Settings) -> EncodedVideo:
    """Decodes a whole video, resizes the frames that are kept and compresses them.

    Raises:
        BadVideoError: the video cannot be used.
    """
    facts, numbers, images = read_whole(
        path, settings.frames_kept, functools.partial(_encode_frame, settings)
    )
    return EncodedVideo(
        facts.length,
        (facts.rate.numerator, facts.rate.denominator),
        numbers,
        [images[number] for number in numbers.tolist()],
    )


def encode_or_reason(path: str, settings: Settings) -> EncodedVideo | str:
    """The same, with the reason where the video cannot be used."""
    try:
        return encode_video(path, settings)
    except BadVideoError as error:
        return error.reason


def _encode_frame(settings: Settings, frame: np.ndarray) -> bytes:
    square = resize_frames(frame[None], settings.resize)[0]
    return encode_jpeg(square, settings.quality, settings.chroma)
