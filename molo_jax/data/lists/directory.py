"""What is in a folder of videos: its files and sub-folders, listed once."""

import os
import stat
import unicodedata
from collections import deque
from collections.abc import Iterable
from typing import Self

from molo_jax.errors import MoloError

EXTENSIONS = (
    *(".mp4", ".webm", ".mkv", ".avi", ".mov"),
    *(".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ogv", ".ts", ".mts", ".m2ts", ".vob"),
    ".gif",
)
A_DIRECTORY = "a directory of that name"

# The folder below the root ("" for the root) and the name in it.
File = tuple[str, str]


class Directory:
    """The videos below a folder. Use `index`.

    Attributes:
        root: the folder.
        unlistable: sub-folders that were not listed, with the reason.
    """

    def __init__(self, root: str):
        self.root = root
        self.unlistable: dict[str, str] = {}
        self._stems: dict[str, list[File]] = {}
        # Regular files without any extension, which only a name without one can mean.
        self._bare: set[File] = set()
        self._defects: dict[File, str] = {}
        # Everything else, which nobody takes for a video.
        self._others: dict[File, str] = {}
        # The sub-folders of every folder, by name.
        self._folders: dict[str, list[str]] = {}

    @classmethod
    def index(cls, root: str | os.PathLike[str]) -> Self:
        """Lists the files of all sub-folders; follows links, but lists no folder twice.

        Files and folders whose names begin with a dot are no videos.

        Raises:
            MoloError: the folder itself cannot be listed.
        """
        folder = cls(os.fspath(root))
        folder._walk()
        return folder

    def files(self) -> list[str]:
        """The usable files with the extension of a video, as sorted paths below the root."""
        return sorted(
            join(*file)
            for files in self._stems.values()
            for file in files
            if file not in self._defects
        )

    def defects(self) -> dict[str, str]:
        """What is named like a video and is none, as paths below the root, with the reason."""
        return {join(*file): reason for file, reason in sorted(self._defects.items())}

    def others(self) -> dict[str, str]:
        """What is neither a video nor a folder by its name, as sorted paths, with the reason.

        Of a folder whose name begins with a dot, which is not listed, the path ends in "/".
        """
        return {join(*file): reason for file, reason in sorted(self._others.items())}

    def folders(self) -> list[str]:
        """The sub-folders, as sorted paths below the root."""
        return sorted(join(above, name) for above, names in self._folders.items() for name in names)

    def _walk(self) -> None:
        """Lists all folders, those behind links last, so that a real path has precedence."""
        seen = _ancestors(self.root)
        real, linked = deque([""]), deque()
        while real or linked:
            folder = (real or linked).popleft()
            path = os.path.join(self.root, folder) if folder else self.root
            try:
                status = os.stat(path)
                known = seen.setdefault((status.st_dev, status.st_ino), path)
                if known != path:
                    self.unlistable[path] = f"it is the same folder as {printable(known)}"
                    continue
                with os.scandir(path) as entries:
                    folders, links = self._list(folder, entries)
            except OSError as error:
                if not folder:
                    message = f"cannot list the video folder {path}: {error.strerror}"
                    raise MoloError(message) from error
                self.unlistable[path] = error.strerror or str(error)
                self._folders.setdefault(folder, [])
                continue
            self._folders[folder] = folders + links
            real.extend(join(folder, name) for name in sorted(folders))
            linked.extend(join(folder, name) for name in sorted(links))

    def _list(self, folder: str, entries: Iterable[os.DirEntry]) -> tuple[list[str], list[str]]:
        """Records the videos of a folder; returns its sub-folders and the links to folders."""
        folders, links = [], []
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                slash = "/" if entry.is_dir(follow_symlinks=False) else ""
                self._others[folder, name + slash] = "its name begins with a dot"
                continue
            stem, extension = split_extension(name)
            defect = ""
            if entry.is_dir(follow_symlinks=False):
                folders.append(name)
                defect = A_DIRECTORY
            elif entry.is_symlink():
                defect = _link_defect(entry.path)
                if defect == A_DIRECTORY:
                    links.append(name)
            elif not entry.is_file(follow_symlinks=False):
                defect = "not a regular file"
            if extension:
                self._stems.setdefault(stem, []).append((folder, name))
                if defect:
                    self._defects[folder, name] = defect
            elif defect != A_DIRECTORY:
                self._others[folder, name] = _no_extension(name)
                if not defect and "." not in name:
                    self._bare.add((folder, name))
        return folders, links


def printable(path: str) -> str:
    r"""A path for people to read: what is not UTF-8, and control characters, as \x… or \u….

    A path that is not UTF-8 on disk has surrogates in Python, which cannot be printed or encoded.
    """
    if path.isprintable():
        return path
    return "".join(
        _escape(c) if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in path
    )


def _escape(character: str) -> str:
    byte = ord(character) - 0xDC00
    if 0x80 <= byte <= 0xFF:  # where os.fsdecode puts bytes that are not UTF-8
        return f"\\x{byte:02x}"
    return character.encode("unicode_escape").decode()


def split_extension(name: str) -> tuple[str, str]:
    """The stem and the extension of a video, which is empty for everything else."""
    stem, dot, extension = name.rpartition(".")
    if dot + extension.lower() in EXTENSIONS:
        return stem, dot + extension
    return name, ""


def _no_extension(name: str) -> str:
    extension = os.path.splitext(name)[1]
    return f"{extension} is no extension of a video" if extension else "it has no extension"


def join(folder: str, name: str) -> str:
    """A path below the root."""
    return f"{folder}/{name}" if folder else name


def _link_defect(path: str) -> str:
    """Why a link is no file; empty for one that leads to a regular file."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "a link to nothing"
    except OSError as error:
        return f"a link that cannot be followed: {error.strerror}"
    if stat.S_ISDIR(mode):
        return A_DIRECTORY
    return "" if stat.S_ISREG(mode) else "not a regular file"


def _ancestors(root: str) -> dict[tuple[int, int], str]:
    """The folders above the root by device and inode; a link in it must not lead back to them."""
    identities = {}
    path = os.path.realpath(root)
    while (parent := os.path.dirname(path)) != path:
        path = parent
        try:
            status = os.stat(path)
        except OSError:
            break
        identities[status.st_dev, status.st_ino] = path
    return identities
