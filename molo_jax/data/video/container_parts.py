"""AVI, WebM and Matroska: the lengths of a file and of its parts, followed from part to part.

The parts lie inside one another. A hostile file nests thousands of them, so they are followed with
a list of ends instead of recursion, and only so deep and so many as real files have.
"""

import re
from typing import BinaryIO

EBML_ID = b"\x1a\x45\xdf\xa3"
_SEGMENT_ID, _CLUSTER_ID = b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"
# Frames alone and in groups, which lie in clusters.
_FRAME_IDS = (b"\xa3", b"\xa0", b"\xaf")
# What may follow the frames: places to jump to, tags, attached files, chapters, filler, a checksum,
# contents, tracks and general information.
_OTHER_IDS = tuple(
    bytes.fromhex(name)
    for name in (
        *("1c53bb6b", "1254c367", "1941a469", "1043a770", "ec", "bf"),
        *("114d9b74", "1654ae6b", "1549a966"),
    )
)
_CHUNK_NAME = re.compile(rb"[ -~]{4}")
# Some programs write the length of the whole file into the header of an AVI, where that of what
# follows the header belongs, or leave out the byte that makes the last chunk even.
_RIFF_SLACK = 8
# Parts of a file, and how deep they lie inside one another; more than hours of film have.
_MOST_PARTS, _DEEPEST = 1 << 22, 8
_HOLE = re.compile(r"damaged: at byte (\d+) there is no frame .*")
_TOO_DEEP = f"damaged: its parts lie inside one another, more than {_DEEPEST} deep"
_TOO_MANY = f"damaged: it has more than {_MOST_PARTS} parts"


def truncation(size: int, announced: int) -> str:
    """Says that a file of `size` bytes is shorter than announced; empty if it is not."""
    if announced <= size:
        return ""
    return f"truncated: the header announces {announced} bytes, the file has {size}"


def _hole(offset: int) -> str:
    return f"damaged: at byte {offset} there is no frame where its container has one"


def hole_in(reason: str) -> int | None:
    """Returns the byte at which the parts of a file end to follow one another.

    Args:
        reason: what `avi_defect` or `matroska_defect` says of the file, walking through it.

    Returns:
        The byte; None if something else is wrong. Bytes of the frame before may be lost too.
    """
    found = _HOLE.fullmatch(reason)
    return int(found[1]) if found else None


# AVI: one or, above 1 GB, several RIFF chunks, which hold lists of chunks and chunks; each has a
# name of 4 bytes, 4 bytes of length and, to be even, perhaps a byte of padding. The frames lie in
# lists named `movi`; what follows these, such as the index `idx1`, may be cut off.


def avi_defect(file: BinaryIO, size: int, walk: bool) -> str:
    """Says what is wrong with an AVI file of `size` bytes, or returns an empty string.

    Args:
        file: the file.
        size: its bytes.
        walk: look inside the lists of frames too.
    """
    offset = 0
    for _ in range(_MOST_PARTS):
        name, length = _chunk(file, offset)
        if name != b"RIFF" or length == 0:  # trailing bytes, or a length that was never filled in
            return ""
        end = offset + 8 + length
        reason, has_frames = _chunks_defect(file, offset + 12, min(end, size), size, walk)
        if end > size + _RIFF_SLACK and not has_frames:
            return truncation(size, end)
        if reason:
            return reason
        offset = end
    return _TOO_MANY


def _chunks_defect(
    file: BinaryIO, offset: int, end: int, size: int, walk: bool
) -> tuple[str, bool]:
    """Follows the chunks between two places, and if asked to those inside of `movi` lists.

    Returns:
        What is wrong, and whether a whole `movi` list was met.
    """
    ends, has_frames = [end], False
    for _ in range(_MOST_PARTS):
        while ends and offset + 8 > ends[-1]:
            # The list is over; its own padding follows.
            inner = ends.pop()
            offset = max(offset, inner + _padding(file, inner, inner - offset)) if ends else offset
        if not ends:
            return "", has_frames
        name, length = _chunk(file, offset)
        if not _CHUNK_NAME.fullmatch(name):
            return "" if has_frames and len(ends) == 1 and end == size else _hole(
                offset
            ), has_frames
        if name == b"LIST" and length == 0:
            return "", has_frames  # its length was never filled in
        is_frames = name == b"LIST" and file.read(4) in (b"movi", b"rec ")
        stop = offset + 8 + length
        if stop > ends[-1]:
            if has_frames and not is_frames and len(ends) == 1 and end == size:
                return "", True  # what was cut off comes after the frames
            cut_off = ends[-1] == size and truncation(size, stop)
            return cut_off or _hole(offset), False
        has_frames = has_frames or is_frames
        if walk and is_frames:
            ends.append(stop)
            offset += 12
        else:
            offset = stop + _padding(file, stop, length)
        if len(ends) > _DEEPEST:
            return _TOO_DEEP, has_frames
    return _TOO_MANY, has_frames


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


def matroska_defect(file: BinaryIO, size: int, walk: bool) -> str:
    """Says what is wrong with a file of `size` bytes, or returns an empty string.

    Args:
        file: the file.
        size: its bytes.
        walk: look inside the clusters too.
    """
    file.seek(4)
    header = _matroska_length(file) or 0
    if (end := file.tell() + header) > size:
        return truncation(size, end)
    file.seek(end)
    if file.read(4) != _SEGMENT_ID:
        return ""
    length = _matroska_length(file)
    if length is None:
        return ""
    start = file.tell()
    end = start + length
    if end > size:
        if not (stop := _end_of_frames(file, start, size)):
            return truncation(size, end)
        end = stop
    return _elements_defect(file, start, end) if walk else ""


def _end_of_frames(file: BinaryIO, start: int, size: int) -> int:
    """Where the part begins that a file's end cuts; 0 if frames are or may be missing."""
    offset, has_frames = start, False
    for _ in range(_MOST_PARTS):
        if offset >= size:
            return 0
        file.seek(offset)
        name, length = _matroska_id(file), _matroska_length(file)
        if name == _CLUSTER_ID and length is None:
            length = 0  # what is inside follows, up to the next cluster
        is_frames = name == _CLUSTER_ID or name in _FRAME_IDS
        stop = file.tell() + (length or 0)
        if length is None or stop > size:
            return offset if has_frames and not is_frames and name in _OTHER_IDS else 0
        has_frames = has_frames or is_frames
        offset = stop
    return 0


def _elements_defect(file: BinaryIO, offset: int, end: int) -> str:
    """Follows the parts of a segment, and of clusters those inside."""
    ends, has_frames = [end], False
    for _ in range(_MOST_PARTS):
        while ends and offset >= ends[-1]:
            ends.pop()
        if not ends:
            return ""
        file.seek(offset)
        name, length = _matroska_id(file), _matroska_length(file)
        start = file.tell()
        if name == _CLUSTER_ID and length is None:
            length = 0  # what is inside follows, up to the next cluster
        if not name or length is None or start + length > ends[-1]:
            # A wrong length behind the frames does no harm.
            harmless = has_frames and len(ends) == 1 and name in _OTHER_IDS
            return "" if harmless else _hole(offset)
        has_frames = has_frames or name == _CLUSTER_ID
        if name == _CLUSTER_ID and length:
            ends.append(start + length)
            offset = start
        else:
            offset = start + length
        if len(ends) > _DEEPEST:
            return _TOO_DEEP
    return _TOO_MANY


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
