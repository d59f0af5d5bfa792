"""A `.npy` file that grows by rows and is written in place, without being mapped.

A write to a mapped file on a full disk ends the process; an ordinary write raises an error.
"""

import dataclasses
import io
import itertools
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int

from molo_jax.prediction.container import DamagedError

# Bytes of one call: macOS refuses 2 GiB and more.
_MOST_AT_ONCE = 2**30


@dataclasses.dataclass(frozen=True)
class ArrayFile:
    """An array on disk whose leading axis are rows.

    Attributes:
        path: the file.
        dtype: type of its numbers.
        shape: of one row.
    """

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]

    def bytes_of(self, rows: int) -> int:
        """Returns the size of the file with so many rows."""
        return len(self._header(rows)) + rows * self._row_bytes

    def check(self, rows: int, *, growing: int) -> None:
        """Checks that the file is as it was made.

        Args:
            rows: number of its rows.
            growing: the number that they are about to become; the file may have either size, or
                one between.

        Raises:
            DamagedError: it is absent, of another size, or of another kind.
        """
        size = self.path.stat().st_size if self.path.is_file() else None
        least, most = self.bytes_of(rows), self.bytes_of(growing)
        if not rows and growing and (size is None or size < least):
            return
        if size is None:
            raise DamagedError(f"{self.path.name} is missing")
        if not least <= size <= most:
            raise DamagedError(f"{self.path.name} has {size:,} bytes, expected {least:,}")
        # Where it grows, the header is about to be written.
        if rows == growing and self._begin() != self._header(rows):
            raise DamagedError(f"{self.path.name} does not begin as the bank says")

    def resize(self, rows: int) -> None:
        """Makes the file, or gives it another number of rows; new rows are zero.

        Raises:
            OSError: it cannot be written.
        """
        # Opened as it is: what it holds stays.
        number = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            os.ftruncate(number, self.bytes_of(rows))
            _write(number, memoryview(self._header(rows)), 0)
        finally:
            os.close(number)

    def put(self, rows: Int[np.ndarray, "r"], values: np.ndarray) -> None:
        """Writes rows.

        Args:
            rows: their numbers.
            values: (r, ...) of the type and the shape of the file.

        Raises:
            ValueError: the values are of another type or shape.
            OSError: they cannot be written.
        """
        if (values.dtype, values.shape) != (self.dtype, (len(rows), *self.shape)):
            raise ValueError(
                f"{self.path.name} got {values.dtype} {values.shape}, expected {self.dtype}"
                f" {(len(rows), *self.shape)}"
            )
        start = len(self._header(0))
        number = os.open(self.path, os.O_WRONLY)
        try:
            for first, stop in _runs(rows):
                data = np.ascontiguousarray(values[first:stop]).reshape(-1).view(np.uint8)
                _write(number, memoryview(data), start + int(rows[first]) * self._row_bytes)
        finally:
            os.close(number)

    def sync(self) -> None:
        """Waits until what was written is on the disk."""
        number = os.open(self.path, os.O_WRONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)

    def take(self, rows: Int[np.ndarray, "r"]) -> np.ndarray:
        """Reads rows into memory: (r, ...).

        Raises:
            DamagedError: the file ends before one of them.
            OSError: it cannot be read.
        """
        values = np.empty((len(rows), *self.shape), self.dtype)
        data, start = values.reshape(-1).view(np.uint8), len(self._header(0))
        with self.path.open("rb", buffering=0) as file:
            for first, stop in _runs(rows):
                part = memoryview(data)[first * self._row_bytes : stop * self._row_bytes]
                file.seek(start + int(rows[first]) * self._row_bytes)
                while len(part):
                    count = file.readinto(part)
                    if not count:
                        raise DamagedError(f"{self.path.name} is cut off")
                    part = part[count:]
        return values

    def mapped(self, rows: int) -> np.ndarray:
        """Returns the rows as a read-only array that lies in the file."""
        shape = (rows, *self.shape)
        if not math.prod(shape):
            return np.zeros(shape, self.dtype)
        return np.memmap(self.path, self.dtype, "r", len(self._header(rows)), shape)

    @property
    def _row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)

    def _begin(self) -> bytes:
        with self.path.open("rb") as file:
            return file.read(len(self._header(0)))

    def _header(self, rows: int) -> bytes:
        """What NumPy writes in front of the numbers; as long for any number of rows."""
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (rows, *self.shape),
        }
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(file, header)
        return file.getvalue()


def _runs(rows: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yields where runs of rows that lie behind one another begin and end."""
    if not len(rows):
        return
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    bounds = [0, *cuts.tolist(), len(rows)]
    yield from itertools.pairwise(bounds)


def _write(number: int, data: memoryview, offset: int) -> None:
    while len(data):
        done = os.pwrite(number, data[:_MOST_AT_ONCE], offset)
        data, offset = data[done:], offset + done
