"""Arrays and one JSON object in one file, which is checked while it is read.

The file is a zip archive without compression. Its first member holds JSON: the name and version of
the format, what the format says, and the SHA-256 of every other member. The others are NumPy's
`.npy` files. Nothing in it is code, no name in it is used as a path, and of a damaged or malicious
file no more is read than the file itself has bytes.
"""

import hashlib
import io
import json
import math
import re
import struct
import tokenize
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from molo_jax.errors import MoloError, shortened
from molo_jax.files import check_file, failure

# Bytes of a whole file, of its JSON, and of the table of contents of the zip archive; how many
# arrays it may have. The features of ten thousand clips keep far below them.
MAX_FILE = 4 * 2**30
MAX_JSON = 8 * 2**20
MAX_TABLE = 16 * 2**20
MAX_MEMBERS = 100_000
# What NumPy writes in front of the numbers: 6 bytes magic, 2 version, 2 length, a dictionary.
_MAX_NPY_HEADER = 10_000
# Without these no number has a meaning that all machines share.
DTYPES = frozenset({"<f2", "<f4", "<f8", "|u1", "|i1", "<i2", "<i4", "<i8", "|b1"})
_MEMBER = re.compile(r"[a-z0-9_]+(/[a-z0-9_]+)*")
_DIGEST = re.compile(r"[0-9a-f]{64}")
# The same bytes for the same content, whenever they are written.
_DATE = (1980, 1, 1, 0, 0, 0)
_OF_ZIPFILE = (
    *(zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, OverflowError),
    *(RuntimeError, struct.error),
)
_OF_NUMPY = (
    *(ValueError, TypeError, SyntaxError, tokenize.TokenError),
    *(MemoryError, RecursionError, OverflowError),
)
_MOST_AXES = 8
# The record at the end of a zip archive.
_END_BYTES = 22
_FORMAT, _VERSION, _MEMBERS = "format", "version", "members"


class DamagedError(ValueError):
    """A file is not what it should be: the message names the part, and what was expected."""


class OtherVersionError(DamagedError):
    """The file is of another version of its format."""


def write_container(
    path: Path,
    kind: str,
    version: int,
    header: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Writes arrays and their description; the caller gives a temporary name and renames it.

    Args:
        path: the file.
        kind: name of the format.
        version: its version, from 1.
        header: what is said of the arrays; values that JSON has.
        arrays: by their names, such as `weights/3`; see `DTYPES` for their types.

    Raises:
        ValueError: a value or a type that the format does not have.
        OSError: the file cannot be written.
    """
    members = {f"{name}.npy": _npy(name, array) for name, array in arrays.items()}
    described = {
        _FORMAT: kind,
        _VERSION: version,
        **header,
        _MEMBERS: {name: hashlib.sha256(data).hexdigest() for name, data in members.items()},
    }
    text = json.dumps(described, indent=1, allow_nan=False).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for name, data in {_header_name(kind): text, **members}.items():
            file.writestr(zipfile.ZipInfo(name, _DATE), data)


def read_container(
    path: Path, kind: str, version: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Reads what `write_container` has written, and believes nothing.

    Returns:
        The description without the three entries that every file has, and the arrays, which
        cannot be written to.

    Raises:
        DamagedError: the file is another one, or not as it was written. `OtherVersionError`: it is
            of another version.
        MoloError: there is no such file, or it cannot be read.
    """
    check_file(path, f"a file of the format {kind}")
    try:
        size = path.stat().st_size
        if size > MAX_FILE:
            raise DamagedError(f"it has {size:,} bytes, expected at most {MAX_FILE:,}")
        with _Bounded(path) as file, _opened(file) as archive:
            return _read(archive, size, kind, version)
    except OSError as error:
        raise MoloError(f"cannot read {path}: {failure(error)}") from error


class _Bounded(io.FileIO):
    """A file of which `zipfile` reads no table of contents that is too large."""

    limit: int | None = MAX_TABLE

    def read(self, size: int | None = -1) -> bytes:
        if self.limit and size and size > self.limit:
            raise DamagedError(
                f"the table of contents of its zip archive has {size:,} bytes, expected at most"
                f" {self.limit:,}"
            )
        return super().read(size)


def _opened(file: _Bounded) -> zipfile.ZipFile:
    begins = file.read(4)
    if begins != b"PK\x03\x04":
        raise DamagedError(f"it begins with {begins!r}, expected a zip archive")
    # The end of an archive is found behind anything else; here nothing may follow it.
    file.seek(max(0, file.seek(0, io.SEEK_END) - _END_BYTES))
    if file.read(4) != b"PK\x05\x06":
        raise DamagedError("it is cut off, or something stands behind the end of its zip archive")
    try:
        archive = zipfile.ZipFile(file)
    except DamagedError:
        raise
    # What zipfile raises for a damaged file is not documented.
    except _OF_ZIPFILE as error:
        raise DamagedError(_no_zip(error)) from error
    file.limit = None
    return archive


def _no_zip(error: Exception) -> str:
    return f"its zip archive cannot be read ({error or type(error).__name__})"


def _read(
    archive: zipfile.ZipFile, size: int, kind: str, version: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    parts = _parts(archive, size)
    header = _header(archive, parts, kind, version)
    expected = header.pop(_MEMBERS)
    found = set(parts) - {_header_name(kind)}
    for name in sorted(found ^ set(expected)):
        where = "is missing" if name in expected else "is not in the list of its members"
        raise DamagedError(f"the member {shortened(name)} {where}")
    arrays = {}
    for name, digest in expected.items():
        data = _content(archive, parts[name])
        if hashlib.sha256(data).hexdigest() != digest:
            raise DamagedError(f"the member {name} is not what was written: its SHA-256 differs")
        arrays[name.removesuffix(".npy")] = _array(name, data)
    return header, arrays


def _parts(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    parts: dict[str, zipfile.ZipInfo] = {}
    for part in archive.infolist():
        name = shortened(part.filename)
        if part.filename in parts:
            raise DamagedError(f"the member {name} is there twice")
        if part.compress_type != zipfile.ZIP_STORED or part.file_size != part.compress_size:
            raise DamagedError(
                f"the member {name} is compressed, {part.compress_size:,} bytes that become"
                f" {part.file_size:,}; expected members without compression"
            )
        if part.flag_bits & 1:
            raise DamagedError(f"the member {name} is encrypted")
        parts[part.filename] = part
    if len(parts) > MAX_MEMBERS:
        raise DamagedError(f"it has {len(parts):,} members, expected at most {MAX_MEMBERS:,}")
    # Members that share their bytes would become more than the file has.
    total = sum(part.file_size for part in parts.values())
    if total > size:
        raise DamagedError(f"its members have {total:,} bytes, and the file only {size:,}")
    return parts


def _content(archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> bytes:
    try:
        data = archive.read(part)
    except _OF_ZIPFILE as error:
        raise DamagedError(f"the member {shortened(part.filename)}: {_no_zip(error)}") from error
    if len(data) != part.file_size:
        raise DamagedError(f"the member {shortened(part.filename)} is cut off")
    return data


def _header(
    archive: zipfile.ZipFile, parts: Mapping[str, zipfile.ZipInfo], kind: str, version: int
) -> dict[str, Any]:
    name = _header_name(kind)
    if name not in parts:
        raise DamagedError(f"the member {name} is missing")
    if parts[name].file_size > MAX_JSON:
        raise DamagedError(
            f"the member {name} has {parts[name].file_size:,} bytes, expected at most {MAX_JSON:,}"
        )
    try:
        header = _json(_content(archive, parts[name]))
    except UnicodeDecodeError as error:
        raise DamagedError(f"the member {name} is no text in UTF-8 ({error.reason})") from error
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"the member {name} holds no JSON ({error})") from error
    if not isinstance(header, dict) or header.pop(_FORMAT, None) != kind:
        raise DamagedError(f"the member {name} does not say format: {kind!r}")
    found = header.pop(_VERSION, None)
    if type(found) is not int or found != version:
        raise OtherVersionError(
            f"it has version {shortened(str(found))} of its format, expected version {version}"
        )
    members = header.get(_MEMBERS)
    if not isinstance(members, dict) or not all(
        _MEMBER.fullmatch(key.removesuffix(".npy"))
        and key.endswith(".npy")
        and isinstance(value, str)
        and _DIGEST.fullmatch(value)
        for key, value in members.items()
    ):
        raise DamagedError(
            f"the member {name} has no list of members (names such as 'weights/3.npy', each with"
            " its SHA-256)"
        )
    return header


def _json(data: bytes) -> Any:
    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(found)
        if len(values) != len(found):
            raise ValueError("a name is there twice")
        return values

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"{shortened(text)} is no finite number")
        return value

    return json.loads(
        data.decode("utf-8"), object_pairs_hook=pairs, parse_float=number, parse_constant=number
    )


def _npy(name: str, array: np.ndarray) -> bytes:
    if not _MEMBER.fullmatch(name):
        raise ValueError(f"{name!r} cannot be the name of a member")
    array = np.asarray(array, order="C")
    if array.dtype.str not in DTYPES:
        raise ValueError(f"{name} is of the type {array.dtype}, which the format does not have")
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _array(name: str, data: bytes) -> np.ndarray:
    """Reads a `.npy` file; its numbers stay where they are, in the bytes of the member."""
    file = io.BytesIO(data)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("another version of .npy")
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(
            file, max_header_size=_MAX_NPY_HEADER
        )
    # NumPy reads the header as a Python literal, which can fail in as many ways.
    except _OF_NUMPY as error:
        reason = shortened(str(error).splitlines()[0] if str(error) else type(error).__name__)
        raise DamagedError(f"the member {name} is no .npy file ({reason})") from error
    if dtype.str not in DTYPES or by_column:
        what = "an array stored by columns" if by_column else f"of the type {shortened(dtype.str)}"
        raise DamagedError(
            f"the member {name} is {what}, expected rows of one of {', '.join(sorted(DTYPES))}"
        )
    if len(shape) > _MOST_AXES or not all(0 <= side <= MAX_FILE for side in shape):
        raise DamagedError(
            f"the member {name} has the shape {shortened(str(shape))}, expected at most"
            f" {_MOST_AXES} axes, none of them negative or above {MAX_FILE:,}"
        )
    wanted = math.prod(shape) * dtype.itemsize
    if len(data) - file.tell() != wanted:
        raise DamagedError(
            f"the member {name} has {len(data) - file.tell():,} bytes of numbers, expected"
            f" {wanted:,} for the shape {shortened(str(shape))} and the type {dtype}"
        )
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape)


def _header_name(kind: str) -> str:
    return f"{kind.rpartition(' ')[2]}.json"
