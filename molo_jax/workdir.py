"""The work folder of a run: one training at a time in it, and none left behind empty."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from molo_jax.engine import hosts
from molo_jax.errors import UsageError
from molo_jax.files import locked

LOCK_FILE = ".lock"


@contextlib.contextmanager
def work_folder(path: Path, *, for_training: bool) -> Iterator[None]:
    """Makes the work folder, and keeps other trainings out of it.

    An evaluation takes no lock: it may run beside a training, whose checkpoints it only reads. What
    was made here and is empty at the end is removed. Of several processes, process 0 does all this.

    Args:
        path: the folder.
        for_training: whether the folder's checkpoints and metrics will be written.

    Raises:
        UsageError: the folder cannot be made.
        MoloError: a training is at work in it.
    """
    if not hosts.is_first():
        yield
        return
    made = _make(path)
    try:
        with keep_trainings_out(path) if for_training else contextlib.nullcontext():
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


def keep_trainings_out(
    folder: Path, otherwise: str = _OR_ELSEWHERE
) -> contextlib.AbstractContextManager[None]:
    """Keeps trainings out of a work folder while something else writes into it.

    Args:
        folder: an existing work folder.
        otherwise: what else its user can do, behind "wait for its end, or".

    Returns:
        A context; entering it raises MoloError if a training is at work in the folder.
    """
    return locked(
        folder / LOCK_FILE,
        lambda who: (
            f"a training is at work in {folder} ({who or 'another process'}); wait for its end, or"
            f" {otherwise}"
        ),
    )
