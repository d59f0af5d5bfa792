"""MP4 and QuickTime: are all bytes there that the samples (frames and sound) of a file refer to?

A file is a sequence of boxes: 4 bytes of length, 4 of kind, the content. The box `moov` says where
every sample lies; in a fragmented file each `moof` does so for the samples that follow it. What
comes after the last sample does not matter: players do not look at it either.
"""

from collections.abc import Iterator, Mapping
from typing import BinaryIO

import numpy as np

from molo_jax.data.video.container_parts import truncation

FIRST_BOXES = (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
# Boxes on the highest level, and bytes of one index: more than hours of film have.
_MOST_BOXES, _MOST_INDEX = 1 << 20, 256 << 20
_FURTHEST = 1 << 62

_Span = tuple[int, int]


def iso_defect(file: BinaryIO, size: int) -> str:
    """Says what is wrong with a file of `size` bytes, or returns an empty string."""
    defaults: dict[int, int] | None = None
    needed, announced = 0, 0
    for kind, offset, content, end in _top_boxes(file, size):
        if kind not in (b"moov", b"moof"):
            announced = end if kind in FIRST_BOXES else announced
            continue
        if end > size:
            return truncation(size, end)
        if end - content > _MOST_INDEX:
            return f"damaged: the index at byte {offset} takes more than {_MOST_INDEX >> 20} MiB"
        file.seek(content)
        index = memoryview(file.read(end - content))
        if kind == b"moov":
            defaults = _default_sizes(index)
            needed = max(needed, _movie_end(index))
        elif defaults is not None:
            needed = max(needed, _fragment_end(index, offset, defaults))
    if defaults is None:
        return truncation(size, announced) or "truncated: it has no index (no 'moov' box)"
    if needed > size:
        return f"truncated: its frames and sound reach to byte {needed}, the file has {size}"
    return ""


def _top_boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int, int]]:
    """The boxes of the highest level: kind, begin, begin of the content, end.

    The last one may end behind the file, and may be bytes that are no box.
    """
    offset = 0
    for _ in range(_MOST_BOXES):
        if offset + 8 > size:
            return
        file.seek(offset)
        header = file.read(16)
        length, content = int.from_bytes(header[:4], "big"), offset + 8
        if length == 1:
            length, content = int.from_bytes(header[8:16], "big"), offset + 16
        elif length == 0:
            length = size - offset
        if length < content - offset:
            return
        yield header[4:8], offset, content, offset + length
        offset += length


def _boxes(index: memoryview, span: _Span) -> Iterator[tuple[bytes, _Span]]:
    """The whole boxes between two places of an index: the kind, and where the content lies."""
    offset, end = span
    while offset + 8 <= end:
        length, content = _number(index, offset), offset + 8
        if length == 1:
            length, content = _number(index, offset + 8, 8), offset + 16
        elif length == 0:
            length = end - offset
        if length < content - offset or offset + length > end:
            return
        yield bytes(index[offset + 4 : offset + 8]), (content, offset + length)
        offset += length


def _inside(index: memoryview, span: _Span, *kinds: bytes) -> list[_Span]:
    """The contents of all boxes that are reached through boxes of these kinds."""
    spans = [span]
    for kind in kinds:
        spans = [inner for outer in spans for k, inner in _boxes(index, outer) if k == kind]
    return spans


def _number(index: memoryview, offset: int, width: int = 4) -> int:
    return int.from_bytes(index[offset : offset + width], "big")


def _table(index: memoryview, span: _Span, at: int, width: int = 4, columns: int = 1) -> np.ndarray:
    """The (n, columns) int64 numbers of a table that begins with their count."""
    begin, end = span
    row = width * columns
    count = max(0, min(_number(index, begin + at), (end - begin - at - 4) // row))
    content = index[begin + at + 4 : begin + at + 4 + count * row]
    values = np.frombuffer(content, f">u{width}").reshape(count, columns)
    return np.minimum(values.astype(np.uint64), np.uint64(_FURTHEST)).astype(np.int64)


def _movie_end(index: memoryview) -> int:
    """The first byte behind all samples that a `moov` lists."""
    ends = [0]
    for media in _inside(index, (0, len(index)), b"trak", b"mdia"):
        handlers = [bytes(index[a + 8 : a + 12]) for a, _ in _inside(index, media, b"hdlr")]
        if handlers[:1] not in ([b"vide"], [b"soun"]):
            continue
        for table in _inside(index, media, b"minf", b"stbl"):
            ends.append(_table_end(index, dict(_boxes(index, table)), handlers[0] == b"vide"))
    return max(ends)


def _table_end(index: memoryview, boxes: Mapping[bytes, _Span], is_video: bool) -> int:
    """The first byte behind the samples of a track: chunks of them, whose begins are listed."""
    if not {b"stsz", b"stsc"} <= boxes.keys() or not {b"stco", b"co64"} & boxes.keys():
        return 0
    wide = b"co64" in boxes
    chunks = _table(index, boxes[b"co64" if wide else b"stco"], 4, 8 if wide else 4)[:, 0]
    runs = _table(index, boxes[b"stsc"], 4, columns=3)
    if not len(chunks) or not len(runs):
        return 0
    run = np.searchsorted(runs[:, 0], np.arange(1, len(chunks) + 1), side="right") - 1
    ends = np.cumsum(runs[np.maximum(run, 0), 1])
    begin = boxes[b"stsz"][0]
    if one_size := _number(index, begin + 4):
        ends = np.minimum(ends, _number(index, begin + 8))
        # Old kinds of sound count the samples that they were before they were compressed.
        sizes = np.diff(ends, prepend=0) * (one_size if is_video else 0)
    else:
        samples = _table(index, boxes[b"stsz"], 8)[:, 0]
        places = np.concatenate([[0], np.cumsum(samples)])
        ends = np.minimum(ends, len(samples))
        sizes = np.diff(places[ends], prepend=0)
    filled = sizes > 0
    return int((chunks + sizes)[filled].max()) if filled.any() else 0


def _default_sizes(index: memoryview) -> dict[int, int]:
    """The size of the samples in fragments that state none, by the number of the track."""
    extends = _inside(index, (0, len(index)), b"mvex", b"trex")
    return {_number(index, a + 4): _number(index, a + 16) for a, b in extends if b - a >= 24}


def _fragment_end(index: memoryview, start: int, defaults: Mapping[int, int]) -> int:
    """The first byte behind the samples that a `moof`, which begins at `start`, lists."""
    last, place = 0, start
    for number, fragment in enumerate(_inside(index, (0, len(index)), b"traf")):
        boxes = list(_boxes(index, fragment))
        headers = [span for kind, span in boxes if kind == b"tfhd"]
        if not headers:
            continue
        at = headers[0][0]
        flags, track = _number(index, at), _number(index, at + 4)
        at += 8
        base = start if number == 0 or flags & 0x20000 else place
        if flags & 1:
            base, at = _number(index, at, 8), at + 8
        at += 4 * (bool(flags & 2) + bool(flags & 8))
        one_size = _number(index, at) if flags & 0x10 else defaults.get(track, 0)
        place = base
        for run in [span for kind, span in boxes if kind == b"trun"]:
            offset, length = _run(index, run, one_size)
            place = length + (place if offset is None else base + offset)
            last = max(last, place if length else 0)
    return last


def _run(index: memoryview, span: _Span, one_size: int) -> tuple[int | None, int]:
    """Where the samples of a `trun` begin, None for behind those before, and their bytes."""
    begin, end = span
    flags, count = _number(index, begin), _number(index, begin + 4)
    at, offset = begin + 8, None
    if flags & 1:
        offset = int.from_bytes(index[at : at + 4], "big", signed=True)
        at += 4
    at += 4 * bool(flags & 4)
    if not flags & 0x200:
        return offset, count * one_size
    columns = sum(bool(flags & bit) for bit in (0x100, 0x200, 0x400, 0x800))
    count = max(0, min(count, (end - at) // (4 * columns)))
    rows = np.frombuffer(index[at : at + 4 * columns * count], ">u4").reshape(count, columns)
    return offset, int(rows[:, int(bool(flags & 0x100))].sum(dtype=np.int64))
