"""One video to the images that are stored of it: decoded once, in order."""

import dataclasses

import numpy as np

from molo_jax.data.containers import BadVideoError, as_bad_video
from molo_jax.data.decode import read_whole
from molo_jax.data.images import encode_jpeg, resize_frames
from molo_jax.data.processes import Lost
from molo_jax.data.records import Settings

# Of a record, which is read and parsed as a whole for every clip. Nothing but such a video is
# shortened without --max_frames.
_MOST_BYTES = 512 << 20


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedVideo:
    """What is stored of a video.

    Attributes:
        length: number of its frames.
        rate: frames a second, as numerator and denominator.
        numbers: (n,) int64 numbers of the stored frames, ascending.
        images: the stored frames as JPEG.
        shortened: a sentence for the report where frames were left out for want of space.
    """

    length: int
    rate: tuple[int, int]
    numbers: np.ndarray
    images: list[bytes]
    shortened: str = ""


def encode_video(path: str, settings: Settings) -> EncodedVideo:
    """Decodes a whole video, resizes the frames that are kept and compresses them.

    If they take more than a record can have, every second is kept, or every fourth, eighth, and so
    on: evenly spaced, from the first on, the least number of times that makes them fit.

    Raises:
        BadVideoError: the video cannot be used.
    """
    encoder = _Encoder(settings)
    facts, numbers, _ = read_whole(path, encoder.choose, encoder)
    kept = numbers[:: encoder.step]
    shortened = ""
    if encoder.step > 1:
        shortened = (
            f"{len(kept)} of {len(numbers)} frames are stored, evenly spaced: all of them take more"
            f" than {_MOST_BYTES >> 20} MiB"
        )
    rate = facts.rate.numerator, facts.rate.denominator
    return EncodedVideo(facts.length, rate, kept, encoder.images, shortened)


def encode_or_reason(path: str, settings: Settings) -> EncodedVideo | str:
    """The same, with the reason where the video cannot be used; `Lost` if it may be, later."""
    try:
        with as_bad_video(path):
            return encode_video(path, settings)
    except BadVideoError as error:
        return Lost(error.reason) if error.transient else error.reason


class _Encoder:
    """Compresses the frames of one video, up to a size that a record can have.

    Attributes:
        images: the frames that are kept as JPEG.
        step: how many of the given frames there are for each that is kept, a power of two.
    """

    def __init__(self, settings: Settings):
        self._settings = settings
        self._begin()

    def choose(self, length: int, fps: float) -> np.ndarray:
        """The frames of a video that are to be given; the encoder begins anew."""
        self._begin()
        return self._settings.frames_kept(length, fps)

    def __call__(self, frame: np.ndarray) -> None:
        """Takes the next frame, (h, w, 3) uint8 RGB."""
        settings, number = self._settings, self._given
        self._given += 1
        if number % self.step:
            return
        square = resize_frames(frame[None], settings.resize)[0]
        self.images.append(encode_jpeg(square, settings.quality, settings.chroma))
        self._size += len(self.images[-1])
        while self._size > _MOST_BYTES and len(self.images) > 1:
            self.images = self.images[::2]
            self._size = sum(map(len, self.images))
            self.step *= 2

    def _begin(self) -> None:
        self.images: list[bytes] = []
        self.step = 1
        self._size = self._given = 0
