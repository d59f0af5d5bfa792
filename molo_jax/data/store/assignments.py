"""Record files made by the workers of another program: what a worker is told, and what it does.

An `Assignment` is one record file. It is sent to a worker, on this machine or on another one that
sees the same folders under the same paths, and `carry_out` makes the file there. A worker does not
trust its surroundings: it refuses to work with other versions of the packages, without the
folders, or for a preparation that has ended.
"""

import contextlib
import dataclasses
import functools
import multiprocessing
import os
import platform
import uuid
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from molo_jax.data.store.processes import in_order
from molo_jax.data.store.records import Settings, manifest_path
from molo_jax.data.store.shards import Shard
from molo_jax.data.video.encode import encode_or_reason
from molo_jax.errors import MoloError
from molo_jax.files import digest_of_sources, write_text

RUN_FILE = "run.txt"
# Frames, their bytes and the record files depend on them, or what is sent to the workers.
_PACKAGES = (
    "apache-beam",
    "array_record",
    "av",
    "decord",
    "numpy",
    "opencv-python-headless",
    "pebble",
    "protobuf",
    "simplejpeg",
    "tensorflow-datasets",
)
_SAME = "install the same versions on every machine"


# Taken when a process imports this, for a worker that lives on works with the sources of then.
_SOURCES = digest_of_sources()


def environment(more: Sequence[str] = ()) -> dict[str, str]:
    """Returns the versions of this process: Python, the sources of this package, other packages.

    Args:
        more: further packages.
    """
    versions = {"Python": ".".join(platform.python_version_tuple()[:2]), "molo_jax": _SOURCES}
    return versions | {name: _version(name) for name in (*_PACKAGES, *more)}


@functools.cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def check_environment(wanted: Mapping[str, str], found: Mapping[str, str], where: str) -> None:
    """Checks that a worker has the versions of the machine that started the preparation.

    Args:
        wanted: `environment` there.
        found: `environment` of the worker.
        where: names the worker.

    Raises:
        MoloError: with both versions of everything that differs.
    """
    differences = [
        f"{name} {found.get(name, 'unknown')} instead of {version}"
        for name, version in wanted.items()
        if found.get(name) != version
    ]
    if differences:
        raise MoloError(f"{where} has {', '.join(differences)}; {_SAME}, then start it again")


@dataclasses.dataclass(frozen=True)
class Run:
    """A preparation that is at work: workers go on as long as its file in the folder says so.

    Attributes:
        folder: where the record files are made; an absolute path.
        key: a text that no other preparation has.
        current: the folder that relative paths of videos begin in.
        environment: the versions that every worker must have.
        workers: processes that decode for each record file.
        seconds: time limit of a video.
    """

    folder: Path
    key: str
    current: str
    environment: Mapping[str, str]
    workers: int
    seconds: float

    @classmethod
    def new(cls, folder: Path, *, workers: int, seconds: float) -> "Run":
        """A preparation of now, in this process."""
        key = uuid.uuid4().hex
        return cls(folder.absolute(), key, os.getcwd(), environment(), workers or 1, seconds)

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """While the block runs, workers work; afterwards they stop at their next video."""
        path = self.folder / RUN_FILE
        write_text(path, self.key)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)

    def goes_on(self) -> bool:
        """Whether the preparation is still at work, as a worker sees it."""
        try:
            return (self.folder / RUN_FILE).read_text(encoding="utf-8") == self.key
        except OSError:
            return False


@dataclasses.dataclass(frozen=True)
class Assignment:
    """A record file that a worker is to make.

    Attributes:
        shard: the record file.
        run: the preparation that it is for.
    """

    shard: Shard
    run: Run

    @classmethod
    def of(cls, shard: Shard, run: Run) -> "Assignment":
        """The same record file for a worker whose current folder is another one."""
        stored = {
            name: dataclasses.replace(found, path=found.path.absolute())
            for name, found in shard.stored.items()
        }
        shard = dataclasses.replace(shard, path=shard.path.absolute(), stored=stored)
        return cls(shard, run)

    def tasks(self) -> list[tuple[str, Settings]]:
        """Arguments of `encode_or_reason`, with paths that hold in every folder."""
        return [
            (os.path.join(self.run.current, path), settings)
            for path, settings in self.shard.tasks()
        ]

    def is_done(self) -> bool:
        """Whether the files of the shard are there and belong together."""
        return self.shard.is_made(failures_count=True)


class _EndedError(Exception):
    """The preparation that the work was for has ended."""


def carry_out(assignment: Assignment) -> None:
    """Makes a record file in a worker; videos are decoded in processes that may crash or hang.

    Where the preparation has ended, nothing is made.

    Raises:
        MoloError: the versions or the folders are not those of the preparation, or the file cannot
            be written.
    """
    here = f"the worker on {platform.node()}"
    run = assignment.run
    check_environment(run.environment, environment(), here)
    if not run.folder.is_dir():
        raise MoloError(
            f"{here} does not find {run.folder}; --out must be a folder that all machines share,"
            " under the same path"
        )
    # Made by a worker that was lost before it could say so.
    if not run.goes_on() or assignment.is_done():
        return
    tasks = assignment.tasks()
    if tasks and not any(os.path.lexists(path) for path, _ in tasks):
        raise MoloError(
            f"{here} finds no video of a record file, such as {tasks[0][0]};"
            " --videos must be a folder that all machines share, under the same path. If these"
            " videos were removed meanwhile, run the same command again"
        )
    _allow_processes()
    results = in_order(encode_or_reason, tasks, workers=run.workers, seconds=run.seconds)
    with contextlib.closing(results), contextlib.suppress(_EndedError):
        assignment.shard.write(_while_going_on(results, run))


def _while_going_on(results: Iterator[Any], run: Run) -> Iterator[Any]:
    for result in results:
        if not run.goes_on():
            raise _EndedError
        yield result


def _allow_processes() -> None:
    """Lets this process start others.

    Dask's nanny marks its worker as daemonic, and Python refuses such a process to start others
    because these might outlive it. Those of `in_order` end with the process that started them.
    """
    multiprocessing.current_process().daemon = False


def count_of(assignments: Sequence[Assignment]) -> int:
    """Number of videos that are decoded for these record files."""
    return sum(len(assignment.shard.tasks()) for assignment in assignments)


def has_manifest(assignment: Assignment) -> bool:
    """Whether a worker has finished the record file, at little cost."""
    return manifest_path(assignment.shard.path).exists()
