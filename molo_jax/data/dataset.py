"""The videos of one split on disk, and the record of those that turned out bad."""

import logging
import os
import threading

import numpy as np

from molo_jax.data.decode import BadVideoError, decode_clip
from molo_jax.data.episodes import ClipRequest
from molo_jax.data.frames import frame_chooser
from molo_jax.data.splits import SPLIT_FILE, Split, Video, read_split
from molo_jax.errors import MoloError, UsageError

EXTENSIONS = (".mp4", ".webm", ".mkv", ".avi", ".mov")
BAD_VIDEO_POLICIES = ("fail", "skip")
MESSAGE_EXAMPLES = 5

logger = logging.getLogger(__name__)


class VideoDataset:
    """A split list matched with the files of a folder. Use `VideoDataset.open`.

    All methods may be called from several threads.

    Attributes:
        root: the video folder.
        split: the split list.
        on_bad_video: "fail" or "skip".
    """

    def __init__(self, root: str, split: Split, paths: list[list[str]], on_bad_video: str):
        self.root = root
        self.split = split
        self.on_bad_video = on_bad_video
        self._paths = paths
        self._bad: dict[tuple[int, int], str] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls,
        root: str | os.PathLike[str],
        split_dir: str | os.PathLike[str],
        split: str,
        *,
        on_bad_video: str,
        how_to_get: str,
    ) -> "VideoDataset":
        """Reads `<split_dir>/<split>_few_shot.txt` and finds its videos below `root`.

        The file of a video is `<root>/<name>`, or that with one of `EXTENSIONS`.

        Args:
            root: the video folder.
            split_dir: the folder of the split lists.
            split: name of the split.
            on_bad_video: "fail": a missing or broken video is an error; "skip": it is left out of
                its class and counted.
            how_to_get: one sentence that tells the user how to get the data.

        Raises:
            UsageError: `on_bad_video` has another value.
            MoloError: the folder or the list is missing, the list is malformed, or videos are
                missing and `on_bad_video` is "fail".
        """
        if on_bad_video not in BAD_VIDEO_POLICIES:
            raise UsageError(f"on_bad_video is {on_bad_video!r}; expected 'fail' or 'skip'")
        root = os.fspath(root)
        list_path = os.path.join(split_dir, SPLIT_FILE.format(split=split))
        if not os.path.isdir(root):
            raise MoloError(f"the video folder {root} does not exist. {how_to_get}")
        if not os.path.isfile(list_path):
            raise MoloError(f"the split list {list_path} does not exist. {how_to_get}")
        listed = read_split(list_path, split)
        paths = _find_files(root, listed)
        dataset = cls(root, listed, paths, on_bad_video)
        dataset._note_missing(how_to_get)
        return dataset

    @property
    def class_sizes(self) -> tuple[int, ...]:
        """Number of listed videos of each class, bad ones included."""
        return self.split.class_sizes

    @property
    def bad_count(self) -> int:
        """Number of videos known to be missing or broken."""
        with self._lock:
            return len(self._bad)

    def bad_videos(self) -> dict[str, str]:
        """The videos known to be missing or broken: their files, with what is wrong."""
        with self._lock:
            return {self.path(*video): reason for video, reason in sorted(self._bad.items())}

    def is_bad(self, class_position: int, video_position: int) -> bool:
        """Whether the video is known to be missing or broken."""
        return (class_position, video_position) in self._bad

    def video(self, class_position: int, video_position: int) -> Video:
        """The line of the split list."""
        return self.split.videos[class_position][video_position]

    def path(self, class_position: int, video_position: int) -> str:
        """The file of the video; of a missing one, the file that was expected."""
        found = self._paths[class_position][video_position]
        return found or os.path.join(self.root, self.video(class_position, video_position).name)

    def read_clip(
        self, request: ClipRequest, *, sampling: str, resize: int, static: bool = False
    ) -> np.ndarray:
        """Decodes a clip.

        Args:
            request: the video, and the draws that choose its frames.
            sampling: one of `frames.SAMPLINGS`.
            resize: side of the square that frames are resized to.
            static: show one frame T times.

        Returns:
            (t, h, w, c) uint8.

        Raises:
            BadVideoError: the video is missing or broken. With "skip" it has been recorded.
        """
        choose = frame_chooser(sampling, request.draws, static)
        try:
            return decode_clip(self.path(*request.video), choose, resize)
        except BadVideoError as error:
            self._note_broken(request.video, error)
            raise

    def _note_missing(self, how_to_get: str) -> None:
        missing = [
            (class_position, video_position)
            for class_position, paths in enumerate(self._paths)
            for video_position, path in enumerate(paths)
            if not path
        ]
        if not missing:
            return
        examples = ", ".join(
            f"{video.name} (line {video.line})"
            for video in (self.video(*where) for where in missing[:MESSAGE_EXAMPLES])
        )
        total = sum(self.class_sizes)
        message = (
            f"{len(missing)} of the {total} videos in {self.split.path} are not in {self.root}: "
            f"{examples}{', …' if len(missing) > MESSAGE_EXAMPLES else ''}"
        )
        if self.on_bad_video == "fail":
            raise MoloError(
                f"{message}. Set data.on_bad_video=skip to leave them out of their classes, "
                f"or get them: {how_to_get}"
            )
        logger.warning("%s; they are left out of their classes", message)
        self._bad.update(dict.fromkeys(missing, "missing"))

    def _note_broken(self, video: tuple[int, int], error: BadVideoError) -> None:
        if self.on_bad_video == "fail":
            return
        with self._lock:
            known = video in self._bad
            self._bad.setdefault(video, error.reason)
        if not known:
            listed = self.video(*video)
            logger.warning("%s; left out of class %d", error, listed.class_id)


def _find_files(root: str, split: Split) -> list[list[str]]:
    """The path of every video of the split, "" for a missing one; lists each folder once."""
    folders: dict[str, dict[str, bool]] = {}
    found = []
    for videos in split.videos:
        found.append([])
        for video in videos:
            folder, name = os.path.split(os.path.join(root, video.name))
            if folder not in folders:
                folders[folder] = _list_folder(folder)
            match = _match(name, folders[folder])
            found[-1].append(os.path.join(folder, match) if match else "")
    return found


def _match(name: str, entries: dict[str, bool]) -> str:
    """The entry for a video; a folder of its name counts only where there is no file."""
    candidates = [c for c in (name, *(name + e for e in EXTENSIONS)) if c in entries]
    files = [candidate for candidate in candidates if not entries[candidate]]
    return next(iter(files + candidates), "")


def _list_folder(folder: str) -> dict[str, bool]:
    """The names in a folder, each with whether it is a folder; nothing if there is no such one."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.is_dir() for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise MoloError(f"cannot list the video folder {folder}: {error.strerror}") from error
