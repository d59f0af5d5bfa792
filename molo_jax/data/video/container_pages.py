"""ASF (.wmv), Flash (.flv), GIF and Ogg (.ogv): is the last of a file's parts whole?

Bytes behind the last part that are no part themselves do not matter.
"""

import io
import os
from typing import Any, BinaryIO

ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_MOST_PARTS = 1 << 22


def _cut(kind: str, offset: int, end: int, size: int) -> str:
    return f"truncated: the {kind} at byte {offset} ends at {end}, the file at {size}"


def asf_defect(file: BinaryIO, size: int) -> str:
    """Says whether the frames of an ASF file of `size` bytes are cut off, else returns ""."""
    file.seek(16)
    offset = int.from_bytes(file.read(8), "little")
    if offset + 24 > size:
        return _cut("header", 0, offset + 24, size)
    file.seek(offset)
    name, length = file.read(16), int.from_bytes(file.read(8), "little")
    if name == _ASF_DATA and offset + length > size:
        return _cut("part with the frames", offset, offset + length, size)
    return ""


def flash_defect(file: BinaryIO, size: int) -> str:
    """Says whether the last tag of an FLV file of `size` bytes is cut off, else returns ""."""
    file.seek(5)
    # Before each tag stands the length of the one before.
    offset = int.from_bytes(file.read(4), "big") + 4
    for _ in range(_MOST_PARTS):
        file.seek(offset)
        tag = file.read(11)
        is_tag = len(tag) == 11 and tag[0] in (8, 9, 18) and tag[8:11] == bytes(3)
        if not is_tag:
            return ""
        end = offset + 11 + int.from_bytes(tag[1:4], "big")
        if end > size:
            return _cut("part", offset, end, size)
        offset = end + 4
    return ""


def ogg_defect(file: BinaryIO, size: int) -> str:
    """Says whether a page of an Ogg file of `size` bytes is cut off or lost, else returns ""."""
    offset, end = _last_page(file, size)
    if end > size:
        return _cut("page", offset, end, size)
    if _page_follows(file, end):
        return f"damaged: at byte {end} there is no page where its container has one"
    return ""


def _page_follows(file: BinaryIO, offset: int) -> bool:
    """Whether there is the beginning of a page anywhere behind a place."""
    file.seek(offset)
    rest = b""
    while block := file.read(1 << 20):
        if b"OggS" in rest + block:
            return True
        rest = block[-3:]
    return False


class OggPages(io.RawIOBase):
    """The pages of an Ogg file, without the bytes behind them, in which FFmpeg would search.

    Args:
        file: the file, which stays open.
        size: its bytes.
    """

    def __init__(self, file: BinaryIO, size: int):
        super().__init__()
        self._file = file
        self._end = min(_last_page(file, size)[1] or size, size)
        file.seek(0)

    def readable(self) -> bool:
        """As of every file."""
        return True

    def seekable(self) -> bool:
        """As of every file."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Reads up to the end of the last page."""
        return self._file.readinto(memoryview(buffer)[: max(self._end - self._file.tell(), 0)])

    def tell(self) -> int:
        """The place in the file."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to a place, which counts from the end of the last page for `SEEK_END`."""
        start = self._end if whence == os.SEEK_END else 0
        return self._file.seek(start + offset, whence if not start else os.SEEK_SET)


def _last_page(file: BinaryIO, size: int) -> tuple[int, int]:
    """Where the last of the pages that follow one another begins and ends."""
    last, offset = 0, 0
    for _ in range(_MOST_PARTS):
        file.seek(offset)
        header = file.read(27)
        if header[:4] != b"OggS":
            break
        count = header[26] if len(header) == 27 else 0
        last, offset = offset, offset + 27 + count + sum(file.read(count))
        if offset > size:
            break
    return last, offset


def gif_defect(file: BinaryIO, size: int) -> str:
    """Says whether the last image of a GIF file of `size` bytes is cut off, else returns ""."""
    file.seek(10)
    flags = file.read(3)[:1]
    offset = 13 + _colors(flags)
    for _ in range(_MOST_PARTS):
        file.seek(offset)
        kind = file.read(1)
        if kind == b"!":
            start = offset + 2
        elif kind == b",":
            start = offset + 11 + _colors(file.read(9)[8:9])
        else:  # the end, or bytes that are no part
            return ""
        end = _blocks_end(file, start)
        if end > size and kind == b",":
            return _cut("image", offset, end, size)
        offset = end
    return ""


def _colors(flags: bytes) -> int:
    """Bytes of a table of colors."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _blocks_end(file: BinaryIO, offset: int) -> int:
    """The first byte behind blocks of up to 255 bytes, the last of which is empty."""
    file.seek(offset)
    while length := file.read(1):
        offset += 1 + length[0]
        if not length[0]:
            return offset
        file.seek(offset)
    return offset + 1
