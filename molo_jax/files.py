"""Files that are there as a whole or not at all, and errors that name the file."""

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from molo_jax.errors import MoloError

_REMEDIES = {
    errno.ENOSPC: "make room, then run the same command again",
    errno.EDQUOT: "make room within your quota, then run the same command again",
    errno.EFBIG: "allow larger files there (ulimit -f), then run the same command again",
    errno.EACCES: "make it writable, or choose another folder",
    errno.EPERM: "make it writable, or choose another folder",
    errno.EROFS: "choose another folder",
}


def failure(error: OSError) -> str:
    """Says why the operating system refused, and what helps."""
    reason = error.strerror or str(error) or type(error).__name__
    remedy = _REMEDIES.get(error.errno)
    return f"{reason}; {remedy}" if remedy else reason


@contextlib.contextmanager
def written(path: str | os.PathLike[str]) -> Iterator[None]:
    """Names the file in the error of a write to it, where the operating system does not.

    Raises:
        MoloError: with the file, the reason and a remedy.
    """
    try:
        yield
    except OSError as error:
        raise MoloError(f"{os.fspath(path)} cannot be written: {failure(error)}") from error


def write_json(path: Path, content: Mapping[str, Any], indent: int | None = 1) -> None:
    """Writes a JSON file under a temporary name first, then renames it.

    Raises:
        MoloError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with written(path):
            temporary.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
