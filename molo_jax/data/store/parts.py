"""Reads record files: a whole record, whose hash is checked, or some of its bytes.

ArrayRecord gives whole records only. Of a record of 4 MB with 175 images a clip shows eight, so
that most of the time would be spent on bytes that nobody looks at. Where the bytes of a record lie
is said by the format below ArrayRecord
(https://github.com/google/riegeli/blob/master/doc/riegeli_records_file_format.md): a file is a
sequence of chunks, interrupted by a header of 24 bytes in front of every block of 64 KiB; a record
file of this project has one record in a chunk, not compressed.
"""

import functools
import os
import struct
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from array_record.python import array_record_module

# As ArrayRecord's own data source: single records are read, in any order.
_READER_OPTIONS = {"options": "readahead_buffer_size:0", "file_reader_buffer_size": 32768}
_BLOCK, _BLOCK_HEADER = 1 << 16, 24
_BLOCK_CONTENT = _BLOCK - _BLOCK_HEADER
# Hashes of the header and of the data, between them the size of the data; kind and number of
# records; size of the records when decoded. Behind it the data begin with the kind of compression.
_CHUNK_HEADER = struct.Struct("<QQQQQ")
_SIGNATURE, _SIMPLE_CHUNK_OF_ONE_RECORD = ord("s"), 1 << 8 | ord("r")
_UNCOMPRESSED = 0


class RecordFile:
    """A record file. All methods may be called from several threads.

    Args:
        path: where it is.
        records: how many records are in it.
    """

    def __init__(self, path: Path, records: int):
        self.path = path
        self._records = records
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._written: tuple[int, int] | None = None
        # Of each record, where its bytes begin in the content of the file, and how many they are.
        self._places: list[tuple[int, int] | None] | None = None

    def read(self, position: int) -> bytes:
        """Reads a record.

        Raises:
            RuntimeError, ValueError: the file is gone, or the record is damaged.
        """
        try:
            change = _last_change(self.path)
        except OSError as error:
            raise RuntimeError(error.strerror) from error
        return _reader(self.path, change).read([position])[0]

    def read_parts(
        self, position: int, size: int, ranges: Sequence[tuple[int, int]]
    ) -> list[bytes] | None:
        """Reads some of the bytes of a record, without looking at its hash.

        Args:
            position: number of the record.
            size: bytes of the record.
            ranges: where each part begins in the record, and where it has ended.

        Returns:
            The parts; None where only the whole record can be read: it is compressed, or the file
            was written to since the first of these calls.
        """
        with self._lock:
            if self._places is None:
                self._places = self._find_records()
        place = self._places[position] if position < len(self._places) else None
        if place is None or place[1] != size:
            return None
        try:
            if _last_change(self._descriptor) != self._written:
                return None
            parts = [_read(self._descriptor, place[0] + a, place[0] + b) for a, b in ranges]
        except OSError:
            return None
        whole = all(len(part) == b - a for part, (a, b) in zip(parts, ranges, strict=True))
        return parts if whole else None

    def _find_records(self) -> list[tuple[int, int] | None]:
        """Where the records are, None for a compressed one; less where the file is of other kind.

        Chunk follows chunk, and those in front of the last record hold the records in order.
        """
        places: list[tuple[int, int] | None] = []
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)
            self._written = _last_change(self._descriptor)
            at, end = 0, self._written[0]
            while len(places) < self._records and at < end:
                # The byte behind the header belongs to the data, or to a chunk that follows.
                head = _read(self._descriptor, at, at + _CHUNK_HEADER.size + 1)
                if len(head) <= _CHUNK_HEADER.size:
                    break
                _, size, _, kind, decoded = _CHUNK_HEADER.unpack_from(head)
                at += _CHUNK_HEADER.size + size
                if at > end:
                    break
                if kind == _SIMPLE_CHUNK_OF_ONE_RECORD:
                    plain = head[-1] == _UNCOMPRESSED and size == _plain_size(decoded)
                    places.append((at - decoded, decoded) if plain else None)
                elif kind != _SIGNATURE:
                    break
        except OSError:
            return []
        return places


@functools.lru_cache(maxsize=2)
def _reader(path: Path, change: tuple[int, int]) -> Any:
    """The library's reader of a file that was last written to at a time.

    Videos that are read one after the other are mostly of the same file.
    """
    del change
    return array_record_module.ArrayRecordReader(str(path), **_READER_OPTIONS)


def _plain_size(decoded: int) -> int:
    """Bytes of the data of a chunk with one record of so many bytes, not compressed.

    In front of the record stand the kind of compression, the length of its size, and its size,
    seven bits a byte.
    """
    return 2 + max(1, -(-decoded.bit_length() // 7)) + decoded


def _last_change(file: Path | int) -> tuple[int, int]:
    """Size and time of the last change of a path or a descriptor."""
    status = os.stat(file)
    return status.st_size, status.st_mtime_ns


def _read(descriptor: int, start: int, stop: int) -> bytes:
    """Bytes of the content of a file, without the block headers; fewer at the end of the file."""
    if start >= stop:
        return b""
    first, end = _in_file(start), _in_file(stop - 1) + 1
    found = os.pread(descriptor, end - first, first)
    headers = range((first // _BLOCK + 1) * _BLOCK, end, _BLOCK)
    if not headers:
        return found
    begins = [first, *(header + _BLOCK_HEADER for header in headers)]
    pieces = zip(begins, [*headers, end], strict=True)
    return b"".join(found[begin - first : close - first] for begin, close in pieces)


def _in_file(place: int) -> int:
    """Where a byte of the content is in the file."""
    block, within = divmod(place, _BLOCK_CONTENT)
    return block * _BLOCK + _BLOCK_HEADER + within
