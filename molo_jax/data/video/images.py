"""Pixels of single frames: the resize of the method, and JPEG."""

from collections.abc import Sequence

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8

from molo_jax.errors import MoloError

# The callers decode on threads of their own, or one video a process.
cv2.setNumThreads(0)


def resize_frames(
    frames: UInt8[np.ndarray, "t h w 3"], resize: int
) -> UInt8[np.ndarray, "t r r 3"]:
    """Resizes frames to squares of side `resize`, ignoring the aspect ratio.

    Bilinear with half-pixel centers, without antialiasing; rounded to whole gray levels, halves
    to even.
    """
    if frames.shape[1:3] == (resize, resize):
        return frames
    resized = np.empty((len(frames), resize, resize, 3), np.uint8)
    for frame, result in zip(frames, resized, strict=True):
        # In whole numbers OpenCV computes with 11 bits of the weights, off by one gray level in a
        # pixel of ten; float32 is exact to rounding.
        pixels = cv2.resize(
            frame.astype(np.float32), (resize, resize), None, 0, 0, cv2.INTER_LINEAR
        )
        np.rint(pixels, out=pixels)
        result[:] = pixels
    return resized


def encode_jpeg(frame: UInt8[np.ndarray, "h w 3"], quality: int, chroma: str) -> bytes:
    """Compresses an RGB frame.

    Args:
        frame: the pixels.
        quality: 1 to 100, in the scale of libjpeg.
        chroma: "420" keeps colors at half the resolution, "444" at all of it.
    """
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(frame), quality=quality, colorspace="RGB", colorsubsampling=chroma
    )


def decode_jpegs(
    images: Sequence[bytes], side: int, out: UInt8[np.ndarray, "t r r 3"] | None = None
) -> UInt8[np.ndarray, "t r r 3"]:
    """Decodes square JPEG images, with the exact inverse transform of libjpeg; into `out` if given.

    Raises:
        MoloError: one is damaged, or of another size.
    """
    frames = np.empty((len(images), side, side, 3), np.uint8) if out is None else out
    for image, frame in zip(images, frames, strict=True):
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(image)
            if (height, width) != (side, side):
                raise MoloError(f"a stored image is {height}×{width}; expected {side}×{side}")
            simplejpeg.decode_jpeg(image, "RGB", buffer=frame)
        except ValueError as error:
            raise MoloError(f"a stored image is damaged ({error})") from error
    return frames
