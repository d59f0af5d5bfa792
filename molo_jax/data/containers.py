"""Checks of a video file that need no decoder: is it readable, a video container, and whole?

Decoders open a truncated or damaged AVI, WebM or Matroska file without complaint and find fewer
frames in it. The containers state lengths, their own and those of their parts, or the places of
their frames, so that it can be told from them whether bytes of frames are missing.

Files of strangers are opened with `open_container` only: FFmpeg also has "formats" that are lists
of other files or of network addresses, and chooses by the content, whatever the name of the file.
"""

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO

import av

from molo_jax.data.container_iso import FIRST_BOXES, iso_defect
from molo_jax.data.container_pages import (
    ASF_HEADER,
    OggPages,
    asf_defect,
    flash_defect,
    gif_defect,
    ogg_defect,
)
from molo_jax.data.container_parts import EBML_ID, avi_defect, matroska_defect
from molo_jax.errors import MoloError

# The containers that are known by their first bytes, by FFmpeg's names, with the check of each.
_CHECKS: Mapping[str, Callable[[BinaryIO, int, bool], str]] = {
    "mov": lambda file, size, walk: iso_defect(file, size),
    "avi": avi_defect,
    "matroska": matroska_defect,
    "asf": lambda file, size, walk: asf_defect(file, size),
    "flv": lambda file, size, walk: flash_defect(file, size),
    "gif": lambda file, size, walk: gif_defect(file, size),
    "ogg": lambda file, size, walk: ogg_defect(file, size),
}
# Program and transport streams and videos without a container, which FFmpeg must recognize. They
# state no lengths and may begin and end anywhere.
STREAMS = ("mpeg", "mpegts", "mpegvideo", "m4v", "h264", "hevc", "ivf")
# None of these opens a second file. What is not on the list is refused, so that it does no harm
# if FFmpeg learns new formats.
_OPTIONS = {"format_whitelist": ",".join((*_CHECKS, *STREAMS)), "protocol_whitelist": "file"}


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

    It is looked at between packets and between frames, and while FFmpeg searches in a file. Not
    interrupted are: one packet while it is decoded, a jump of decord, and a file system that does
    not answer.

    Args:
        seconds: from now on; None for no limit.
    """

    def __init__(self, seconds: float | None = None):
        self._seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float | None:
        """Seconds that are left, at least a thousandth; None for no limit."""
        return None if self._end is None else max(self._end - time.monotonic(), 1e-3)

    def check(self, path: str) -> None:
        """Checks that there is time left.

        Raises:
            BadVideoError: there is none.
        """
        if self._end is not None and time.monotonic() > self._end:
            reason = f"reading it took longer than {self._seconds:g} s"
            raise BadVideoError(path, reason, transient=True)


UNLIMITED = Deadline()


@contextlib.contextmanager
def as_bad_video(path: str) -> Iterator[None]:
    """Makes every exception that is raised while a video is read that video's.

    One file must not stop the work on all others. The type of an exception that nobody expected
    is named, since it may as well be a mistake in a program.

    Raises:
        BadVideoError: in place of any other exception that is no MoloError.
    """
    try:
        yield
    except MoloError:
        raise
    except MemoryError as error:
        reason = "there was not enough memory for its frames"
        raise BadVideoError(path, reason, transient=True) from error
    except OSError as error:
        raise BadVideoError(path, f"cannot be opened: {error.strerror}", transient=True) from None
    except Exception as error:
        reason = f"reading it failed unexpectedly ({type(error).__name__}: {error})"
        raise BadVideoError(path, reason) from error


@contextlib.contextmanager
def open_container(
    path: str, deadline: Deadline = UNLIMITED
) -> Iterator[av.container.InputContainer]:
    """Opens a file as one of the known containers; FFmpeg opens no other file on its behalf.

    Raises:
        av.error.FFmpegError: it is none of them, or damaged.
        BadVideoError: it took too long.
    """
    with _ffmpeg_source(path) as (source, name):
        try:
            with av.open(
                source,
                format=name,
                container_options=_OPTIONS,
                metadata_errors="replace",  # titles in old AVI files are in any encoding
                timeout=deadline.left(),
            ) as container:
                yield container
        except av.error.ExitError:
            deadline.check(path)
            raise


@contextlib.contextmanager
def _ffmpeg_source(path: str) -> Iterator[tuple[str | OggPages, str | None]]:
    """What FFmpeg is to read, and the name of the format, None where FFmpeg has to find out."""
    with open(path, "rb") as file:
        known = identify(file.read(16))
        if known == "ogg":
            yield OggPages(file, os.fstat(file.fileno()).st_size), None
            return
    # FFmpeg takes what precedes a colon for a protocol, unless a slash comes before. A name such
    # as a%d.gif would be taken for a row of images.
    yield os.path.abspath(path), "gif" if known == "gif" else None


def identify(head: bytes) -> str:
    """FFmpeg's name of the container that begins with 16 such bytes; empty if it is not known."""
    if head[4:8] in FIRST_BOXES:
        return "mov"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    beginnings = {EBML_ID: "matroska", ASF_HEADER: "asf", b"FLV": "flv", b"OggS": "ogg"}
    beginnings |= {b"GIF87a": "gif", b"GIF89a": "gif"}
    return next((name for start, name in beginnings.items() if head.startswith(start)), "")


def check_file(path: str, *, walk: bool = False) -> str:
    """Checks that `path` is a readable, whole video file, as far as its container tells.

    What follows the last byte of the frames may be missing, or be anything.

    Args:
        path: the file.
        walk: follow an AVI, WebM or Matroska file from frame to frame, reading their headers.
            A part whose bytes were lost makes a decoder skip to where it finds its way again,
            silently; here it is found.

    Returns:
        FFmpeg's name of the container, for those with known first bytes: "mov" for MP4; otherwise
        an empty string.

    Raises:
        BadVideoError: it cannot be opened, is a directory, is empty, is no video container, lacks
            bytes of its frames, or its parts do not follow one another.
    """
    with as_bad_video(path):
        mode = os.stat(path).st_mode
        # Opening a pipe would wait for somebody to write to it; opening a folder says what it is.
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise BadVideoError(path, "not a regular file")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(16)
            reason = _defect(path, file, size, head, walk)
    if reason:
        raise BadVideoError(path, reason)
    return identify(head)


def _defect(path: str, file: BinaryIO, size: int, head: bytes, walk: bool) -> str:
    """What is wrong with the file, or an empty string."""
    if size == 0:
        return "the file is empty (0 bytes)"
    if name := identify(head):
        return _CHECKS[name](file, size, walk)
    try:
        with open_container(path):
            return ""
    except (av.error.FFmpegError, ValueError):
        return f"not a video file (it begins with {head!r})"
