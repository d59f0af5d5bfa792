"""What clips come from: the videos of one split, and the record of those that are bad."""

import abc
import hashlib
import json
import logging
import os
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from molo_jax.data.clips.episodes import ClipRequest
from molo_jax.data.lists.splits import Split, Video
from molo_jax.data.video.containers import BadVideoError
from molo_jax.data.video.frames import ChooseFrames, frame_chooser
from molo_jax.errors import MoloError, UsageError

BAD_VIDEO_POLICIES = ("fail", "skip")
_EXAMPLES = 5

logger = logging.getLogger(__name__)


class ClipSource(abc.ABC):
    """The clips of a split. All methods may be called from several threads.

    Args:
        split: the split list, bad videos included.
        on_bad_video: "fail" or "skip".

    Raises:
        UsageError: `on_bad_video` has another value.
    """

    def __init__(self, split: Split, on_bad_video: str):
        if on_bad_video not in BAD_VIDEO_POLICIES:
            known = " or ".join(map(repr, BAD_VIDEO_POLICIES))
            raise UsageError(f"on_bad_video is {on_bad_video!r}; expected {known}")
        self.split = split
        self.on_bad_video = on_bad_video
        self._bad: dict[tuple[int, int], str] = {}
        self._lock = threading.Lock()

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

    def bad_places(self) -> dict[tuple[int, int], str]:
        """The places in the split of the videos known to be missing or broken, with the reasons."""
        with self._lock:
            return dict(self._bad)

    def note_bad(self, places: Mapping[tuple[int, int], str]) -> None:
        """Records videos that an earlier reading of the same files has found to be bad.

        With the policy "fail" nothing is recorded, so that reading them fails as it did.
        """
        if self.on_bad_video == "fail":
            return
        with self._lock:
            self._bad = {**places, **self._bad}

    def identity(self) -> str:
        """Returns a digest by which changed data are known: other files, or other frames of them.

        The files are not read: their names, sizes and times stand for their content. The folder
        that they are in does not matter.
        """
        whole = hashlib.sha256()
        for part in self._identity():
            whole.update(json.dumps(part, ensure_ascii=True).encode() + b"\n")
        return whole.hexdigest()

    def is_bad(self, class_position: int, video_position: int) -> bool:
        """Whether the video is known to be missing or broken."""
        return (class_position, video_position) in self._bad

    def video(self, class_position: int, video_position: int) -> Video:
        """The line of the split list."""
        return self.split.videos[class_position][video_position]

    def read_clip(
        self,
        request: ClipRequest,
        *,
        sampling: str,
        resize: int,
        static: bool = False,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Reads a clip.

        Args:
            request: the video, and the draws that choose its frames.
            sampling: one of `frames.SAMPLINGS`.
            resize: side of the square that frames are resized to.
            static: show one frame T times.
            out: the array to put the clip into.

        Returns:
            (t, h, w, c) uint8, `out` if it was given.

        Raises:
            BadVideoError: the video is missing or broken. With "skip" it has been recorded.
        """
        choose = frame_chooser(sampling, request.draws, static)
        try:
            return self._read(request.video, choose, resize, out)
        except BadVideoError as error:
            self._note_broken(request.video, error)
            raise

    @property
    def pixels(self) -> str:
        """What the frames went through before they are shown."""
        return "frames of the video files"

    @abc.abstractmethod
    def path(self, class_position: int, video_position: int) -> str:
        """The file of the video; of a missing one, the file that was expected."""

    @abc.abstractmethod
    def check_use(self, *, sampling: str, num_frames: int, resize: int) -> None:
        """Checks that such clips can be had here; what they are made of may not allow it.

        Raises:
            UsageError: naming what does not fit.
        """

    @abc.abstractmethod
    def _identity(self) -> Iterable[Any]:
        """Yields what `identity` is the digest of; values that JSON has."""

    @abc.abstractmethod
    def _read(
        self,
        video: tuple[int, int],
        choose: ChooseFrames,
        resize: int,
        out: np.ndarray | None,
    ) -> np.ndarray:
        """Reads the chosen frames; raises BadVideoError by what the video is, not by the choice."""

    def _note_absent(self, absent: dict[tuple[int, int], str], lack: str, remedy: str) -> None:
        """Records the videos that are known from the start not to be there.

        Args:
            absent: their places, with the reasons.
            lack: what is wrong with them, behind "5 of the 9 videos in the list".
            remedy: what a user can do.

        Raises:
            MoloError: there are some, and the policy is "fail".
        """
        if not absent:
            return
        examples = ", ".join(
            f"{video.name} (line {video.line})"
            for video in (self.video(*place) for place in list(absent)[:_EXAMPLES])
        )
        message = (
            f"{len(absent)} of the {sum(self.class_sizes)} videos in {self.split.path} {lack}:"
            f" {examples}{', …' if len(absent) > _EXAMPLES else ''}"
        )
        if self.on_bad_video == "fail":
            raise MoloError(
                f"{message}. Set data.on_bad_video=skip to leave them out of their classes, "
                f"or get them: {remedy}"
            )
        logger.warning("%s; they are left out of their classes", message)
        self._bad.update(absent)

    def _note_broken(self, video: tuple[int, int], error: BadVideoError) -> None:
        if self.on_bad_video == "fail":
            return
        with self._lock:
            known = video in self._bad
            self._bad.setdefault(video, error.reason)
        if not known:
            logger.warning("%s; left out of class %d", error, self.video(*video).class_id)


def check_folder(folder: str | os.PathLike[str], remedy: str) -> None:
    """Checks that the folder of the videos is there.

    Raises:
        MoloError: naming it and the remedy.
    """
    if not os.path.isdir(folder):
        raise MoloError(f"the video folder {os.fspath(folder)} does not exist. {remedy}")
