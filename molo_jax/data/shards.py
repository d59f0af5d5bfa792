"""Record files: ArrayRecord files of prepared videos, each written as a whole or not at all."""

import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from molo_jax.data.encode import EncodedVideo, encode_or_reason
from molo_jax.data.records import Account, Listed, Outcome, Settings, account_path
from molo_jax.errors import MoloError

# TFDS's own setting, but for the compression, which gains nothing on JPEG and costs time.
_RECORD_OPTIONS = "group_size:1,uncompressed"


@dataclasses.dataclass(frozen=True)
class Shard:
    """A record file to be made.

    Attributes:
        path: where.
        split: name of its split.
        listed: the videos.
        settings: how they are prepared.
    """

    path: Path
    split: str
    listed: tuple[Listed, ...]
    settings: Settings

    def is_made(self) -> bool:
        """Whether the file is there as a whole, from the same videos and settings."""
        try:
            account = Account.read(account_path(self.path))
            size = self.path.stat().st_size
        except (MoloError, OSError):
            return False
        wanted = self.settings, self.listed, size
        return (account.settings, account.listed, account.bytes) == wanted

    def tasks(self) -> Iterator[tuple[str, Settings]]:
        """Arguments of `encode_or_reason` for the videos that have a file."""
        return ((video.file, self.settings) for video in self.listed if video.usable)

    def write(self, results: Iterator[EncodedVideo | str]) -> None:
        """Writes the record file and then its account.

        Args:
            results: an encoded video, or why there is none, for each of `tasks`.

        Raises:
            MoloError: the file cannot be written.
        """
        account_path(self.path).unlink(missing_ok=True)
        outcomes: list[Outcome] = []
        size = _write_records(self.path, self._examples(results, outcomes))
        account = Account(self.settings, self.split, self.listed, tuple(outcomes), size)
        account.write(account_path(self.path))

    def _examples(
        self, results: Iterator[EncodedVideo | str], outcomes: list[Outcome]
    ) -> Iterator[dict[str, Any]]:
        """Yields the good videos; notes what became of every one in `outcomes`."""
        for video in self.listed:
            result = next(results) if video.usable else video.reason
            if isinstance(result, str):
                outcomes.append(Outcome(reason=result))
                continue
            outcomes.append(Outcome(length=result.length))
            yield {
                "video": video.name,
                "class_id": video.class_id,
                "class_name": video.class_name,
                "length": result.length,
                "rate": np.array(result.rate, np.int64),
                "frame_numbers": result.numbers,
                "frames": result.images,
            }


def make_shard(shard: Shard) -> None:
    """Makes a record file in this process; what Beam's workers do."""
    if not shard.is_made():
        shard.write(encode_or_reason(*task) for task in shard.tasks())


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


def _write_records(path: Path, examples: Iterable[dict[str, Any]]) -> int:
    """Writes a record file under a temporary name, reads it back, renames it; returns its size.

    Raises:
        MoloError: it cannot be written, for want of space for instance.
    """
    features, serializer = _serializer()
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    count = 0
    try:
        writer = array_record_module.ArrayRecordWriter(str(part), _RECORD_OPTIONS)
        try:
            for example in examples:
                record = serializer.get_tf_example(features.encode_example(example))
                # The fields are a map, whose order is otherwise another in every process.
                writer.write(record.SerializeToString(deterministic=True))
                count += 1
        finally:
            writer.close()
        _check_written(part, count)
        os.replace(part, path)
    except RuntimeError as error:
        raise MoloError(
            f"{path} cannot be written: {str(error).split(';')[0]}. What is finished is kept; the"
            " same command goes on from there"
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
    # Onto the disk before its account says that it is there.
    with path.open("rb") as file:
        os.fsync(file.fileno())
