"""One's own videos as three split lists: a folder for each class, or a file that says so.

These layouts are known, with any folders below that of a class::

    root/run/clip 1.mp4                     the classes are divided by a seeded ratio
    root/train/run/clip 1.mp4               also val, valid, validation and test
    root/… and a split file                 with the columns class,split or video,class,split
"""

import collections
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from molo_jax.data.lists.division import (
    DEFAULT_RATIO,
    Division,
    Ratio,
    divide,
    fitting_ratio,
    share_out,
)
from molo_jax.data.lists.finder import EXTENSIONS, VideoFolder, printable
from molo_jax.data.lists.split_file import SPELLINGS, Row, closest, read_split_file
from molo_jax.data.lists.splits import LINE, SPLIT_FILE, STANDARD_SPLITS, Split, Video
from molo_jax.errors import MoloError, shortened
from molo_jax.files import write_text


@dataclasses.dataclass(frozen=True)
class FolderLists:
    """The lists of a folder.

    Attributes:
        splits: the lists by the name of the split; a split without classes is absent. A video's
            name is its path below the folder; classes are numbered in the order of their names.
        left_out: what is in no list, as a path below the folder, with the reason.
        division: how the classes got into their splits.
    """

    splits: Mapping[str, Split]
    left_out: Mapping[str, str]
    division: Division


class _Divided:
    """The videos of each class, the split that it is in, and why.

    Args:
        classes: the videos by class.
        split_of: the split of each class that counts.
        by: see `Division`; so are the others.
    """

    def __init__(
        self,
        classes: Mapping[str, Sequence[str]],
        split_of: Mapping[str, str],
        by: str,
        **ratio: Any,
    ):
        self.classes = {name: sorted(classes[name]) for name in sorted(split_of)}
        self.split_of = split_of
        names = {
            split: tuple(name for name in self.classes if split_of[name] == split)
            for split in STANDARD_SPLITS
        }
        there = {split: classes for split, classes in names.items() if classes}
        self.division = Division(by, there, **ratio)

    def split(self, split: str, source: str) -> Split:
        """The list of a split."""
        names = self.division.classes.get(split, ())
        rows = [(number, path) for number, name in enumerate(names) for path in self.classes[name]]
        videos = (Video(path, number, line) for line, (number, path) in enumerate(rows, start=1))
        return dataclasses.replace(Split.of(split, source, videos), names=names)

    def videos(self) -> set[str]:
        """All videos."""
        return {path for paths in self.classes.values() for path in paths}


def read_folder(
    root: str | os.PathLike[str],
    *,
    split_file: str | os.PathLike[str] | None = None,
    ratio: Ratio | None = None,
    seed: int = 0,
    n_way: int = 1,
) -> FolderLists:
    """Makes lists of the videos in a folder.

    Args:
        root: the folder.
        split_file: a table with a header, see `split_file.read_split_file`.
        ratio: shares of the classes for train, val and test, where neither folders nor a file
            divide them, see `divide`; None: 64:12:24, or what is nearest to that and leaves
            `n_way` classes in every split.
        seed: of that division.
        n_way: classes of an episode.

    Raises:
        UsageError: the ratio is not three numbers of which one is positive.
        MoloError: there are no videos or is only one class, a class is in two splits, or the split
            file is malformed or names what is not there, with the number of its line.
    """
    folder = VideoFolder.index(root)
    paths, left_out = _usable(folder)
    if split_file is None:
        source, why = folder.root, "not in the folder of a class"
        divided = _divide_folders(folder.root, paths, ratio, seed, n_way)
    else:
        source = os.fspath(split_file)
        why = f"not in {source}"
        divided = _divide_by_file(source, folder, paths)
    _check_classes(folder.root, divided, paths, split_file)
    videos = divided.videos()
    left_out |= dict.fromkeys(set(paths) - videos, why)
    left_out = {path: reason for path, reason in sorted(left_out.items()) if path not in videos}
    splits = {name: divided.split(name, source) for name in divided.division.classes}
    return FolderLists(splits, left_out, divided.division)


def write_lists(splits: Mapping[str, Split], folder: str | os.PathLike[str]) -> None:
    """Writes `<split>_few_shot.txt` for each split, as `splits.read_split` reads it.

    The list of a split that there is none of, from an earlier time, is removed.

    Raises:
        OSError: a file cannot be written; what was there before is then still there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in STANDARD_SPLITS:
        path = folder / SPLIT_FILE.format(split=name)
        if name in splits:
            videos = (v for members in splits[name].videos for v in members)
            write_text(path, "".join(f"{name}{v.class_id}//{v.name}\n" for v in videos))
        else:
            path.unlink(missing_ok=True)


def _usable(folder: VideoFolder) -> tuple[list[str], dict[str, str]]:
    """The videos that a list can name, and what else there is, with the reason."""
    left_out = folder.defects()
    for path, reason in folder.unlistable.items():
        left_out[os.path.relpath(path, folder.root)] = f"it cannot be listed: {reason}"
    paths, first = [], {}
    for path in sorted(folder.files(), key=_by_extension):
        stem = os.path.splitext(path)[0]
        if reason := _why_not_listed(path):
            left_out[path] = reason
        elif stem in first:
            left_out[path] = f"a second file of that name; {printable(first[stem])} is used"
        else:
            first[stem] = path
            paths.append(path)
    known = {above for path in (*paths, *left_out) for above in _above(path)} | left_out.keys()
    empty = (one for one in folder.folders() if _may_be_class(one) and one not in known)
    left_out |= {f"{one}/": "no video in it" for one in empty}
    left_out |= folder.others()
    if not paths:
        raise MoloError(
            f"there is no video in {folder.root}{_what_is_there(left_out)}; expected"
            f" <class>/<video> with one of the extensions {', '.join(EXTENSIONS)}"
        )
    return sorted(paths), left_out


def _what_is_there(left_out: Mapping[str, str]) -> str:
    """The first thing in a folder without videos, as a part of a message."""
    if not left_out:
        return ", which is empty"
    first = min(left_out)
    more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
    return f", but {printable(first)} ({left_out[first]}){more}"


def _by_extension(path: str) -> tuple[int, str]:
    return EXTENSIONS.index(os.path.splitext(path)[1].lower()), path


def _why_not_listed(path: str) -> str:
    """Why a list cannot name the path; empty if it can."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "its path is not UTF-8"
    return "" if LINE.fullmatch(f"train0//{path}") else "its path has control characters"


def _above(path: str) -> list[str]:
    """All folders that a path is in."""
    folders = path.split("/")[:-1]
    return ["/".join(folders[: end + 1]) for end in range(len(folders))]


def _may_be_class(folder: str) -> bool:
    depth = 1 if folder.split("/")[0].lower() in SPELLINGS else 0
    return folder.count("/") == depth


def _divide_folders(
    root: str, paths: Sequence[str], ratio: Ratio | None, seed: int, n_way: int
) -> _Divided:
    by_split = _splits_of_folders(root, paths)
    classes = _by_class(paths, bool(by_split))
    if not by_split:
        return _divide_by_ratio(classes, ratio, seed, n_way)
    split_of = {}
    for name, members in classes.items():
        splits = {by_split[path.split("/")[0]] for path in members}
        if len(splits) > 1:
            raise MoloError(
                f"class {name!r} is in {' and '.join(sorted(splits))} of {root}; a class must be in"
                " one split only. Move its videos into one folder, or all classes directly into"
                " the root, where they are divided"
            )
        split_of[name] = splits.pop()
    return _Divided(classes, split_of, "folders")


def _divide_by_ratio(
    classes: Mapping[str, Sequence[str]], ratio: Ratio | None, seed: int, n_way: int
) -> _Divided:
    if ratio is not None:
        split_of = divide(classes, ratio, seed)
        return _Divided(classes, split_of, "ratio", ratio=ratio, seed=seed)
    usual = share_out(len(classes), DEFAULT_RATIO)
    fitting = fitting_ratio(len(classes), DEFAULT_RATIO, n_way) or usual
    chosen = {"ratio": DEFAULT_RATIO, "seed": seed}
    if fitting != usual:
        chosen |= {"ratio": fitting, "instead_of": usual}
    return _Divided(classes, divide(classes, chosen["ratio"], seed), "ratio", **chosen)


def _splits_of_folders(root: str, paths: Iterable[str]) -> dict[str, str]:
    """The split of each folder in the root; empty if they are classes."""
    tops = sorted({path.split("/")[0] for path in paths if "/" in path})
    splits = {top: SPELLINGS[top.lower()] for top in tops if top.lower() in SPELLINGS}
    if len(splits) < len(tops):
        if len(splits) < 2:
            return {}
        stray = next(top for top in tops if top not in splits)
        raise MoloError(
            f"{root} has folders of splits ({', '.join(splits)}) and the folder {stray!r}; expected"
            f" either splits or classes. Move {stray!r} elsewhere, or give a --split_file"
        )
    for split, count in collections.Counter(splits.values()).items():
        if count > 1:
            names = " and ".join(repr(top) for top in splits if splits[top] == split)
            raise MoloError(f"{root} has {names}, which mean the same; make them one folder")
    return splits


def _by_class(paths: Iterable[str], below_split: bool) -> dict[str, list[str]]:
    """The videos of each class, whose folder is in the root or in that of a split."""
    depth = 1 if below_split else 0
    classes: dict[str, list[str]] = {}
    for path in paths:
        folders = path.split("/")[:-1]
        if len(folders) > depth:
            classes.setdefault(folders[depth], []).append(path)
    return classes


def _divide_by_file(source: str, folder: VideoFolder, paths: Sequence[str]) -> _Divided:
    rows = read_split_file(source)
    split_of = {row.class_name: row.split for row in rows}
    if rows[0].video is not None:
        return _Divided(_find_rows(source, rows, folder), split_of, "split_file")
    classes = _by_class(paths, bool(_splits_of_folders(folder.root, paths)))
    for row in rows:
        if row.class_name not in classes:
            raise MoloError(
                f"{source}:{row.line}: {folder.root} has no folder with videos of the class"
                f" {shortened(row.class_name)}{closest(row.class_name, classes)}"
            )
    return _Divided(classes, split_of, "split_file")


def _find_rows(source: str, rows: Sequence[Row], folder: VideoFolder) -> dict[str, list[str]]:
    """The files of a table of videos, by class."""
    find = folder.finder(row.video for row in rows)
    classes: dict[str, list[str]] = {}
    lines: dict[str, int] = {}
    for row in rows:
        where, found = f"{source}:{row.line}", find(row.video)
        if not found.path:
            raise MoloError(
                f"{where}: there is no file for the video {shortened(row.video)} in {folder.root}:"
                f" {found.reason}{_closest_video(row.video, folder)}"
            )
        path = os.path.relpath(found.path, folder.root)
        if path in lines:
            raise MoloError(f"{where}: line {lines[path]} has the video {shortened(path)} too")
        if reason := _why_not_listed(path):
            raise MoloError(f"{where}: {printable(path)} cannot be in a list: {reason}; rename it")
        lines[path] = row.line
        classes.setdefault(row.class_name, []).append(path)
    return classes


def _closest_video(name: str, folder: VideoFolder) -> str:
    paths = folder.files()
    beside = [path for path in paths if os.path.dirname(path) == os.path.dirname(name)]
    return closest(name, beside or paths)


def _check_classes(
    root: str, divided: _Divided, paths: Sequence[str], split_file: str | os.PathLike[str] | None
) -> None:
    """Checks that there is something to tell apart."""
    names = list(divided.classes)
    if not names:
        raise MoloError(
            f"no video in {root} is in the folder of a class, such as {printable(paths[0])};"
            " expected <class>/<video>"
        )
    if len(names) > 1:
        return
    if split_file is not None:
        there = len({path.split("/")[0] for path in paths if "/" in path} | set(names))
        raise MoloError(
            f"{os.fspath(split_file)} lists one class only, {shortened(names[0])}; expected a row"
            f" for every class that is used{f' ({root} has {there} folders)' if there > 1 else ''}"
        )
    raise MoloError(
        f"all videos in {root} are of one class, {names[0]!r}; expected a folder for each of"
        " several classes. If the classes are the folders in that one, give it as the root"
    )
