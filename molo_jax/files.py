"""Files that are there as a whole or not at all, locks, and errors that name the file."""

import contextlib
import ctypes
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from absl import logging

from molo_jax.errors import MoloError, shortened

# How tensorstore quotes the operating system.
_OS_ERROR = re.compile(r"os_error_code='(\d+)'")

_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
# Swap the two names: of <linux/fs.h>, and of macOS's <sys/stdio.h>.
_RENAME_EXCHANGE, _RENAME_SWAP = 2, 2
# Of <fcntl.h>: paths are relative to the current folder.
_AT_FDCWD = -100
# What a kernel or a file system answers that cannot swap two names.
_CANNOT_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM)
_REMEDIES = {
    errno.ENOSPC: "make room, then run the same command again",
    errno.EDQUOT: "make room within your quota, then run the same command again",
    errno.EFBIG: "allow larger files there (ulimit -f), then run the same command again",
    errno.EACCES: "make it writable, or choose another folder",
    errno.EPERM: "make it writable, or choose another folder",
    errno.EROFS: "choose another folder",
}


class InUseError(MoloError):
    """Another process holds a lock."""


def safe_name(name: str) -> str:
    """Returns a user's own word as a part of a file's name."""
    return re.sub(r"[^\w.-]", "-", name).lstrip(".")


def kind_of(path: Path) -> str:
    """Returns what is at a path, in words such as `a folder` or `a named pipe (FIFO)`."""
    return _KINDS.get(stat.S_IFMT(path.stat().st_mode), "no file")


def check_file(path: Path, wanted: str) -> None:
    """Checks that a path is a regular file, without opening it: to open a pipe would wait.

    Args:
        path: the file.
        wanted: what it should be, such as `a PyTorch file`.

    Raises:
        MoloError: saying that it does not exist, or what it is.
    """
    if not path.exists():
        if path.is_symlink():
            raise MoloError(f"{path} is a link to {os.readlink(path)}, which does not exist")
        raise MoloError(f"{path} does not exist")
    if not path.is_file():
        raise MoloError(f"{path} is {kind_of(path)}, not {wanted}")


def read_json(path: Path, remedy: str) -> Any:
    """Reads a JSON file, whatever may be in it.

    Args:
        path: the file.
        remedy: what to do where it is damaged, as the end of a message.

    Raises:
        MoloError: the file cannot be read, or holds no JSON.
    """
    try:
        return parse_json(path.read_bytes())
    except OSError as error:
        raise MoloError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise MoloError(f"{path} is damaged ({error}); {remedy}") from error


def parse_json(text: str | bytes) -> Any:
    """Parses JSON.

    Raises:
        ValueError: it is none, is not UTF-8, or its parts lie too deeply inside one another.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its parts lie too deeply inside one another") from None


def checked_fields(kind: type, values: Any) -> dict[str, Any]:
    """Checks that values, as read from JSON, have the names and types of a dataclass's fields.

    Args:
        kind: a dataclass whose fields are of plain types.
        values: a value for each field that has no default.

    Raises:
        ValueError: naming a field that is unknown or of another type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{shortened(str(values))} is no object")
    types = {field.name: field.type for field in dataclasses.fields(kind)}
    for name, value in values.items():
        if name not in types:
            raise ValueError(f"{shortened(str(name))} is not known")
        # A truth value counts as a whole number in Python.
        if type(value) is not types[name]:
            raise ValueError(f"{name} is {shortened(str(value))}, expected {types[name].__name__}")
    return values


def failure_of_storage(error: Exception) -> str:
    """Says in one line what the operating system said, which tensorstore wraps in many lines."""
    found = _OS_ERROR.search(str(error))
    if found:
        return failure(OSError(int(found[1]), os.strerror(int(found[1]))))
    if isinstance(error, OSError):
        return failure(error)
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def failure(error: OSError) -> str:
    """Says why the operating system refused, and what helps."""
    reason = error.strerror or str(error) or type(error).__name__
    remedy = _REMEDIES.get(error.errno)
    return f"{reason}; {remedy}" if remedy else reason


def bytes_of(paths: Iterable[Path]) -> int:
    """Adds up the sizes of files; others may move or remove these, and their folders, meanwhile.

    Where a folder is gone while it is looked through, what was found so far counts.
    """
    total = 0
    with contextlib.suppress(OSError):
        for path in paths:
            with contextlib.suppress(OSError):
                total += path.stat().st_size if path.is_file() else 0
    return total


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


@contextlib.contextmanager
def replacing(path: Path, temporary: Path | None = None) -> Iterator[Path]:
    """Gives the name under which to write a file that then takes its place as a whole.

    If the block raises, nothing stays: neither under the temporary name nor half written in place.

    Args:
        path: the file that appears, or is replaced.
        temporary: the temporary name, in the same folder; by default one of this process alone.
    """
    temporary = temporary or path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any], indent: int | None = 1) -> None:
    """Writes a JSON file under a temporary name first, then renames it.

    Raises:
        MoloError: it cannot be written.
    """
    with written(path):
        write_text(path, json.dumps(content, indent=indent) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text as UTF-8 under a temporary name first, then renames it."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def new_name(path: Path) -> Path:
    """Returns the name that something has beside its place until it is complete."""
    return path.absolute().with_name(f".{path.name}.tmp")


def old_name(path: Path) -> Path:
    """Returns the name of what is being replaced, where two names cannot be swapped."""
    return path.absolute().with_name(f".{path.name}.old")


def replace_folder(destination: Path) -> None:
    """Moves the complete folder `new_name(destination)` to its place; removes what was there.

    A folder that is there is swapped with the new one in one step, so that a process which is
    killed at any moment leaves the old folder or the new one there, complete. Where the file
    system cannot swap names (some network file systems), the old folder is renamed first, and a
    kill between the two renames leaves nothing there; `recover_folder` then brings the old one
    back.

    Raises:
        OSError: when it cannot be moved; the old folder is there then.
    """
    new, old = new_name(destination), old_name(destination)
    if not destination.exists():
        os.rename(new, destination)
    elif not _exchange(new, destination):
        os.rename(destination, old)
        try:
            os.rename(new, destination)
        except OSError:
            os.rename(old, destination)
            raise
    # Under one of these names the old folder is now.
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)


def recover_folder(destination: Path) -> None:
    """Puts right what a killed `replace_folder` has left: the old folder returns, or is removed."""
    old = old_name(destination)
    if not old.is_dir():
        return
    if destination.exists():
        shutil.rmtree(old)
    else:
        os.rename(old, destination)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two names in one step; returns whether the system can do that."""
    paths = os.fsencode(one), os.fsencode(other)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            code = library.renamex_np(*paths, _RENAME_SWAP)
        else:
            code = library.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE)
    # The C library knows no such function.
    except (AttributeError, OSError):
        return False
    if code == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))


@contextlib.contextmanager
def locked(path: Path, in_use: Callable[[str], str]) -> Iterator[None]:
    """Holds a lock file, which is removed at the end.

    The lock is held by the process, so that the kernel releases it when the process is killed.

    Args:
        path: the file.
        in_use: makes the message where another process holds it, from what is known of that
            process, such as `process 17 on elsewhere`; empty where nothing is.

    Raises:
        InUseError: another process holds the lock.
        MoloError: the file cannot be written.
    """
    with written(path):
        file = _open_locked(path, in_use)
    with file:
        try:
            with written(path):
                # Not through the file object: on a full disk, closing it would fail once more.
                os.ftruncate(file.fileno(), 0)
                os.write(file.fileno(), f"{os.getpid()} {platform.node()}\n".encode())
            yield
        finally:
            if _is_at(file, path):
                path.unlink()


def _open_locked(path: Path, in_use: Callable[[str], str]) -> IO[str]:
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                raise InUseError(in_use(_holder(file))) from None
        except OSError as error:
            # Some network file systems have no locks.
            logging.warning("%s cannot be locked (%s)", path, error.strerror)
        # Whoever held the lock may have removed the file between the two lines above.
        if _is_at(file, path):
            return file
        file.close()


def _is_at(file: IO[str], path: Path) -> bool:
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())


def _holder(file: IO[str]) -> str:
    file.seek(0)
    pid, _, host = file.read().strip().partition(" ")
    where = f" on {host}" if host and host != platform.node() else ""
    return f"process {pid}{where}" if pid else ""


def digest_of_sources() -> str:
    """Returns what two installations have in common exactly when they run the same code.

    The configurations are left out: they lie inside of an installed package, and beside it in a
    checkout.
    """
    whole, package = hashlib.sha256(), Path(__file__).parent
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package)
        if place.parts[0] != "configs":
            whole.update(os.fsencode(place) + b"\0" + path.read_bytes() + b"\0")
    return whole.hexdigest()[:12]
