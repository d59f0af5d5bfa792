"""Finds listed videos in a folder, whatever its layout.

A folder is listed once, then names are looked up in memory. For a name such as
`train_256/air_drumming/-VtLx-mcPds_000012_000022.mp4` these are tried, the first with a file wins:

1. The path below the folder: the name itself, with one of `EXTENSIONS` appended, or with its
   extension exchanged for one of them.
2. A file of that base name in any folder. The more of its last folders are called as in the name,
   the better ("air drumming" and "Air-Drumming" are "air_drumming"); then as-is, appended and
   exchanged extensions in the order of `EXTENSIONS`; then fewer folders; then the path.
3. YouTube ids (Kinetics): a file named by the id alone for a name with times, if no other name has
   the id; a file with times for a name without, if there are no other times. Other times never do.
4. A base name that differs in letter case or Unicode form only, if there is but one such spelling.

What could put a video into a wrong class is refused: a file serves one name, the one it fits best,
and none if it fits two equally; a file in a folder of another name does not count if the folder of
the right name lies beside it, or if there are several such files in different folders.
"""

import dataclasses
import functools
import os
import re
import stat
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import NamedTuple

from molo_jax.data.lists.directory import (
    A_DIRECTORY,
    EXTENSIONS,
    Directory,
    File,
    printable,
    split_extension,
)

# The order of the extension in a name: itself, in another case, appended, exchanged.
_AS_IS, _OTHER_CASE, _APPENDED, _EXCHANGED = 0, 1, 2, 2 + len(EXTENSIONS)
_CLIP = re.compile(r"(?P<id>[A-Za-z0-9_-]{11})(?P<times>_[0-9]{6}_[0-9]{6})?")
_NAMED_IN_REASONS = 3


@dataclasses.dataclass(frozen=True)
class Found:
    """What there is for a listed video.

    Attributes:
        path: the file; empty if there is none. With a reason it is there but cannot be used.
        others: further files that would do as well.
        reason: empty, or why there is no usable file: "missing", "a directory of that name", "a
            link to nothing", "ambiguous: …".
    """

    path: str
    others: tuple[str, ...] = ()
    reason: str = ""


class _Wanted(NamedTuple):
    """A listed name in its parts.

    Attributes:
        folder: the folders, joined by "/".
        base: what follows them.
        stem: `base` without the extension of a video.
        extension: that extension, as it is written.
    """

    folder: str
    base: str
    stem: str
    extension: str

    @classmethod
    def of(cls, name: str) -> "_Wanted":
        parts = [part for part in name.split("/") if part not in ("", ".")] or [""]
        return cls("/".join(parts[:-1]), parts[-1], *split_extension(parts[-1]))


class _Candidates(NamedTuple):
    """The best files of one level for a name; `rank` compares those of several names."""

    rank: tuple[int, int]
    files: list[File]
    ambiguous: bool


class VideoFolder(Directory):
    """The videos below a folder, to be looked up. Use `VideoFolder.index`."""

    def __init__(self, root: str):
        super().__init__(root)
        self._words_of_folders: dict[str, frozenset[str]] = {}

    def find(self, name: str) -> Found:
        """Finds one video; `finder` is safer, since it knows which other ones are listed."""
        return self.finder([name])(name)

    def finder(self, names: Iterable[str], anywhere: bool = True) -> Callable[[str], Found]:
        """Finds videos that are listed together.

        Args:
            names: all names of all lists, so that no file is taken for two of them.
            anywhere: False: only files at their listed paths count. For lists that were made from
                this very folder.

        Returns:
            A function of a name that returns what was found for it.
        """
        wanted = {name: _Wanted.of(name) for name in names}
        ids = Counter(filter(None, map(_clip_id, wanted.values())))
        levels = [
            self._at_path,
            self._same_stem,
            lambda want: self._by_clip(want, ids),
            self._by_spelling,
        ]
        found: dict[str, Found] = {}
        taken: dict[File, str] = {}
        for level in levels if anywhere else levels[:1]:
            # Whoever loses a file to a better fitting name tries again without it.
            while candidates := self._candidates_of_all(level, wanted, taken):
                sure = {name: own for name, own in candidates.items() if not own.ambiguous}
                settled = self._settle(sure) if sure else self._settle_ambiguous(candidates)
                found |= settled
                for name in settled:
                    wanted.pop(name)
                    if name in sure:
                        taken[sure[name].files[0]] = name
        found |= {name: self._absent(want, taken) for name, want in wanted.items()}
        return _without_used_others(found).__getitem__

    def _candidates_of_all(
        self,
        level: Callable[[_Wanted], Sequence[File]],
        wanted: dict[str, _Wanted],
        taken: Container[File],
    ) -> dict[str, _Candidates]:
        candidates = {}
        for name, want in wanted.items():
            files = level(want)
            if files and (taken or self._defects):
                files = [f for f in files if f not in taken and f not in self._defects]
            if files and (own := self._candidates(want, files)):
                candidates[name] = own
        return candidates

    def _at_path(self, want: _Wanted) -> Sequence[File]:
        files = [file for file in self._same_stem(want) if file[0] == want.folder]
        if not want.extension and self._is_file_as_is(want):
            files.insert(0, (want.folder, want.base))
        return files

    def _by_clip(self, want: _Wanted, ids: Counter[str]) -> Sequence[File]:
        match = _CLIP.fullmatch(want.stem)
        if match is None:
            return ()
        if match["times"]:
            return self._stems.get(match["id"], ()) if ids[match["id"]] == 1 else ()
        return self._clips.get(match["id"], ())

    def _by_spelling(self, want: _Wanted) -> Sequence[File]:
        return self._spellings.get(_fold(want.stem), ())

    def _same_stem(self, want: _Wanted) -> list[File]:
        files = self._stems.get(want.stem, [])
        # The video x.avi may have become x.avi.mp4.
        return files + self._stems.get(want.base, []) if want.extension else files

    def _is_file_as_is(self, want: _Wanted) -> bool:
        """Whether a name without the extension of a video is a file as it is."""
        if "." not in want.base or ".." in want.folder.split("/"):
            return (want.folder, want.base) in self._bare
        try:
            return stat.S_ISREG(os.stat(self._path((want.folder, want.base))).st_mode)
        except (OSError, ValueError):
            return False

    @functools.cached_property
    def _clips(self) -> dict[str, list[File]]:
        """The files with times, by YouTube id."""
        clips = defaultdict(list)
        for stem, files in self._stems.items():
            match = _CLIP.fullmatch(stem)
            if match and match["times"]:
                clips[match["id"]] += files
        return clips

    @functools.cached_property
    def _spellings(self) -> dict[str, list[File]]:
        """The files by their stem without letter case."""
        spellings = defaultdict(list)
        for stem, files in self._stems.items():
            spellings[_fold(stem)] += files
        return spellings

    def _candidates(self, want: _Wanted, files: Sequence[File]) -> _Candidates | None:
        """Sorts the files for a name, the best first; None if none of them may be taken for it."""
        if len(files) == 1 and files[0][0] == want.folder:
            return _Candidates((-len(_words(want.folder)), _form(want, files[0][1])), files, False)
        ranked = sorted(_rank(want, file) for file in files)
        foreign = bool(want.folder) and ranked[0][0] == 0
        if foreign:
            ranked = [rank for rank in ranked if not self._is_beside_its_class(want, rank[3])]
        if not ranked:
            return None
        best = [(rank[3], rank[4]) for rank in ranked if rank[0] == ranked[0][0]]
        scattered = foreign and len({folder for folder, _ in best}) > 1
        # Only of clips and spellings there can be several.
        stems = {split_extension(name)[0] for _, name in best} - {want.stem, want.base}
        return _Candidates(ranked[0][:2], best, scattered or len(stems) > 1)

    def _is_beside_its_class(self, want: _Wanted, folder: str) -> bool:
        """Whether a folder of the name's last folder lies beside this one or one above it."""
        own = _words(want.folder)[0]
        while folder:
            folder = folder.rpartition("/")[0]
            if own in self._words_in(folder):
                return True
        return False

    def _words_in(self, folder: str) -> frozenset[str]:
        """The names of a folder's sub-folders for comparison."""
        if folder not in self._words_of_folders:
            words = frozenset(map(_fold_folder, self._folders[folder]))
            self._words_of_folders[folder] = words
        return self._words_of_folders[folder]

    def _settle(self, candidates: dict[str, _Candidates]) -> dict[str, Found]:
        """Gives every file to the name it fits best, and to none if there are two."""
        takers: dict[File, list[str]] = {}
        for name, own in candidates.items():
            takers.setdefault(own.files[0], []).append(name)
        found = {}
        for names in takers.values():
            best = min(candidates[name].rank for name in names)
            winners = [name for name in names if candidates[name].rank == best]
            for name in winners:
                found[name] = self._found(candidates[name], [n for n in winners if n != name])
        return found

    def _found(self, own: _Candidates, rivals: list[str]) -> Found:
        paths = self._paths(own.files)
        if rivals:
            fits = f"{printable(paths[0])} also fits {printable(rivals[0])}"
            return Found("", paths, f"ambiguous: {fits}")
        return Found(paths[0], paths[1:])

    def _settle_ambiguous(self, candidates: dict[str, _Candidates]) -> dict[str, Found]:
        found = {}
        for name, own in candidates.items():
            paths = self._paths(own.files)
            found[name] = Found("", paths, f"ambiguous: {_enumerate(paths)}")
        return found

    def _absent(self, want: _Wanted, taken: Mapping[File, str]) -> Found:
        """What to say of a name that no usable file was found for."""
        same = sorted(self._same_stem(want), key=lambda file: (file[0] != want.folder, file))
        for file in same:
            if file in self._defects:
                return Found(self._path(file), (), self._defects[file])
            if file in taken and file[0] == want.folder:
                used = f"{printable(self._path(file))} is the file of {printable(taken[file])}"
                return Found("", (), f"missing: {used}")
        folder = want.folder
        while folder:
            if reason := self.unlistable.get(os.path.join(self.root, folder)):
                return Found("", (), f"its folder cannot be listed: {reason}")
            folder = folder.rpartition("/")[0]
        # Without an extension it is a folder like others, so the video counts as missing.
        if want.base in self._folders.get(want.folder, ()):
            return Found("", (), A_DIRECTORY)
        return Found("", (), "missing")

    def _paths(self, files: Iterable[File]) -> tuple[str, ...]:
        return tuple(map(self._path, files))

    def _path(self, file: File) -> str:
        return os.path.join(self.root, *file)


def _rank(want: _Wanted, file: File) -> tuple[int, int, int, str, str]:
    """Of two files for a name the one with the smaller rank is better."""
    folder, name = file
    shared = 0
    for ours, theirs in zip(_words(want.folder), _words(folder), strict=False):
        if ours != theirs:
            break
        shared += 1
    return -shared, _form(want, name), folder.count("/") + bool(folder), folder, name


def _form(want: _Wanted, name: str) -> int:
    """Place of the file's extension in the order of preference."""
    stem, extension = split_extension(name)
    if name == want.base or not extension:
        return _AS_IS
    place = EXTENSIONS.index(extension.lower())
    if not want.extension or stem == want.base:
        return _APPENDED + place
    if extension.lower() == want.extension.lower():
        return _OTHER_CASE
    return _EXCHANGED + place


def _clip_id(want: _Wanted) -> str:
    match = _CLIP.fullmatch(want.stem)
    return match["id"] if match else ""


@functools.lru_cache(maxsize=4096)
def _words(folder: str) -> tuple[str, ...]:
    """The names of a path's folders for comparison, the last one first."""
    return tuple(_fold_folder(name) for name in reversed(folder.split("/")) if name)


@functools.lru_cache(maxsize=4096)
def _fold_folder(name: str) -> str:
    return _fold(name).replace(" ", "_").replace("-", "_")


def _fold(name: str) -> str:
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


def _enumerate(paths: Sequence[str]) -> str:
    named = ", ".join(map(printable, paths[:_NAMED_IN_REASONS]))
    left = len(paths) - _NAMED_IN_REASONS
    return f"{named} and {left} more" if left > 0 else named


def _without_used_others(found: dict[str, Found]) -> dict[str, Found]:
    """Drops other files that are themselves the file of another name."""
    used = {one.path for one in found.values()}
    for name, one in found.items():
        if one.path and one.others:
            others = tuple(path for path in one.others if path not in used)
            found[name] = dataclasses.replace(one, others=others)
    return found
