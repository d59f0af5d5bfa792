"""The work folder of a run: one training at a time in it, and none left behind empty."""

import contextlib
import fcntl
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from absl import logging

from molo_jax.errors import MoloError, UsageError
from molo_jax.files import written

LOCK_FILE = ".lock"


@contextlib.contextmanager
def work_folder(path: Path, *, for_training: bool) -> Iterator[None]:
    """Makes the work folder, and keeps other trainings out of it.

    The lock is held by the process, so that the kernel releases it when the process is killed. An
    evaluation takes none: it may run beside a training, whose checkpoints it only reads. What was
    made here and is empty at the end is removed.

    Args:
        path: the folder.
        for_training: whether the folder's checkpoints and metrics will be written.

    Raises:
        UsageError: the folder cannot be made.
        MoloError: a training is at work in it.
    """
    made = _make(path)
    try:
        with _locked(path) if for_training else contextlib.nullcontext():
            yield
    finally:
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()


def _make(path: Path) -> list[Path]:
    """Makes a folder; returns the folders that were not there, each below the one before."""
    absent = [folder for folder in (path, *path.parents) if not folder.exists()][::-1]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--workdir={path} cannot be made: {error.strerror}") from error
    return absent


_OR_ELSEWHERE = (
    "train in another folder with --workdir=DIR. An evaluation (--mode=eval) may run beside it"
)


def keep_trainings_out(folder: Path, otherwise: str) -> contextlib.AbstractContextManager[None]:
    """Keeps trainings out of a work folder while something else writes into it.

    Args:
        folder: an existing work folder.
        otherwise: what else its user can do, behind "wait for its end, or".

    Returns:
        A context; entering it raises MoloError if a training is at work in the folder.
    """
    return _locked(folder, otherwise)


@contextlib.contextmanager
def _locked(folder: Path, otherwise: str = _OR_ELSEWHERE) -> Iterator[None]:
    path = folder / LOCK_FILE
    with written(path):
        file = _open_locked(folder, path, otherwise)
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


def _open_locked(folder: Path, path: Path, otherwise: str) -> IO[str]:
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                raise MoloError(_in_use(folder, file, otherwise)) from None
        except OSError as error:
            # Some network file systems have no locks.
            logging.warning("%s cannot be locked (%s)", path, error.strerror)
        # Whoever held the lock may have removed the file between the two lines above.
        if _is_at(file, path):
            return file
        file.close()


def _is_at(file: IO[str], path: Path) -> bool:
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())


def _in_use(folder: Path, file: IO[str], otherwise: str) -> str:
    file.seek(0)
    pid, _, host = file.read().strip().partition(" ")
    where = f" on {host}" if host and host != platform.node() else ""
    who = f"process {pid}{where}" if pid else "another process"
    return f"a training is at work in {folder} ({who}); wait for its end, or {otherwise}"
