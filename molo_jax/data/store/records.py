"""The format of prepared videos: what a record holds, which frames are kept, how files are named.

A prepared data set is a folder `few_shot_videos/<dataset>/<version>` that TFDS can read:
ArrayRecord files of `tf.train.Example`s, one for each usable video in the order of the split list,
with `features.json` and `dataset_info.json`. Beside each record file lies a *manifest* (JSON) of
the listed videos it covers: those whose frames are in it, and those that are not, with the reason.
The manifests are the index for random access, and what makes a preparation resumable.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from molo_jax.benchmarks import default_sampling
from molo_jax.data.video.frames import window_reach
from molo_jax.errors import MoloError, UsageError
from molo_jax.files import checked_fields, read_json, write_json

_AGAIN = "prepare the data again"
BUILDER, VERSION = "few_shot_videos", "1.0.0"
SETTINGS_FILE = "preparation.json"
# Videos of a record file: what a kill costs at most, and few enough files to keep all of them open.
# A small set is written in smaller files, about FEW_FILES for each split.
LEAST_SHARD_VIDEOS, SHARD_VIDEOS, FEW_FILES = 32, 256, 32
# Of a record, which is read and parsed as a whole for every clip.
MOST_RECORD_BYTES = 512 << 20


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the prepared frames of a video depend on, apart from the video.

    Attributes:
        dataset: its name.
        resize: side of the square that frames are resized to.
        quality: of the JPEG images, 1 to 100.
        chroma: "420" or "444", see `images.encode_jpeg`.
        keep: "all" frames, or those that a "window" of `num_frames` can show (Kinetics-100).
        num_frames: frames of a clip with "window", otherwise 0.
        max_frames: at most so many frames of a video, evenly spaced; 0 for no limit.

    Raises:
        ValueError: `num_frames` does not go with `keep`.
    """

    dataset: str
    resize: int = 256
    quality: int = 95
    chroma: str = "420"
    keep: str = "all"
    num_frames: int = 0
    max_frames: int = 0

    def __post_init__(self):
        if self.keep == "window" and self.num_frames < 1:
            raise ValueError(
                f'num_frames is {self.num_frames}; keep="window" needs the number of frames of a'
                ' clip, or use keep="all"'
            )

    @classmethod
    def of(cls, dataset: str, **changes: Any) -> "Settings":
        """Returns what suits a data set, with the changes that are not None."""
        given = {name: value for name, value in changes.items() if value is not None}
        values = _suitable(dataset) | given
        if values.get("keep") != "window":
            values["num_frames"] = 0
        return cls(dataset, **values)

    def frames_kept(self, length: int, fps: float) -> np.ndarray:
        """Returns the (n,) int64 numbers of the frames of a video that are stored, ascending.

        Raises:
            FrameRateError: the video has no frame rate, which a window needs.
        """
        window = self.keep == "window"
        kept = window_reach(length, fps, self.num_frames) if window else np.arange(length)
        most = self.most_frames
        if len(kept) > most:
            places = (np.arange(most) + 0.5) * len(kept) / most
            kept = kept[places.astype(np.int64)]
        return kept

    @property
    def most_frames(self) -> int:
        """So many frames of a video are stored at most: `max_frames`, or what a record can hold.

        A record has room for one byte a pixel, which JPEG images of high quality seldom need: 8192
        frames of 256×256 pixels. Of a longer video so many frames are stored, evenly spaced.
        """
        fits = max(1, MOST_RECORD_BYTES // self.resize**2)
        return min(self.max_frames or fits, fits)

    def shortens(self, length: int) -> bool:
        """Whether some frames of a video of so many frames may have been left out as too many."""
        return bool(self.max_frames) or length > self.most_frames

    def check_use(self, *, sampling: str, num_frames: int, resize: int) -> None:
        """Checks that clips of these kinds can be made from the stored frames.

        Raises:
            UsageError: naming the setting of the configuration and how to prepare for it.
        """
        again = "prepare again with"
        if resize != self.resize:
            raise UsageError(
                f"config.data.resize is {resize}, but the frames of {self.dataset} were prepared"
                f" with {self.resize}; set that, or {again} --resize={resize}"
            )
        fits = sampling.startswith("window") and num_frames == self.num_frames
        if self.keep == "window" and not fits:
            raise UsageError(
                f"config.data.sampling is {sampling!r} with {num_frames} frames, but only those"
                f" frames of {self.dataset} were kept that a window of {self.num_frames} can show;"
                f" {again} --keep=all"
            )

    def __str__(self) -> str:
        limit = f", at most {self.max_frames} frames" if self.max_frames else ""
        kept = f"{self.keep} of {self.num_frames}" if self.keep == "window" else self.keep
        return (
            f"{self.dataset} (resize {self.resize}, quality {self.quality}, chroma {self.chroma},"
            f" keep {kept}{limit})"
        )


def _suitable(dataset: str) -> dict[str, Any]:
    if default_sampling(dataset) == "window":
        # Of a video of Kinetics, windows reach a sixth of the frames.
        return {"keep": "window"}
    # To the few colors of 32 pixels half the resolution would do harm.
    return {"resize": 32, "chroma": "444"} if dataset == "synthetic" else {}


def read_settings(path: Path) -> Settings:
    """Reads the settings of a prepared data set.

    Raises:
        MoloError: the file cannot be read, or is damaged.
    """
    content = read_json(path, _AGAIN)
    try:
        return Settings(**checked_fields(Settings, content))
    except (ValueError, TypeError) as error:
        raise MoloError(f"{path} is damaged ({error}); {_AGAIN}") from error


@dataclasses.dataclass(frozen=True)
class Listed:
    """A line of a split list with the file that was found for it.

    Attributes:
        name: the video as the list names it.
        class_id: the class number of the list.
        class_name: the name of the class, or an empty string.
        file: path of the video; empty where there is none.
        reason: why there is no file, or it is no video; empty for a file that looks usable.
        note: a remark for the report.
        size, mtime_ns: of the file, by which a changed one is known; -1 where there is none.
    """

    name: str
    class_id: int
    class_name: str = ""
    file: str = ""
    reason: str = ""
    note: str = ""
    size: int = -1
    mtime_ns: int = -1

    @property
    def identity(self) -> tuple[str | int, ...]:
        """What a record is made of: two lines with the same give the same record.

        The path is not part of it, so that a folder may be moved.
        """
        return self.name, self.class_id, self.class_name, self.size, self.mtime_ns, self.reason

    @property
    def usable(self) -> bool:
        """Whether it is worth trying to decode the file."""
        return bool(self.file) and not self.reason


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a listed video.

    Attributes:
        length: number of frames of the video; 0 where it is not usable.
        reason: why it has no record; empty for a good one.
        transient: whether another try may do better: after a crash, a time limit, or where the
            file could not be opened.
    """

    length: int = 0
    reason: str = ""
    transient: bool = False

    def still_holds(self, recorded: Listed, wanted: Listed) -> bool:
        """Whether it is what a preparation of `wanted` would lead to, or better.

        The record of a video whose file is gone is kept.
        """
        gone = not wanted.usable and not self.reason
        same = recorded.identity == wanted.identity
        return not self.transient and (same or (gone and _same_class(recorded, wanted)))


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The videos of a split that a record file covers.

    Attributes:
        settings: what they were prepared with.
        split: the split's name.
        listed: its lines.
        outcomes: what became of each.
        bytes: size of the record file.
    """

    settings: Settings
    split: str
    listed: tuple[Listed, ...]
    outcomes: tuple[Outcome, ...]
    bytes: int

    @property
    def records(self) -> int:
        """Number of videos in the record file."""
        return sum(not outcome.reason for outcome in self.outcomes)

    def write(self, path: Path) -> None:
        """Writes a file that is there as a whole or not at all."""
        content = {
            "settings": dataclasses.asdict(self.settings),
            "split": self.split,
            "bytes": self.bytes,
            "videos": [
                dataclasses.asdict(listed)
                | dataclasses.asdict(outcome)
                # A missing file's reason stays apart from an unusable video's.
                | {"file_reason": listed.reason}
                for listed, outcome in zip(self.listed, self.outcomes, strict=True)
            ],
        }
        write_json(path, content, indent=None)

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Reads a manifest.

        Raises:
            MoloError: the file cannot be read, or is no manifest.
        """
        content = read_json(path, _AGAIN)
        try:
            listed, outcomes = [], []
            for video in content["videos"]:
                outcome = {name: video.pop(name) for name in ("length", "reason", "transient")}
                outcomes.append(Outcome(**checked_fields(Outcome, outcome)))
                video["reason"] = video.pop("file_reason")
                listed.append(Listed(**checked_fields(Listed, video)))
            settings = Settings(**checked_fields(Settings, content["settings"]))
            split, size = content["split"], content["bytes"]
            if type(split) is not str or type(size) is not int:
                raise ValueError("its split is no text, or its size no whole number")
            return cls(settings, split, tuple(listed), tuple(outcomes), size)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MoloError(f"{path} is damaged ({error}); {_AGAIN}") from error


def _same_class(one: Listed, other: Listed) -> bool:
    return one.identity[:3] == other.identity[:3]


def manifest_path(records: Path) -> Path:
    """Returns the path of the manifest beside a record file."""
    return records.with_name(f"{records.name}.json")


def prepared_folder(out: str | os.PathLike[str], dataset: str) -> Path:
    """Returns the folder of a prepared data set below the folder given as `--out`."""
    return Path(out) / BUILDER / dataset / VERSION


def videos_of_a_shard(listed: int) -> int:
    """Number of videos of each record file of a split with so many listed ones."""
    return min(SHARD_VIDEOS, max(LEAST_SHARD_VIDEOS, -(-listed // FEW_FILES)))
