"""Checks of a video file that need no decoder: is it readable, a video container, and whole?

Decoders open a truncated or damaged AVI, WebM or Matroska file without complaint and find fewer
frames in it. The containers state lengths, their own and those of their parts, so that a file that
was cut off can be told from its header, and a hole in it by walking from part to part.
"""

import os
import re
import stat
from typing import BinaryIO

import av

from molo_jax.errors import MoloError

_ISO_FIRST_BOXES = (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
_EBML_ID, _SEGMENT_ID, _CLUSTER_ID = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"
_CHUNK_NAME = re.compile(rb"[ -~]{4}")
# Some programs write the length of the whole file into the header of an AVI, where that of what
# follows the header belongs, or leave out the byte that makes the last chunk even.
_RIFF_SLACK = 8


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
    if head[4:8] in _ISO_FIRST_BOXES:
        return _iso_defect(file, size)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return _avi_defect(file, size, walk)
    if head[:4] == _EBML_ID:
        return _matroska_defect(file, size, walk)
    return _unknown_container_defect(file.name, head)


def _truncation(size: int, announced: int) -> str:
    if announced <= size:
        return ""
    return f"truncated: the header announces {announced} bytes, the file has {size}"


def _hole(offset: int) -> str:
    return f"damaged: at byte {offset} there is no frame where its container has one"


def _iso_defect(file: BinaryIO, size: int) -> str:
    """MP4 and QuickTime: a sequence of boxes, 4 bytes of length and 4 of type each.

    One of them lists the place of every frame, so that none can get lost silently.
    """
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


# AVI: one or, above 1 GB, several RIFF chunks, which hold lists of chunks and chunks; each has a
# name of 4 bytes, 4 bytes of length and, to be even, perhaps a byte of padding.


def _avi_defect(file: BinaryIO, size: int, walk: bool) -> str:
    offset = 0
    while offset + 8 <= size:
        name, length = _chunk(file, offset)
        if name != b"RIFF" or length == 0:  # trailing bytes, or a length that was never filled in
            break
        end = offset + 8 + length
        if end > size + _RIFF_SLACK:
            return _truncation(size, end)
        reason = _chunks_defect(file, offset + 12, min(end, size), size, walk)
        if reason:
            return reason
        offset = end
    return ""


def _chunks_defect(file: BinaryIO, offset: int, end: int, size: int, walk: bool) -> str:
    """Follows the chunks between two places, and if asked to those inside of `movi` lists."""
    while offset + 8 <= end:
        name, length = _chunk(file, offset)
        if not _CHUNK_NAME.fullmatch(name):
            return _hole(offset)
        if name == b"LIST" and length == 0:
            break  # its length was never filled in
        if offset + 8 + length > end:
            cut_off = end == size and _truncation(size, offset + 8 + length)
            return cut_off or _hole(offset)
        if walk and name == b"LIST" and file.read(4) in (b"movi", b"rec "):
            reason = _chunks_defect(file, offset + 12, offset + 8 + length, size, walk)
            if reason:
                return reason
        offset += 8 + length + _padding(file, offset + 8 + length, length)
    return ""


def _padding(file: BinaryIO, end: int, length: int) -> int:
    """Bytes between a chunk and the next, 0 or 1; there are programs that leave out the one."""
    if length % 2 == 0:
        return 0
    file.seek(end)
    name = file.read(5)
    unpadded = _CHUNK_NAME.fullmatch(name[:4]) and not _CHUNK_NAME.fullmatch(name[1:])
    return 0 if unpadded else 1


def _chunk(file: BinaryIO, offset: int) -> tuple[bytes, int]:
    file.seek(offset)
    header = file.read(8)
    return header[:4], int.from_bytes(header[4:], "little")


# WebM and Matroska: an EBML header and a segment, which holds clusters, which hold frames; each
# has an identifier of 1 to 4 bytes and a length of 1 to 8, None if it is not known.


def _matroska_defect(file: BinaryIO, size: int, walk: bool) -> str:
    file.seek(4)
    file.seek(_matroska_length(file) or 0, os.SEEK_CUR)
    if file.read(4) != _SEGMENT_ID:
        return ""
    length = _matroska_length(file)
    if length is None:
        return ""
    start = file.tell()
    reason = _truncation(size, start + length)
    if walk and not reason:
        reason = _elements_defect(file, start, start + length)
    return reason


def _elements_defect(file: BinaryIO, offset: int, end: int) -> str:
    """Follows the parts of a segment, and of clusters those inside."""
    while offset < end:
        file.seek(offset)
        name = _matroska_id(file)
        length = _matroska_length(file)
        start = file.tell()
        if name == _CLUSTER_ID and length is None:
            length = 0  # what is inside follows, up to the next cluster
        if not name or length is None or start + length > end:
            return _hole(offset)
        if name == _CLUSTER_ID:
            reason = _elements_defect(file, start, start + length)
            if reason:
                return reason
        offset = start + length
    return ""


def _matroska_id(file: BinaryIO) -> bytes:
    """An identifier; empty if there is none."""
    first = file.read(1)
    if not first or first[0] < 0x10:
        return b""
    return first + file.read(8 - first[0].bit_length())


def _matroska_length(file: BinaryIO) -> int | None:
    """A variable-length integer; None for the reserved value that means "unknown"."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    extra = 8 - first[0].bit_length()
    mask = (1 << (7 * (extra + 1))) - 1
    value = int.from_bytes(first + file.read(extra), "big") & mask
    return None if value == mask else value


def _unknown_container_defect(path: str, head: bytes) -> str:
    try:
        av.open(path, metadata_errors="replace").close()
    except (av.error.FFmpegError, ValueError):
        return f"not a video file (it begins with {head!r})"
    return ""
