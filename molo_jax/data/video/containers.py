"""Checks of a video file that need no decoder: is it readable, a video container, and whole?

Decoders open a truncated or damaged AVI, WebM or Matroska file without complaint and find fewer
frames in it. The containers state lengths, their own and those of their parts, so that a file that
was cut off can be told from its header, and a hole in it by walking from part to part.
"""

import contextlib
import math
import os
import stat
import time
from collections.abc import Iterator
from typing import BinaryIO

import av

from molo_jax.data.video import container_iso, container_pages, container_parts
from molo_jax.errors import MoloError

# The containers that are known by their first bytes, by FFmpeg's names of them.
_BY_FIRST_BYTES = ("mov", "avi", "matroska", "asf", "flv", "gif", "ogg")
# Program and transport streams and videos without a container, which FFmpeg must recognize. They
# state no lengths and may begin and end anywhere.
STREAMS = ("mpegts", "mpeg", "mpegvideo", "h264", "hevc", "m4v")
# The kinds of container that FFmpeg may choose among, for every opening of a file. Without this
# list a text file that is named like a video, a playlist for example, sends FFmpeg to other files.
_OPEN_OPTIONS = {
    "format_whitelist": ",".join((*_BY_FIRST_BYTES, *STREAMS)),
    "protocol_whitelist": "file",
}


class BadVideoError(MoloError):
    """A video file that cannot be used.

    Attributes:
        path: the file.
        reason: what is wrong with it.
        transient: whether another try may do better: the file system refused, there was not
            enough memory, or it took too long.
    """

    def __init__(self, path: str, reason: str, *, transient: bool = False):
        super().__init__(f"bad video {path}: {reason}")
        self.path = path
        self.reason = reason
        self.transient = transient


class Deadline:
    """When the reading of a video has to be over.

    It is looked at between packets and between frames, and by FFmpeg while it searches in a file.
    Not interrupted are one packet while it is decoded, a jump of decord, and a file system that
    does not answer.

    Args:
        seconds: from now on.
    """

    def __init__(self, seconds: float = math.inf):
        self._seconds, self._end = seconds, time.monotonic() + seconds

    def left(self) -> float | None:
        """Seconds that are left, at least a thousandth; None if there is no limit."""
        return None if self._end == math.inf else max(self._end - time.monotonic(), 1e-3)

    def check(self, path: str) -> None:
        """Checks that there is time left for the reading of a file.

        Raises:
            BadVideoError: there is none.
        """
        if time.monotonic() > self._end:
            reason = f"reading it takes longer than {self._seconds:g} s"
            raise BadVideoError(path, reason, transient=True)


UNLIMITED = Deadline()

# Titles in old AVI files are in any encoding. PyAV 19 replaces what it cannot read without being
# asked to, and refuses the option.
_ANY_TITLES = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


@contextlib.contextmanager
def open_container(
    path: str, deadline: Deadline = UNLIMITED
) -> Iterator[av.container.InputContainer]:
    """Opens a file as one of the known containers; FFmpeg opens no other file on its behalf.

    Raises:
        av.error.FFmpegError: it is none of them, or damaged.
        BadVideoError: the file system refuses, or the time is up.
    """
    with _ffmpeg_source(path) as source:
        try:
            with av.open(
                source,
                options=_OPEN_OPTIONS,
                timeout=deadline.left(),
                **_ANY_TITLES,
            ) as container:
                yield container
        except av.error.ExitError:  # FFmpeg was interrupted
            deadline.check(path)
            raise


@contextlib.contextmanager
def _ffmpeg_source(path: str) -> Iterator[str | container_pages.OggPages]:
    """What FFmpeg is to read: the name of the file, or for Ogg its pages alone."""
    with _open_file(path) as file:
        if identify(file.read(16)) == "ogg":
            yield container_pages.OggPages(file, os.fstat(file.fileno()).st_size)
            return
    # FFmpeg takes what precedes a colon for a protocol, unless a slash comes before.
    yield os.path.abspath(path)


def _refusal(path: str, error: OSError) -> BadVideoError:
    return BadVideoError(path, f"cannot be opened: {error.strerror}", transient=True)


def _open_file(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise _refusal(path, error) from None


def identify(head: bytes) -> str:
    """FFmpeg's name of the container that begins with 16 such bytes; empty if it is not known."""
    if head[4:8] in container_iso.FIRST_BOXES:
        return "mov"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    return next((name for start, name in _BEGINNINGS.items() if head.startswith(start)), "")


_BEGINNINGS = {
    container_parts.EBML_ID: "matroska",
    container_pages.ASF_HEADER: "asf",
    b"FLV": "flv",
    b"OggS": "ogg",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
}


def check_file(path: str, *, walk: bool = False) -> str:
    """Checks that `path` is a readable, whole video file, as far as its container tells.

    What follows the last byte of the frames may be missing, or be anything.

    Args:
        path: the file.
        walk: follow an AVI, WebM or Matroska file from frame to frame, reading their headers.
            A part whose bytes were lost makes a decoder skip to where it finds its way again,
            silently; here it is found.

    Returns:
        What the file begins like, see `identify`.

    Raises:
        BadVideoError: it cannot be opened, is a directory, is empty, is no video container, lacks
            bytes of its frames, or its parts do not follow one another.
    """
    try:
        mode = os.stat(path).st_mode
        # Opening a pipe would wait for somebody to write to it; opening a folder says what it is.
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise BadVideoError(path, "not a regular file")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(16)
            reason = _defect(path, file, size, head, walk)
    except OSError as error:
        raise _refusal(path, error) from None
    if reason:
        raise BadVideoError(path, reason)
    return identify(head)


def _defect(path: str, file: BinaryIO, size: int, head: bytes, walk: bool) -> str:
    """What is wrong with the file, or an empty string."""
    if size == 0:
        return "the file is empty (0 bytes)"
    match identify(head):
        case "mov":
            return container_iso.iso_defect(file, size)
        case "avi":
            return container_parts.avi_defect(file, size, walk)
        case "matroska":
            return container_parts.matroska_defect(file, size, walk)
        case "asf":
            return container_pages.asf_defect(file, size)
        case "flv":
            return container_pages.flash_defect(file, size)
        case "ogg":
            return container_pages.ogg_defect(file, size)
        case "gif":
            return container_pages.gif_defect(file, size)
    try:
        with open_container(path):
            return ""
    except (av.error.FFmpegError, ValueError):
        return f"not a video file (it begins with {head!r})"
