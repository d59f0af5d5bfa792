"""Decoding: a video file to a clip of resized uint8 frames, or `BadVideoError`."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it announces itself, whatever the log level

import decord
import numpy as np
import tensorflow as tf

from molo_jax.data.containers import BadVideoError, check_file
from molo_jax.data.frames import ChooseFrames

__all__ = ["BadVideoError", "decode_clip", "resize_frames"]

decord.logging.set_level(decord.logging.QUIET)
tf.config.set_visible_devices([], "GPU")  # accelerators belong to JAX

# decord reports defects as any of these; an AssertionError for a video without frames.
_DECORD_ERRORS = (decord.DECORDError, RuntimeError, AssertionError)


def decode_clip(path: str, choose: ChooseFrames, resize: int) -> np.ndarray:
    """Decodes the chosen frames of a video and resizes them to a square, see `resize_frames`.

    Args:
        path: the video file.
        choose: gives the frame numbers for a length and frame rate; its ValueError means that
            the video does not allow a choice.
        resize: side of the square in pixels.

    Returns:
        (t, h, w, c) uint8 with h = w = resize and c = 3 (RGB).

    Raises:
        BadVideoError: the file cannot be opened or is no video, is empty, cut off or audio only,
            or a frame that it announces cannot be decoded. Whether it is raised depends on the
            file alone, not on the frames that are chosen.
    """
    check_file(path)
    try:
        # With more threads decord fails on some VP9 files.
        reader = decord.VideoReader(path, num_threads=1)
        indices = choose(len(reader), float(reader.get_avg_fps()))
        frames = _read_frames(reader, indices)
    except _DECORD_ERRORS as error:
        raise BadVideoError(path, _reason(error)) from None
    except ValueError as error:
        raise BadVideoError(path, str(error)) from None
    return resize_frames(frames, resize)


def _read_frames(reader: decord.VideoReader, indices: np.ndarray) -> np.ndarray:
    """Reads the whole video from its first frame on and keeps the chosen frames.

    Jumping to a frame (`get_batch`, `seek`, `skip_frames`) makes decord return a wrong one,
    silently, for MPEG-4 with B-frames, H.264 with open groups of pictures and H.264 in AVI; which
    of these a file holds decord does not tell. Reading in order is right for all of them, and for
    clips whose frames span the video it takes no longer. Reading on to the end makes a
    damaged video fail on its first use and not only when a damaged part is chosen. Frames are
    taken one by one because a batch would hold the whole video in memory.
    """
    wanted = set(indices.tolist())
    kept = {}
    for position in range(len(reader)):
        try:
            frame = reader.next()
        except StopIteration:
            raise ValueError(
                f"it announces {len(reader)} frames, only {position} could be decoded"
            ) from None
        if position in wanted:
            kept[position] = frame.asnumpy()
    return np.stack([kept[position] for position in indices.tolist()])


def resize_frames(frames: np.ndarray, resize: int) -> np.ndarray:
    """Resizes (t, h, w, c) uint8 frames to squares, (t, resize, resize, c) uint8.

    Bilinear with half-pixel centers, without antialiasing, ignoring the aspect ratio; rounded to
    whole gray levels.
    """
    if frames.shape[1:3] == (resize, resize):
        return frames
    pixels = tf.image.resize(frames, (resize, resize), method="bilinear", antialias=False)
    return tf.cast(tf.round(pixels), tf.uint8).numpy()


def _reason(error: BaseException) -> str:
    """What decord's message means, without the time and the place in its source."""
    text = str(error)
    if "cannot find video stream" in text:
        return "it has no video stream that decord can decode (audio only, no frames, or AV1?)"
    # The two messages of a damaged packet; which of them appears is a matter of timing.
    if "Error sending packet" in text or "run_.load()" in text:
        return "damaged: its frames cannot be decoded to the end"
    gist = text.rsplit(".cc:", maxsplit=1)[-1].split(": ", maxsplit=1)[-1]
    return f"cannot be decoded ({' '.join(gist.split())})"
