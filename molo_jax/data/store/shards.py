"""Record files: ArrayRecord files of prepared videos, each written as a whole or not at all."""

import contextlib
import dataclasses
import functools
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from molo_jax.data.lists.splits import STANDARD_SPLITS
from molo_jax.data.store.processes import Lost
from molo_jax.data.store.records import Listed, Manifest, Outcome, Settings, manifest_path
from molo_jax.data.video.encode import EncodedVideo
from molo_jax.errors import MoloError

# TFDS's own setting, but for the compression, which gains nothing on JPEG and costs time.
_RECORD_OPTIONS = "group_size:1,uncompressed"
_GONE = "its file is gone; the prepared frames are kept"


@dataclasses.dataclass(frozen=True)
class Stored:
    """A good video's record in an earlier record file.

    Attributes:
        path: the record file.
        position: the record's number in it.
        listed: the line that it was made of.
        outcome: what is known of it.
    """

    path: Path
    position: int
    listed: Listed
    outcome: Outcome


def stored_records(folders: Iterable[Path], settings: Settings) -> dict[tuple[str, str], Stored]:
    """The records of whole record files with the same settings, by split and name."""
    found = {}
    for path in [path for folder in folders for path in sorted(folder.glob("*array_record*.json"))]:
        records = path.with_suffix("")
        try:
            manifest = Manifest.read(path)
            if (manifest.settings, manifest.bytes) != (settings, records.stat().st_size):
                continue
        except (MoloError, OSError):
            continue
        position = 0
        for listed, outcome in zip(manifest.listed, manifest.outcomes, strict=True):
            if not outcome.reason:
                found[manifest.split, listed.name] = Stored(records, position, listed, outcome)
                position += 1
    return found


@dataclasses.dataclass(frozen=True)
class Shard:
    """A record file to be made.

    Attributes:
        path: where.
        split: name of its split.
        listed: the videos.
        settings: how they are prepared.
        stored: the records that can be copied, by name.
    """

    path: Path
    split: str
    listed: tuple[Listed, ...]
    settings: Settings
    stored: Mapping[str, Stored] = dataclasses.field(default_factory=dict, compare=False)

    def is_made(self, *, failures_count: bool = False) -> bool:
        """Whether the file is there as a whole, from the same videos and settings.

        Args:
            failures_count: whether a video counts as dealt with where another try may do better.
        """
        try:
            manifest = Manifest.read(manifest_path(self.path))
            size = self.path.stat().st_size
        except (MoloError, OSError):
            return False
        found = manifest.settings, manifest.bytes, len(manifest.listed)
        if found != (self.settings, size, len(self.listed)):
            return False
        outcomes = manifest.outcomes
        if failures_count:
            outcomes = [dataclasses.replace(outcome, transient=False) for outcome in outcomes]
        lines = zip(manifest.listed, self.listed, outcomes, strict=True)
        return all(outcome.still_holds(recorded, wanted) for recorded, wanted, outcome in lines)

    def with_stored(self, stored: Mapping[tuple[str, str], Stored]) -> "Shard":
        """The same, knowing which of its records there are already."""
        own = {
            video.name: found
            for video in self.listed
            if (found := _stored_of(stored, self.split, video))
            and found.outcome.still_holds(_as_listed(found, video), video)
        }
        return dataclasses.replace(self, stored=own)

    def tasks(self) -> list[tuple[str, Settings]]:
        """Arguments of `encode_or_reason` for the videos that have to be decoded."""
        return [
            (video.file, self.settings)
            for video in self.listed
            if video.usable and video.name not in self.stored
        ]

    def write(self, results: Iterator[EncodedVideo | str]) -> None:
        """Writes the record file and then its manifest.

        Args:
            results: an encoded video, or why there is none, for each of `tasks`.

        Raises:
            MoloError: the file cannot be written.
        """
        manifest_path(self.path).unlink(missing_ok=True)
        lines: list[tuple[Listed, Outcome]] = []
        with contextlib.closing(_OldRecords()) as old:
            size = _write_records(self.path, self._records(results, lines, old))
        listed, outcomes = zip(*lines, strict=True)
        manifest = Manifest(self.settings, self.split, listed, outcomes, size)
        manifest.write(manifest_path(self.path))

    def _records(
        self,
        results: Iterator[EncodedVideo | str],
        lines: list[tuple[Listed, Outcome]],
        old: "_OldRecords",
    ) -> Iterator[bytes]:
        """Yields the records of the good videos; notes what became of every one in `lines`."""
        for video in self.listed:
            if stored := self.stored.get(video.name):
                gone = dataclasses.replace(stored.listed, note=_GONE)
                lines.append((video if video.usable else gone, stored.outcome))
                yield _relabeled(old.read(stored), stored.listed, video)
                continue
            result = next(results) if video.usable else video.reason
            if isinstance(result, str):
                lines.append((video, Outcome(0, str(result), isinstance(result, Lost))))
                continue
            lines.append((video, Outcome(length=result.length)))
            yield _serialize(video, result)


def _stored_of(
    stored: Mapping[tuple[str, str], Stored], split: str, video: Listed
) -> Stored | None:
    """The record of a video, in its own split or, where it was in another one before, in that."""
    places = (split, *(other for other in STANDARD_SPLITS if other != split))
    return next((stored[s, video.name] for s in places if (s, video.name) in stored), None)


def _as_listed(stored: Stored, video: Listed) -> Listed:
    """The line that a record was made of, with the class that the video has now.

    The frames do not depend on the class. Of a video whose file is gone nothing is changed.
    """
    if not video.usable:
        return stored.listed
    return dataclasses.replace(stored.listed, class_id=video.class_id, class_name=video.class_name)


def _relabeled(record: bytes, was: Listed, video: Listed) -> bytes:
    """The same record for the class that the video has now."""
    if (was.class_id, was.class_name) == (video.class_id, video.class_name):
        return record
    example = tf_example_pb2.Example.FromString(record)
    feature = example.features.feature
    feature["class_id"].int64_list.value[:] = [video.class_id]
    feature["class_name"].bytes_list.value[:] = [video.class_name.encode()]
    return example.SerializeToString(deterministic=True)


class _OldRecords:
    """Reads records of earlier files, the last of which stays open."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._reader: Any = None

    def read(self, stored: Stored) -> bytes:
        """The bytes of a record."""
        if stored.path != self._path:
            self.close()
            self._reader = array_record_module.ArrayRecordReader(str(stored.path))
            self._path = stored.path
        return self._reader.read([stored.position])[0]

    def close(self) -> None:
        """Closes the file."""
        if self._reader is not None:
            self._reader.close()


def _serialize(video: Listed, result: EncodedVideo) -> bytes:
    features, serializer = _serializer()
    example = {
        "video": video.name,
        "class_id": video.class_id,
        "class_name": video.class_name,
        "length": result.length,
        "rate": np.array(result.rate, np.int64),
        "frame_numbers": result.numbers,
        "frames": result.images,
    }
    record = serializer.get_tf_example(features.encode_example(example))
    # The fields are a map, whose order is otherwise another in every process.
    return record.SerializeToString(deterministic=True)


def make_features() -> tfds.features.FeaturesDict:
    """What a record holds; the frame rate is a fraction."""
    return tfds.features.FeaturesDict(
        {
            "video": tfds.features.Text(),
            "class_id": np.int64,
            "class_name": tfds.features.Text(),
            "length": np.int64,
            "rate": tfds.features.Tensor(shape=(2,), dtype=np.int64),
            "frame_numbers": tfds.features.Tensor(shape=(None,), dtype=np.int64),
            # As bytes, so that a reader decodes only the images that it needs.
            "frames": tfds.features.Sequence(tfds.features.Tensor(shape=(), dtype=np.object_)),
        }
    )


@functools.cache
def _serializer() -> tuple[Any, Any]:
    features = make_features()
    return features, tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())


def _write_records(path: Path, records: Iterable[bytes]) -> int:
    """Writes a record file under a temporary name, reads it back, renames it; returns its size.

    Raises:
        MoloError: it cannot be written, for want of space for instance.
    """
    # Processes of several machines, or containers, may have the same number.
    part = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.part")
    count = 0
    try:
        writer = array_record_module.ArrayRecordWriter(str(part), _RECORD_OPTIONS)
        try:
            for record in records:
                writer.write(record)
                count += 1
        finally:
            writer.close()
        _check_written(part, count)
        os.replace(part, path)
    except RuntimeError as error:
        raise MoloError(
            f"{path} cannot be written: {str(error).split(';')[0]}. Record files that are whole are"
            " kept; the same command goes on from there"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return path.stat().st_size


def _check_written(path: Path, count: int) -> None:
    reader = array_record_module.ArrayRecordReader(str(path))
    found = reader.num_records()
    reader.close()
    if found != count:
        raise RuntimeError(f"{found} of {count} records can be read back")
    # Onto the disk before its manifest says that it is there.
    with path.open("rb") as file:
        os.fsync(file.fileno())
