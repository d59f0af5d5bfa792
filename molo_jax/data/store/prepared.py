"""Clips from prepared videos: of the record of a video only the chosen frames are decoded.

The first time the whole record is read, and its hash is checked. From then on it is known where the
images lie in the file, and those of the chosen frames are all that is read.
"""

import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from molo_jax.data.clips.source import ClipSource
from molo_jax.data.lists.splits import STANDARD_SPLITS, Split, Video
from molo_jax.data.store.layout import VideoLayout
from molo_jax.data.store.parts import RecordFile
from molo_jax.data.store.records import (
    SETTINGS_FILE,
    Listed,
    Manifest,
    Settings,
    manifest_path,
    prepared_folder,
    read_settings,
)
from molo_jax.data.video.containers import BadVideoError
from molo_jax.data.video.frames import ChooseFrames, FrameRateError
from molo_jax.data.video.images import decode_jpegs
from molo_jax.errors import MoloError

# For where the images lie, of all videos together: 12 bytes an image. SSv2 takes 80 MB.
_MOST_KNOWN_BYTES = 256 << 20
_BYTES_OF_A_LAYOUT = 500


class PreparedDataset(ClipSource):
    """The prepared videos of a split. Use `PreparedDataset.open`.

    Attributes:
        settings: what they were prepared with.
    """

    def __init__(
        self, split: Split, settings: Settings, manifests: Sequence[Manifest], on_bad_video: str
    ):
        super().__init__(split, on_bad_video)
        self.settings = settings
        self._manifests = tuple(manifests)
        self._files = {video.name: video.file for video in _listed(manifests)}
        self._classes = {v.name: (v.class_id, v.class_name) for v in _listed(manifests)}
        # The record file of each video, and the number of its record there.
        self._places: dict[str, tuple[RecordFile, int]] = {}
        self._known: dict[str, VideoLayout] = {}
        self._known_bytes = 0

    @classmethod
    def open(
        cls,
        out: str | os.PathLike[str],
        dataset: str,
        split: str,
        *,
        on_bad_video: str,
        how_to_get: str,
    ) -> "PreparedDataset":
        """Opens what `python -m molo_jax.prepare --out=OUT --dataset=DATASET` has written.

        Args:
            out: the folder that was given as `--out`.
            dataset: name of the data set.
            split: name of the split.
            on_bad_video: "fail": a video of the list that could not be prepared is an error;
                "skip": it is left out of its class and counted.
            how_to_get: one sentence that tells the user how to prepare the data.

        Raises:
            UsageError: `on_bad_video` has another value.
            MoloError: there is no such data set or split, a file of it is missing or damaged, or
                videos could not be prepared and `on_bad_video` is "fail".
        """
        folder = prepared_folder(out, dataset)
        if not (folder / SETTINGS_FILE).exists():
            raise MoloError(f"there are no prepared videos of {dataset} in {out}. {how_to_get}")
        paths = _record_files(folder, split)
        if not paths:
            raise MoloError(f"{folder} has no split {split!r}. {how_to_get}")
        count = int(paths[0].name.rpartition("-of-")[2])
        if len(paths) != count:
            raise MoloError(
                f"{folder} has {len(paths)} of the {count} record files of {split}; prepare the"
                " data again"
            )
        manifests = [Manifest.read(manifest_path(path)) for path in paths]
        source = cls(
            _split(split, folder, manifests),
            read_settings(folder / SETTINGS_FILE),
            manifests,
            on_bad_video,
        )
        source._open_records(paths, manifests)
        source._note_unprepared(manifests, how_to_get)
        return source

    @staticmethod
    def lists(out: str | os.PathLike[str], dataset: str) -> dict[str, Split]:
        """Reads the lists of all splits that were prepared; the path of each names its split.

        Raises:
            MoloError: a manifest is damaged.
        """
        folder = prepared_folder(out, dataset)
        lists = {}
        for split in STANDARD_SPLITS:
            manifests = map(manifest_path, _record_files(folder, split))
            manifests = [path for path in manifests if path.exists()]
            if manifests:
                listed = _split(split, folder, [Manifest.read(path) for path in manifests])
                lists[split] = dataclasses.replace(listed, path=f"the {split} split of {folder}")
        return lists

    @property
    def pixels(self) -> str:
        """What the frames went through: their compression, and how many of a video are left."""
        kept = f", at most {most} of a video" if (most := self.settings.max_frames) else ""
        return f"JPEG images of quality {self.settings.quality}, {self.settings.chroma}{kept}"

    def path(self, class_position: int, video_position: int) -> str:
        """The video file that the frames are from; of a missing one, its name in the list."""
        name = self.video(class_position, video_position).name
        return self._files[name] or name

    def check_use(self, *, sampling: str, num_frames: int, resize: int) -> None:
        """See `Settings.check_use`."""
        self.settings.check_use(sampling=sampling, num_frames=num_frames, resize=resize)

    def _open_records(self, paths: Sequence[Path], manifests: Sequence[Manifest]) -> None:
        for path, manifest in zip(paths, manifests, strict=True):
            size = path.stat().st_size
            if size != manifest.bytes:
                raise MoloError(
                    f"{path} has {size} bytes, {manifest.bytes} were written; prepare the data"
                    " again"
                )
            file = RecordFile(path, manifest.records)
            lines = zip(manifest.listed, manifest.outcomes, strict=True)
            good = (video.name for video, outcome in lines if not outcome.reason)
            self._places |= {name: (file, number) for number, name in enumerate(good)}

    def _note_unprepared(self, manifests: Sequence[Manifest], remedy: str) -> None:
        reasons = {
            video.name: outcome.reason
            for manifest in manifests
            for video, outcome in zip(manifest.listed, manifest.outcomes, strict=True)
            if outcome.reason
        }
        absent = {
            (class_position, video_position): reasons[video.name]
            for class_position, videos in enumerate(self.split.videos)
            for video_position, video in enumerate(videos)
            if video.name in reasons
        }
        missing = sum(reason == "missing" for reason in absent.values())
        lack = f"could not be prepared ({missing} missing, {len(absent) - missing} not usable)"
        self._note_absent(absent, lack, remedy)

    def _identity(self) -> Iterator[Any]:
        yield dataclasses.asdict(self.settings)
        for manifest in self._manifests:
            yield manifest.bytes
            for video, outcome in zip(manifest.listed, manifest.outcomes, strict=True):
                yield video.identity, outcome.length, outcome.reason

    def _read(
        self,
        video: tuple[int, int],
        choose: ChooseFrames,
        resize: int,
        out: np.ndarray | None,
    ) -> np.ndarray:
        name = self.video(*video).name
        layout, record = self._known.get(name), None
        if layout is None:
            layout, record = self._whole(name)
        try:
            chosen = choose(layout.length, layout.rate)
        except FrameRateError as error:
            raise BadVideoError(self.path(*video), str(error)) from None
        ranges = layout.ranges(self._places_of(chosen, layout.numbers, name, layout.length))
        file, number = self._places[name]
        if record is not None:
            images = [record[start:stop] for start, stop in ranges]
            # What is found in the file counts only where it is what the library has found.
            if file.read_parts(number, layout.size, ranges[-1:]) == images[-1:]:
                self._keep(name, layout)
        else:
            images = file.read_parts(number, layout.size, ranges)
        if images is None:
            # Something has happened to the file: the whole record says what.
            self._known.pop(name, None)
            return self._read(video, choose, resize, out)
        try:
            return decode_jpegs(images, resize, out)
        except MoloError as error:
            raise MoloError(
                f"{self._where(name)}: {error}; remove {file.path} and prepare the data again"
            ) from error

    def _whole(self, name: str) -> tuple[VideoLayout, bytes]:
        """A record, and what is in it."""
        file, number = self._places[name]
        try:
            record = file.read(number)
            layout = VideoLayout.of(record)
        # What the library raises for a damaged or vanished file.
        except (RuntimeError, ValueError) as error:
            raise MoloError(
                f"{self._where(name)} cannot be read ({str(error).split(';')[0]}); remove"
                f" {file.path} and prepare the data again"
            ) from error
        self._check_identity(name, layout)
        return layout, record

    def _keep(self, name: str, layout: VideoLayout) -> None:
        """Keeps where the images of a video lie, as long as there is room."""
        size = layout.images.nbytes + _BYTES_OF_A_LAYOUT
        with self._lock:
            if name not in self._known and self._known_bytes + size <= _MOST_KNOWN_BYTES:
                self._known[name] = layout
                self._known_bytes += size

    def _check_identity(self, name: str, layout: VideoLayout) -> None:
        """Checks that a record is of the video and the class that the manifest says.

        Raises:
            MoloError: with what the record holds and what the manifest says.
        """
        found = layout.name, layout.class_id, layout.class_name
        wanted = name, *self._classes[name]
        if found != wanted:
            raise MoloError(
                f"{self._where(name)} is of {_identity(found)}, and its manifest says"
                f" {_identity(wanted)}: the manifests do not belong to the record files; remove"
                f" {self._places[name][0].path} and prepare the data again"
            )

    def _places_of(
        self, chosen: np.ndarray, stored: np.ndarray, name: str, length: int
    ) -> list[int]:
        """Where the chosen frames are among the stored ones; of a thinned video, the nearest."""
        places = np.searchsorted(stored, chosen).clip(max=len(stored) - 1)
        if self.settings.shortens(length):
            before = (places - 1).clip(min=0)
            nearer = chosen - stored[before] < stored[places] - chosen
            return np.where(nearer, before, places).tolist()
        if not np.array_equal(stored[places], chosen):
            raise MoloError(f"{self._where(name)} lacks frames {chosen}; prepare the data again")
        return places.tolist()

    def _where(self, name: str) -> str:
        return f"the record of {name} in {self.split.path}"


def _record_files(folder: Path, split: str) -> list[Path]:
    return sorted(folder.glob(f"*-{split}.array_record-*-of-*[0-9]"))


def _listed(manifests: Sequence[Manifest]) -> Iterator[Listed]:
    return itertools.chain.from_iterable(manifest.listed for manifest in manifests)


def _split(name: str, folder: Path, manifests: Sequence[Manifest]) -> Split:
    """The list that was prepared, with the names of its classes."""
    listed = enumerate(_listed(manifests), start=1)
    split = Split.of(
        name, str(folder), [Video(video.name, video.class_id, line) for line, video in listed]
    )
    names = {video.class_id: video.class_name for video in _listed(manifests)}
    return dataclasses.replace(split, names=tuple(names[class_id] for class_id in split.classes))


def _identity(found: tuple[str, int, str]) -> str:
    video, class_id, class_name = found
    return f"{video}, class {class_id}{f' ({class_name})' if class_name else ''}"
