"""Opens a file of torch.save: what it says of its tensors, and the numbers of the wanted ones.

There are two formats: a zip archive, whose parts are stored without compression, and the legacy
format, a few pickles with the numbers behind them. What is read at once is bounded before it is
read; the numbers of tensors that nobody asks for, such as those of an optimizer, are never read.
"""

import contextlib
import dataclasses
import io
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from molo_jax.weights.torch_pickle import PickleError, Storage, load

# Bytes of names, shapes and texts, and of an archive's table of contents. Those of a ResNet-50 with
# its optimizer take a tenth.
MAX_PICKLE = 2 * 2**20

_ZIP = b"PK"
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_COUNT_BYTES = 8


class TooLargeError(ValueError):
    """Something in the file is larger than what any network needs."""


@dataclasses.dataclass(frozen=True)
class Archive:
    """An open file of torch.save.

    Attributes:
        content: what was saved, with `torch_pickle.Tensor` where tensors were.
        read: returns the bytes of a storage, all of them.
    """

    content: Any
    read: Callable[[Storage], bytes]


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Opens a file of torch.save; the archive can be read until the context ends.

    Raises:
        CodeError: when the file holds code.
        TooLargeError: saying what is too large, its size and the limit.
        PickleError: when the file is no such file. A broken file can raise other errors too.
    """
    with _Bounded(path) as file:
        if file.read(len(_ZIP)) == _ZIP:
            with zipfile.ZipFile(file) as parts:
                file.limit = None
                yield _zip_archive(parts)
        else:
            file.limit = None
            yield _legacy_archive(file)


class _Bounded(io.FileIO):
    """A file of which `zipfile` reads no table of contents that is too large."""

    limit: int | None = MAX_PICKLE

    def read(self, size: int | None = -1) -> bytes:
        if self.limit and size and size > self.limit:
            raise TooLargeError(_too_large("the table of contents of the zip archive", size))
        return super().read(size)


def _too_large(what: str, size: int) -> str:
    return f"{what} has {size:,} bytes, and that of a network at most {MAX_PICKLE:,}"


def _zip_archive(parts: zipfile.ZipFile) -> Archive:
    for part in parts.infolist():
        if part.compress_type != zipfile.ZIP_STORED or part.file_size != part.compress_size:
            raise TooLargeError(
                f"its part {part.filename[:80]!r} is compressed, {part.compress_size:,} bytes that"
                f" become {part.file_size:,}, and torch.save does not compress; load the file in"
                " PyTorch and save it again, if you trust it"
            )
    names = [name for name in parts.namelist() if name.split("/")[1:] == ["data.pkl"]]
    if len(names) != 1:
        raise PickleError("an archive of something else")
    root = names[0].removesuffix("data.pkl")
    size = parts.getinfo(names[0]).file_size
    if size > MAX_PICKLE:
        raise TooLargeError(_too_large(f"{names[0][:80]!r}, the list of its tensors,", size))
    if f"{root}byteorder" in parts.namelist() and parts.open(f"{root}byteorder").read(9) == b"big":
        raise PickleError("numbers of a big-endian machine")

    def read(storage: Storage) -> bytes:
        name = f"{root}data/{storage.key}"
        if parts.getinfo(name).file_size != storage.nbytes:
            raise PickleError("a storage of another size")
        return parts.read(name)

    return Archive(load(io.BytesIO(parts.read(names[0])))[0], read)


def _legacy_archive(file: BinaryIO) -> Archive:
    file.seek(0)
    pickles = io.BytesIO(file.read(MAX_PICKLE))
    try:
        if [load(pickles)[0], load(pickles)[0]] != [_LEGACY_MAGIC, _LEGACY_PROTOCOL]:
            raise PickleError("a pickle of something else")
        if not load(pickles)[0]["little_endian"]:
            raise PickleError("numbers of a big-endian machine")
        content, storages = load(pickles)
        order, _ = load(pickles)
    except PickleError as error:
        size = os.fstat(file.fileno()).st_size
        if pickles.tell() >= MAX_PICKLE and size > MAX_PICKLE:
            raise TooLargeError(_too_large("the list of its tensors", size)) from error
        raise
    places, place = {}, pickles.tell()
    for storage in (storages[key] for key in order):
        # Behind the number of its numbers, which the pickle holds too.
        places[storage] = place + _COUNT_BYTES
        place += _COUNT_BYTES + storage.nbytes

    def read(storage: Storage) -> bytes:
        file.seek(places[storage] - _COUNT_BYTES)
        count = int.from_bytes(file.read(_COUNT_BYTES), "little")
        numbers = file.read(storage.nbytes)
        if count != storage.count or len(numbers) != storage.nbytes:
            raise PickleError("a storage of another size")
        return numbers

    return Archive(content, read)
