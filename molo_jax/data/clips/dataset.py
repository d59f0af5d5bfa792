"""The videos of one split as files, decoded when they are needed."""

import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from molo_jax.data.clips.source import ClipSource, check_folder
from molo_jax.data.lists.finder import VideoFolder
from molo_jax.data.lists.splits import SPLIT_FILE, STANDARD_SPLITS, Split, read_split
from molo_jax.data.video.decode import VideoMetadata, decode_clip
from molo_jax.data.video.frames import ChooseFrames
from molo_jax.errors import MoloError


class VideoDataset(ClipSource):
    """A split list matched with the files of a folder. Use `VideoDataset.open`.

    Attributes:
        root: the video folder.
    """

    def __init__(
        self, root: str, split: Split, paths: list[list[str]], on_bad_video: str, seconds: float
    ):
        super().__init__(split, on_bad_video)
        self.root = root
        self._paths, self._seconds = paths, seconds
        # What the first reading of a file has found out serves the later ones.
        self._metadata: dict[str, VideoMetadata] = {}

    @classmethod
    def open(
        cls,
        root: str | os.PathLike[str],
        split_dir: str | os.PathLike[str],
        split: str,
        *,
        on_bad_video: str,
        how_to_get: str,
        seconds: float = math.inf,
    ) -> "VideoDataset":
        """Reads `<split_dir>/<split>_few_shot.txt` and finds its videos below `root`.

        Args:
            root: the video folder.
            split_dir: the folder of the split lists.
            split: name of the split.
            on_bad_video: "fail": a missing or broken video is an error; "skip": it is left out of
                its class and counted.
            how_to_get: one sentence that tells the user how to get the data.
            seconds: time limit for the reading of one video.

        Raises:
            UsageError: `on_bad_video` has another value.
            MoloError: the folder or the list is missing, the list is malformed, or videos are
                missing and `on_bad_video` is "fail".
        """
        root = os.fspath(root)
        list_path = os.path.join(split_dir, SPLIT_FILE.format(split=split))
        check_folder(root, how_to_get)
        if not os.path.isfile(list_path):
            raise MoloError(f"the split list {list_path} does not exist. {how_to_get}")
        listed = read_split(list_path, split)
        dataset = cls(root, listed, _find_files(root, split_dir, listed), on_bad_video, seconds)
        dataset._note_missing(how_to_get)
        return dataset

    def path(self, class_position: int, video_position: int) -> str:
        """The file of the video; of a missing one, the file that was expected."""
        found = self._paths[class_position][video_position]
        return found or os.path.join(self.root, self.video(class_position, video_position).name)

    def check_use(self, *, sampling: str, num_frames: int, resize: int) -> None:
        """Videos have all frames, in any size."""

    def _identity(self) -> Iterator[Any]:
        for videos, paths in zip(self.split.videos, self._paths, strict=True):
            for video, path in zip(videos, paths, strict=True):
                where = os.path.relpath(path, self.root) if path else ""
                yield video.class_id, video.name, where, *_status(path)

    def _read(
        self,
        video: tuple[int, int],
        choose: ChooseFrames,
        resize: int,
        out: np.ndarray | None,
    ) -> np.ndarray:
        path = self.path(*video)
        clip, self._metadata[path] = decode_clip(
            path, choose, resize, self._metadata.get(path), seconds=self._seconds
        )
        if out is None:
            return clip
        out[:] = clip
        return out

    def _note_missing(self, how_to_get: str) -> None:
        missing = {
            (class_position, video_position): "missing"
            for class_position, paths in enumerate(self._paths)
            for video_position, path in enumerate(paths)
            if not path
        }
        self._note_absent(missing, f"are not in {self.root}", how_to_get)


def _status(path: str) -> tuple[int, ...]:
    """Size and time of a file; nothing where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_size, status.st_mtime_ns


def _find_files(root: str, split_dir: str | os.PathLike[str], split: Split) -> list[list[str]]:
    """The path of every video of the split, "" for a missing one."""
    # The other lists say which files are not this list's.
    names = {video.name for videos in split.videos for video in videos}
    for other in STANDARD_SPLITS:
        path = os.path.join(split_dir, SPLIT_FILE.format(split=other))
        if other != split.name and os.path.isfile(path):
            names |= {v.name for videos in read_split(path, other).videos for v in videos}
    find = VideoFolder.index(root).finder(sorted(names))
    return [[find(video.name).path for video in videos] for videos in split.videos]
