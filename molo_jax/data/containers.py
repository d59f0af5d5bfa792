"""Checks of a video file that need no decoder: is it readable, a video container, and whole?

Decoders open a truncated AVI, WebM or Matroska file without complaint and find fewer frames in it.
The containers state their own length, so that a file that was cut off can be told from its header.
"""

import os
import stat
from typing import BinaryIO

import av

from molo_jax.errors import MoloError

_ISO_FIRST_BOXES = (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
_EBML_ID, _SEGMENT_ID = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


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


def check_file(path: str) -> None:
    """Checks that `path` is a readable, whole video file, as far as its container tells.

    Raises:
        BadVideoError: it cannot be opened, is a directory, is empty, is no video container, or is
            shorter than its header says.
    """
    try:
        mode = os.stat(path).st_mode
        # Opening a pipe would wait for somebody to write to it; opening a folder says what it is.
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise BadVideoError(path, "not a regular file")
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            reason = _defect(file, status.st_size)
    except OSError as error:
        raise BadVideoError(path, f"cannot be opened: {error.strerror}") from None
    if reason:
        raise BadVideoError(path, reason)


def _defect(file: BinaryIO, size: int) -> str:
    """What is wrong with the file, or an empty string."""
    if size == 0:
        return "the file is empty (0 bytes)"
    head = file.read(16)
    if head[4:8] in _ISO_FIRST_BOXES:
        return _iso_defect(file, size)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return _truncation(size, _riff_end(file, size))
    if head[:4] == _EBML_ID:
        return _truncation(size, _matroska_end(file))
    return _unknown_container_defect(file.name, head)


def _truncation(size: int, announced: int) -> str:
    if announced <= size:
        return ""
    return f"truncated: the header announces {announced} bytes, the file has {size}"


def _iso_defect(file: BinaryIO, size: int) -> str:
    """MP4 and QuickTime: a sequence of boxes, 4 bytes of length and 4 of type each."""
    offset, has_index = 0, False
    while offset + 8 <= size:
        file.seek(offset)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        elif length == 0:
            length = size - offset
        if length < 8:
            break  # not a box: trailing bytes, which players ignore too
        has_index = has_index or kind == b"moov"
        offset += length
        if offset > size:
            return _truncation(size, offset)
    return "" if has_index else "truncated: it has no index (no 'moov' box)"


def _riff_end(file: BinaryIO, size: int) -> int:
    """AVI: one or, above 1 GB, several RIFF chunks; length 0 was never filled in."""
    end = 0
    while end + 8 <= size:
        file.seek(end)
        header = file.read(8)
        length = int.from_bytes(header[4:], "little")
        if header[:4] != b"RIFF" or length == 0:
            break
        end += 8 + length
    return end


def _matroska_end(file: BinaryIO) -> int:
    """WebM and Matroska: an EBML header and a segment, each with its length; 0 if unknown."""
    file.seek(4)
    header_length = _matroska_length(file)
    file.seek(header_length, os.SEEK_CUR)
    if file.read(4) != _SEGMENT_ID:
        return 0
    length = _matroska_length(file)
    return file.tell() + length if length else 0


def _matroska_length(file: BinaryIO) -> int:
    """A variable-length integer; 0 for the reserved value that means "unknown"."""
    first = file.read(1)
    if not first or first[0] == 0:
        return 0
    extra = 8 - first[0].bit_length()
    mask = (1 << (7 * (extra + 1))) - 1
    value = int.from_bytes(first + file.read(extra), "big") & mask
    return 0 if value == mask else value


def _unknown_container_defect(path: str, head: bytes) -> str:
    # decord would print to the terminal that it cannot open the file, PyAV raises.
    try:
        av.open(path).close()
    except (av.error.FFmpegError, ValueError):
        return f"not a video file (it begins with {head!r})"
    return ""
