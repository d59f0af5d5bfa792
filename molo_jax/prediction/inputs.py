"""The files that a prediction begins with: the clips of each class, and those to be predicted."""

import dataclasses
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from molo_jax.data.lists.directory import A_DIRECTORY, Directory, printable
from molo_jax.errors import MoloError, UsageError

_LOGGER = logging.getLogger(__name__)
_EXAMPLES = 3


@dataclasses.dataclass(frozen=True)
class Query:
    """A clip that is to be predicted.

    Attributes:
        path: the file.
        folder: the folder of a class that it lies in, below the folder that was named; empty for a
            file that was named itself or lies directly there.
    """

    path: str
    folder: str = ""


@dataclasses.dataclass(frozen=True)
class SupportFiles:
    """The clips of each class.

    Attributes:
        classes: class -> its files, both sorted.
        notes: what was left out, one sentence each.
    """

    classes: Mapping[str, list[str]]
    notes: tuple[str, ...]


def list_support(folder: str | os.PathLike[str]) -> SupportFiles:
    """Lists the clips of the classes: `folder/<class>/*`, with any folders below that of a class.

    Raises:
        MoloError: there is no such folder, or no folder in it holds a video.
    """
    root = os.fspath(folder)
    directory, shown = _directory(root), printable(root)
    classes: dict[str, list[str]] = {}
    loose = []
    for path in directory.files():
        name, slash, _ = path.partition("/")
        if slash:
            classes.setdefault(printable(name), []).append(os.path.join(root, path))
        else:
            loose.append(path)
    if not classes:
        hint = f"; the videos in {shown} itself have no class" if loose else ""
        raise MoloError(
            f"{shown} holds no clips of classes: expected a folder for each class with videos in"
            f" it, such as {os.path.join(shown, 'squat', 'a.mp4')}{hint}"
        )
    notes = _left_out(directory)
    if loose:
        notes.append(f"{_some(loose)} in {shown} itself: not in the folder of a class")
    tops = {name for name in directory.folders() if "/" not in name}
    for name in sorted(printable(top) for top in tops):
        if name not in classes:
            notes.append(f"the class {name!r} has no videos; it is left out")
    return SupportFiles(dict(sorted(classes.items())), tuple(notes))


def list_videos(path: str | os.PathLike[str]) -> list[Query]:
    """Lists the clips that a path stands for: the file itself, or all videos below a folder.

    What cannot be read is listed too, so that it is told like any other bad clip: a file that is
    absent; in a folder, a link to nothing, or a pipe, that is named like a video, and a folder
    that cannot be listed.

    Raises:
        MoloError: the folder itself cannot be listed, or holds no video.
    """
    root = os.fspath(path)
    if not os.path.isdir(root):
        return [Query(root)]
    directory = _directory(root)
    names = directory.files()
    # A folder that is named like a video was looked into.
    names += [name for name, why in directory.defects().items() if why != A_DIRECTORY]
    for folder, why in directory.unlistable.items():
        if _can_be_listed(folder):
            _LOGGER.warning("%s is not looked into: %s", printable(folder), why)
        else:
            names.append(os.path.relpath(folder, root))
    if not names:
        raise MoloError(f"{printable(root)} holds no videos (by the endings of their names)")
    return [_query(root, name) for name in sorted(names)]


def _can_be_listed(folder: str) -> bool:
    try:
        os.scandir(folder).close()
    except OSError:
        return False
    return True


def _query(root: str, name: str) -> Query:
    folder, slash, _ = name.partition("/")
    return Query(os.path.join(root, name), printable(folder) if slash else "")


def _directory(root: str) -> Directory:
    if not os.path.exists(root):
        raise MoloError(f"the folder {printable(root)} does not exist")
    if not os.path.isdir(root):
        raise MoloError(f"{printable(root)} is no folder")
    return Directory.index(root)


def _left_out(directory: Directory) -> list[str]:
    defects = [f"{printable(name)}: {reason}" for name, reason in directory.defects().items()]
    notes = [f"left out: {each}" for each in defects]
    others = [n for n in directory.others() if not Path(n).name.startswith(".")]
    if others:
        notes.append(f"{_some(others)}: no videos by their names, left out")
    notes += [
        f"{printable(folder)} is not looked into: {why}"
        for folder, why in directory.unlistable.items()
    ]
    return notes


def _some(names: list[str]) -> str:
    shown = ", ".join(printable(name) for name in names[:_EXAMPLES])
    more = f" and {len(names) - _EXAMPLES} more" if len(names) > _EXAMPLES else ""
    return f"{shown}{more}"


def parse_seconds(flag: str, text: str) -> float:
    """Reads a time such as `2s`, `0.5`, `500ms`, `1min` or `1h`, in seconds.

    Raises:
        UsageError: it is none, or not above 0.
    """
    number, unit = text.strip(), 1.0
    for ending, factor in (("ms", 1e-3), ("s", 1.0), ("min", 60.0), ("h", 3600.0)):
        if number.endswith(ending):
            number, unit = number.removesuffix(ending), factor
            break
    try:
        value = float(number) * unit
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UsageError(
            f"--{flag}={text}: expected a time above 0, such as 2s or 500ms; the units are ms, s,"
            " min and h"
        )
    return value
