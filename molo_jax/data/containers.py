"""Checks of a video file that need no decoder: is it readable, a video container, and whole?

Decoders open a truncated or damaged AVI, WebM or Matroska file without complaint and find fewer
frames in it. The containers state lengths, their own and those of their parts, so that a file that
was cut off can be told from its header, and a hole in it by walking from part to part.
"""

import os
import stat
from typing import BinaryIO

import av

from molo_jax.data import container_iso, container_pages, container_parts
from molo_jax.errors import MoloError

# The kinds of container that FFmpeg may choose among, for every opening of a file. Without this
# list a text file that is named like a video, a playlist for example, sends FFmpeg to other files.
_DEMUXERS = "mov,avi,matroska,asf,flv,gif,ogg,mpegts,mpeg,mpegvideo,h264,hevc,m4v"
OPEN_OPTIONS = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "file"}

# How the reason begins where the file system refuses; another time it may not.
CANNOT_OPEN = "cannot be opened"


class BadVideoError(MoloError):
    """A video file that cannot be used.

    Attributes:
        path: the file.
        reason: what is wrong with it.
    """

    def __init__(self, path: str, reason: str):
        super().__init__(f"bad video {path}: {reason}")
        self.path = path
        self.reason = reason


def check_file(path: str, *, walk: bool = False) -> None:
    """Checks that `path` is a readable, whole video file, as far as its container tells.

    Args:
        path: the file.
        walk: follow an AVI, WebM or Matroska file from frame to frame, reading their headers.
            A part whose bytes were lost makes a decoder skip to where it finds its way again,
            silently; here it is found.

    Raises:
        BadVideoError: it cannot be opened, is a directory, is empty, is no video container, is
            shorter than its header says, or its parts do not follow one another.
    """
    try:
        mode = os.stat(path).st_mode
        # Opening a pipe would wait for somebody to write to it; opening a folder says what it is.
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise BadVideoError(path, "not a regular file")
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            reason = _defect(file, status.st_size, walk)
    except OSError as error:
        raise BadVideoError(path, f"{CANNOT_OPEN}: {error.strerror}") from None
    if reason:
        raise BadVideoError(path, reason)


def _defect(file: BinaryIO, size: int, walk: bool) -> str:
    """What is wrong with the file, or an empty string."""
    if size == 0:
        return "the file is empty (0 bytes)"
    head = file.read(16)
    if head[4:8] in container_iso.FIRST_BOXES:
        return container_iso.iso_defect(file, size)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return container_parts.avi_defect(file, size, walk)
    if head[:4] == container_parts.EBML_ID:
        return container_parts.matroska_defect(file, size, walk)
    for start, defect in _BY_PAGES.items():
        if head.startswith(start):
            return defect(file, size)
    return _unknown_container_defect(file.name, head)


_BY_PAGES = {
    container_pages.ASF_HEADER: container_pages.asf_defect,
    b"FLV": container_pages.flash_defect,
    b"OggS": container_pages.ogg_defect,
    b"GIF8": container_pages.gif_defect,
}


def _unknown_container_defect(path: str, head: bytes) -> str:
    try:
        av.open(os.path.abspath(path), options=OPEN_OPTIONS, metadata_errors="replace").close()
    except (av.error.FFmpegError, ValueError):
        return f"not a video file (it begins with {head!r})"
    return ""
