"""Split lists: which videos belong to which class.

A list has one video a line in one of the two forms the official lists use::

    train8/78687                                    class 8, video "78687"
    train0//videos/brush_hair/April_09.avi          class 0, video "videos/brush_hair/April_09.avi"

The letters in front of the class number are the same on every line of a list.
"""

import collections
import dataclasses
import functools
import itertools
import os
import re
from collections.abc import Iterable, Sequence

from molo_jax.errors import MoloError, shortened

SPLIT_FILE = "{split}_few_shot.txt"
STANDARD_SPLITS = ("train", "val", "test")
LINE = re.compile(
    r"(?P<prefix>[A-Za-z_]+)(?P<class_id>[0-9]{1,9})/+(?P<name>[^/\x00-\x1f][^\x00-\x1f]*)"
)
EXPECTED = "expected '<letters><class number>/<video>', such as 'train8/78687'"


@dataclasses.dataclass(frozen=True)
class Video:
    """One line of a split list.

    Attributes:
        name: path below the video folder, with or without an extension, no leading slash.
        class_id: the class number written in the list.
        line: number of the line, from 1.
    """

    name: str
    class_id: int
    line: int


@dataclasses.dataclass(frozen=True)
class Split:
    """A split list, grouped by class.

    Attributes:
        name: "train", "val", "test" or any other name.
        path: the file it was read from.
        classes: the class numbers, ascending.
        videos: the videos of each class, in the order of `classes` and then of the file.
        names: the names of the classes where they are known; a list file does not hold them.
    """

    name: str
    path: str
    classes: tuple[int, ...]
    videos: tuple[tuple[Video, ...], ...]
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, path: str, videos: Iterable[Video]) -> "Split":
        """Groups videos by class."""
        by_class: dict[int, list[Video]] = {}
        for video in videos:
            by_class.setdefault(video.class_id, []).append(video)
        classes = tuple(sorted(by_class))
        return cls(name, path, classes, tuple(tuple(by_class[class_id]) for class_id in classes))

    @property
    def class_sizes(self) -> tuple[int, ...]:
        """Number of videos of each class, in the order of `classes`."""
        return tuple(len(videos) for videos in self.videos)

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class, an empty string where there is none.

        Where `names` does not tell: the folder that all videos of the class are in and none of
        another; or else the outermost such folder of those above it.
        """
        return self.names or _folder_names(self.videos)


def read_split(path: str | os.PathLike[str], name: str) -> Split:
    """Reads the list of split `name`.

    Raises:
        MoloError: the file is missing, unreadable, not UTF-8 or empty; a line is malformed, repeats
            a video, or belongs to another split. The message names the file and the line.
    """
    path = os.fspath(path)
    videos: list[Video] = []
    first_line: dict[str, int] = {}
    prefix = None
    for number, text in enumerate(_lines(path), start=1):
        if not text:
            raise MoloError(f"{path}:{number}: blank line; {EXPECTED}")
        match = LINE.fullmatch(text)
        if match is None:
            raise MoloError(f"{path}:{number}: malformed line {shortened(text)}; {EXPECTED}")
        prefix = prefix or match["prefix"]
        _check_prefix(match["prefix"], prefix, name, f"{path}:{number}", text)
        video = Video(match["name"], int(match["class_id"]), number)
        if video.name in first_line:
            raise MoloError(
                f"{path}:{number}: {shortened(text)} names a video that line"
                f" {first_line[video.name]} already lists; a video must occur once. Remove one of"
                " the lines"
            )
        first_line[video.name] = number
        videos.append(video)
    return Split.of(name, path, videos)


def _lines(path: str) -> list[str]:
    """The lines of the file without line ends; blank lines at the end are dropped."""
    try:
        with open(path, "rb") as file:
            text = file.read().decode("utf-8-sig")
    except OSError as error:
        raise MoloError(f"cannot read the split list {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise MoloError(
            f"{path}:{number}: not UTF-8 text (byte 0x{error.object[error.start]:02x}); {EXPECTED}"
        ) from error
    # Not str.splitlines, which also splits at characters that may stand in a file name.
    lines = [line.strip(" \t\r") for line in text.rstrip().split("\n")]
    if lines == [""]:
        raise MoloError(f"the split list {path} is empty; {EXPECTED} on every line")
    return lines


def _check_prefix(prefix: str, first: str, split: str, where: str, text: str) -> None:
    """Two prefixes in a list would merge unrelated classes; a known one must be this split's."""
    if prefix != first:
        raise MoloError(
            f"{where}: {shortened(text)} begins with {shortened(prefix)}, but the first line of the"
            f" list with {shortened(first)}; a list holds one split"
        )
    if prefix != split and prefix in STANDARD_SPLITS and split in STANDARD_SPLITS:
        raise MoloError(
            f"{where}: {shortened(text)} belongs to split {prefix!r}, but the list was"
            f" read as {split!r}; "
            "give the list of that split"
        )


def _folder_names(classes: Sequence[Sequence[Video]]) -> tuple[str, ...]:
    # Each folder once, in the order of the videos.
    folders = [
        [folder.split("/") if folder else [] for folder in dict.fromkeys(map(_folder, videos))]
        for videos in classes
    ]
    nearest = [{path[-1] if path else "" for path in paths} for paths in folders]
    owners = _count_owners(set(itertools.chain(*paths)) for paths in folders)
    nearest_owners = _count_owners(nearest)
    names = []
    for paths, found in zip(folders, nearest, strict=True):
        own = [f for f in paths[0] if owners[f] == 1 and all(f in path for path in paths)]
        if len(found) == 1 and nearest_owners[min(found)] == 1:
            names.append(min(found))
        else:
            # What all videos of a list are in is the name of no class, nor of the only one.
            names.append(own[0] if own and len(classes) > 1 else "")
    return tuple(names)


def _folder(video: Video) -> str:
    return video.name.rpartition("/")[0]


def _count_owners(classes: Iterable[set[str]]) -> collections.Counter[str]:
    return collections.Counter(itertools.chain.from_iterable(classes))
