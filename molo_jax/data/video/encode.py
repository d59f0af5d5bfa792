"""One video to the images that are stored of it: decoded once, in order."""

import dataclasses

import numpy as np

from molo_jax.data.store.processes import Lost
from molo_jax.data.store.records import MOST_RECORD_BYTES, Settings
from molo_jax.data.video.containers import BadVideoError
from molo_jax.data.video.decode import one_video, read_whole
from molo_jax.data.video.images import encode_jpeg, resize_frames


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
    encoder = _Encoder(path, settings)
    metadata, numbers, images = read_whole(path, settings.frames_kept, encoder)
    return EncodedVideo(
        metadata.length,
        (metadata.rate.numerator, metadata.rate.denominator),
        numbers,
        [images[number] for number in numbers.tolist()],
    )


def encode_or_reason(path: str, settings: Settings) -> EncodedVideo | str:
    """The same, with the reason where the video cannot be used; `Lost` if it may be, later."""
    try:
        with one_video(path):
            return encode_video(path, settings)
    except BadVideoError as error:
        return Lost(error.reason) if error.transient else error.reason


class _Encoder:
    """Compresses the frames of one video, up to a size that a record can have.

    Raises:
        BadVideoError: they take too much space.
    """

    def __init__(self, path: str, settings: Settings):
        self._path, self._settings, self._size = path, settings, 0

    def __call__(self, frame: np.ndarray) -> bytes:
        settings = self._settings
        square = resize_frames(frame[None], settings.resize)[0]
        image = encode_jpeg(square, settings.quality, settings.chroma)
        self._size += len(image)
        if self._size > MOST_RECORD_BYTES:
            raise BadVideoError(
                self._path,
                f"its frames take more than {MOST_RECORD_BYTES >> 20} MiB; prepare it with"
                " --max_frames",
            )
        return image
