"""Clips of one's own: a video file or an array, to the frames that a network looks at."""

import dataclasses
import hashlib
import math
import os
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8

from molo_jax.data.lists.directory import printable
from molo_jax.data.video.containers import BadVideoError, Deadline
from molo_jax.data.video.decode import one_video, probe, read_timed
from molo_jax.data.video.frames import SAMPLINGS, frame_chooser
from molo_jax.data.video.images import resize_frames
from molo_jax.errors import MoloError

# A video file, or its frames as an array (t, h, w, 3) of uint8 in RGB.
Source = str | os.PathLike[str] | np.ndarray
# The name of a clip that is no file.
ARRAY = "array"
# Longer side in pixels of the small pictures that are shown to people.
THUMBNAIL = 160
# A longer video is no clip: a few frames of it say little.
LONGEST_SECONDS = 300.0
# Time limit for the reading of one clip.
READING_SECONDS = 120.0
_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True)
class ClipRule:
    """Which frames of a video a network looks at, and in which size.

    Attributes:
        num_frames: frames of a clip.
        sampling: how they are chosen, see :mod:`molo_jax.data.video.frames`.
        resize: side of the square that a frame becomes, in pixels.
        crop: side of the middle of that square, which the network sees.
    """

    num_frames: int = 8
    sampling: str = "segments"
    resize: int = 256
    crop: int = 224

    def __post_init__(self):
        sizes = {name: getattr(self, name) for name in ("num_frames", "resize", "crop")}
        for name, value in sizes.items():
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}; expected a whole number above 0")
        if self.crop > self.resize:
            raise ValueError(f"the crop of {self.crop} pixels is larger than {self.resize}")
        if self.sampling not in SAMPLINGS:
            raise ValueError(f"sampling is {self.sampling!r}; expected {', '.join(SAMPLINGS)}")


@dataclasses.dataclass(frozen=True)
class Clip:
    """The frames of a video that a network looks at.

    Attributes:
        name: the path as it was given, or :data:`ARRAY`.
        digest: SHA-256 of the content of the file or of the array, hexadecimal.
        pixels: RGB squares of side ``rule.resize``.
        thumbnails: the same frames for people, upright, with the aspect ratio of the video; the
            longer side has at most :data:`THUMBNAIL` pixels.
        numbers: which frames of the video they are.
        seconds: when they are shown, in seconds after the first frame of the video, by the times in
            the file; None where it has neither times nor a frame rate.
    """

    name: str
    digest: str
    pixels: UInt8[np.ndarray, "t r r 3"]
    thumbnails: UInt8[np.ndarray, "t h w 3"]
    numbers: np.ndarray
    seconds: np.ndarray | None


def identify(source: Source) -> tuple[str, str]:
    """Names a clip and tells its content, before any of its frames is decoded but the first.

    Returns:
        The name for people, and the digest, see :class:`Clip`.

    Raises:
        BadVideoError: the file cannot be used, as far as its header tells.
        MoloError: the array has another shape or type, or it is neither a path nor an array.
    """
    if isinstance(source, np.ndarray):
        return ARRAY, _array_digest(source)
    if not isinstance(source, (str, os.PathLike)):
        raise MoloError(
            f"{source!r:.60} is no clip; expected the path of a video, or an array of its frames"
        )
    path = os.fspath(source)
    with one_video(path):
        _check_regular(path)
        # Before the whole file is read: it may have hours.
        _check_length(path)
        return printable(path), content_digest(path)


def read_clip(
    source: Source, rule: ClipRule, *, digest: str = "", seconds: float = READING_SECONDS
) -> Clip:
    """Reads the frames of a clip.

    Of a video, the frame in the middle of each of `num_frames` equal segments is taken, or with
    the sampling of Kinetics equally spaced frames of a window in the middle. An array of exactly
    `num_frames` frames is taken as it is, so that the choice of frames can be one's own; of a
    longer or shorter one frames are chosen as of a video.

    Args:
        source: a video file, or its frames.
        rule: which frames are looked at.
        digest: of the content, where :func:`identify` was asked before.
        seconds: time limit for the decoding.

    Raises:
        BadVideoError: the file cannot be used: it is absent, broken, no video, audio only, too long
            for a clip, or the time is up.
        MoloError: the array has another shape or type.
    """
    if not digest:
        _, digest = identify(source)
    if isinstance(source, np.ndarray):
        return _of_array(source, rule, digest)
    return _of_file(os.fspath(source), rule, digest, Deadline(seconds))


def content_digest(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file's content, hexadecimal.

    Raises:
        BadVideoError: it cannot be read.
    """
    path, digest = os.fspath(path), hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        reason = f"cannot be opened: {error.strerror}"
        raise BadVideoError(path, reason, transient=True) from error
    return digest.hexdigest()


def _check_regular(path: str) -> None:
    if os.path.isdir(path):
        try:
            os.scandir(path).close()
        except OSError as error:
            reason = f"it is a folder that cannot be listed: {error.strerror}"
            raise BadVideoError(path, reason) from None
        raise BadVideoError(path, "it is a folder")
    if os.path.exists(path) and not os.path.isfile(path):
        raise BadVideoError(path, "it is no regular file")


def _check_length(path: str) -> None:
    """Finds out from its header whether a video is too long, before all of it is decoded."""
    found = probe(path)
    length = float(found.length / found.rate) if found.rate else 0.0
    if length > LONGEST_SECONDS:
        raise BadVideoError(
            path,
            f"it lasts {spelled_time(length)}, and a clip at most {spelled_time(LONGEST_SECONDS)};"
            " cut the action out, or label it along its time with --window=2s",
        )


def spelled_time(seconds: float, decimals: int = 0) -> str:
    """Writes a time as `1:05` or `2:00:05`, with decimals of the seconds as `1:05.3`."""
    unit = 10**decimals
    minutes, rest = divmod(round(seconds * unit), 60 * unit)
    hours, minutes = divmod(minutes, 60)
    last = f"{rest / unit:0{decimals + 3 if decimals else 2}.{decimals}f}"
    return f"{hours}:{minutes:02d}:{last}" if hours else f"{minutes}:{last}"


def _of_file(path: str, rule: ClipRule, digest: str, deadline: Deadline) -> Clip:
    choose = _chooser(rule)

    def use(frame: np.ndarray, seconds: float | None) -> tuple[np.ndarray, np.ndarray, float]:
        moment = math.nan if seconds is None else seconds
        return resize_frames(frame[None], rule.resize)[0], thumbnail(frame), moment

    with one_video(path):
        _, numbers, kept = read_timed(path, choose, use, deadline)
    squares, thumbnails, times = zip(*(kept[n] for n in numbers.tolist()), strict=True)
    seconds = np.array(times)
    return Clip(
        name=printable(path),
        digest=digest,
        pixels=np.stack(squares),
        thumbnails=_same_size(thumbnails),
        numbers=np.asarray(numbers, np.int64),
        seconds=None if np.isnan(seconds).any() else seconds,
    )


def _array_digest(frames: np.ndarray) -> str:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise MoloError(
            f"an array of the shape {frames.shape} and the type {frames.dtype} is no clip; expected"
            " frames, height, width, 3 colors (RGB) of uint8"
        )
    digest = hashlib.sha256(repr(frames.shape).encode())
    digest.update(np.ascontiguousarray(frames).data)
    return digest.hexdigest()


def _of_array(frames: np.ndarray, rule: ClipRule, digest: str) -> Clip:
    numbers = np.arange(len(frames), dtype=np.int64)
    if len(frames) != rule.num_frames:
        # An array has no frame rate, so no window in seconds can be laid into it.
        segments = frame_chooser("segments", np.full(rule.num_frames, 0.5))
        numbers = segments(len(frames), 0.0)
    chosen = frames[numbers]
    return Clip(
        name=ARRAY,
        digest=digest,
        pixels=resize_frames(chosen, rule.resize),
        thumbnails=np.stack([thumbnail(frame) for frame in chosen]),
        numbers=numbers,
        seconds=None,
    )


def _chooser(rule: ClipRule):
    sampling = "window_middle" if rule.sampling == "window" else rule.sampling
    return frame_chooser(sampling, np.full(rule.num_frames, 0.5))


def thumbnail(frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Makes a frame small enough to be shown among many; smaller frames stay as they are."""
    height, width = frame.shape[:2]
    scale = THUMBNAIL / max(height, width)
    if scale >= 1:
        return frame
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(frame, size, None, 0, 0, cv2.INTER_AREA)


def _same_size(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Stacks frames; a video that changes its size on the way is shown in that of its first."""
    height, width = frames[0].shape[:2]
    return np.stack(
        [
            frame
            if frame.shape[:2] == (height, width)
            else cv2.resize(frame, (width, height), None, 0, 0, cv2.INTER_AREA)
            for frame in frames
        ]
    )
