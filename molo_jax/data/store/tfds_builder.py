"""The TFDS builder that prepares videos: JPEG frames in ArrayRecord files, see `records`.

    builder = FewShotVideos(data_dir=out, settings=settings, lists=lists)
    builder.download_and_prepare()

An interrupted preparation goes on where it was, and a finished one is brought up to date where
files have come or changed: a record file is made anew only if its manifest differs. With
`beam` the record files are made by the workers of its runner, otherwise by processes of this
machine; the files are the same, byte for byte.
"""

import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder

from molo_jax.benchmarks import BENCHMARKS, OTHER_DATASETS
from molo_jax.data.store.processes import in_order
from molo_jax.data.store.records import (
    BUILDER,
    SETTINGS_FILE,
    VERSION,
    Listed,
    Manifest,
    Settings,
    manifest_path,
    read_settings,
    videos_of_a_shard,
)
from molo_jax.data.store.shards import Shard, Stored, make_features, stored_records
from molo_jax.data.video.encode import encode_or_reason
from molo_jax.errors import MoloError
from molo_jax.files import write_json

if TYPE_CHECKING:
    from molo_jax.data.store.beam import Beam

_WORK, _OLD = "unfinished", "old"


def _described(dataset: str) -> tfds.core.BuilderConfig:
    """Returns what TFDS is told of a data set."""
    if dataset in BENCHMARKS:
        text = f"{BENCHMARKS[dataset].title}, the few-shot splits of the MoLo code."
    else:
        text = OTHER_DATASETS[dataset]
    return tfds.core.BuilderConfig(name=dataset, description=text)


class _Info(tfds.core.DatasetInfo):
    """Does not ask the internet for a data set that is nowhere but here."""

    def initialize_from_bucket(self) -> None:
        """There is nothing to begin with."""


class FewShotVideos(FileReaderBuilder):
    """Prepares the listed videos of a data set.

    Args:
        settings: how, and the name of the data set.
        lists: the videos of each split.
        workers: processes that decode; 0 for one per CPU core.
        seconds: time limit of a video.
        advance: called with the number of videos that are done.
        beam: the runner whose workers make the record files; None for processes of this machine.
        arguments: those of `tfds.core.DatasetBuilder`; `data_dir` matters.
    """

    name = BUILDER
    VERSION = tfds.core.Version(VERSION)

    def __init__(
        self,
        *,
        settings: Settings,
        lists: Mapping[str, Sequence[Listed]],
        workers: int,
        seconds: float,
        advance: Callable[[int], object],
        beam: "Beam | None" = None,
        **arguments: Any,
    ):
        super().__init__(
            file_format="array_record", config=_described(settings.dataset), **arguments
        )
        self._settings, self._lists = settings, dict(lists)
        self._workers, self._seconds, self._advance = workers, seconds, advance
        self._beam = beam
        self._work = Path(self.data_path).with_name(f"{VERSION}.{_WORK}")

    def _info(self) -> tfds.core.DatasetInfo:
        dataset = self.builder_config.name
        return _Info(
            builder=self,
            description=self.builder_config.description,
            homepage=BENCHMARKS[dataset].videos if dataset in BENCHMARKS else "",
            features=make_features(),
            disable_shuffling=True,
        )

    def shards(self, folder: Path) -> dict[str, list[Shard]]:
        """The record files of each split, below `folder`."""
        shards = {}
        for split, listed in self._lists.items():
            size = videos_of_a_shard(len(listed))
            groups = [listed[i : i + size] for i in range(0, len(listed), size)]
            template = self._get_filename_template(split)
            shards[split] = [
                Shard(
                    folder / template.sharded_filepath(shard_index=i, num_shards=len(groups)).name,
                    split,
                    tuple(group),
                    self._settings,
                )
                for i, group in enumerate(groups)
            ]
        return shards

    def unfinished(self) -> list[Shard]:
        """The record files that are still to be made.

        Raises:
            MoloError: the folder was prepared with other settings, or holds other videos.
        """
        self._take_up()
        self._check_settings()
        folder = Path(self.data_path) if self.data_path.exists() else self._work
        stored = stored_records((self._work / _OLD, folder), self._settings)
        self._check_same_videos(folder, stored)
        return [
            shard.with_stored(stored)
            for shards in self.shards(folder).values()
            for shard in shards
            if not shard.is_made()
        ]

    def _check_same_videos(self, folder: Path, stored: Mapping[tuple[str, str], Stored]) -> None:
        names = {video.name for listed in self._lists.values() for video in listed}
        if stored and not any(name in names for _, name in stored):
            example = next(iter(stored.values())).listed
            raise MoloError(
                f"{folder} holds other videos of {self._settings.dataset}, such as {example.name}."
                " Remove the folder, or choose another --out"
            )

    def manifests(self) -> dict[str, list[Manifest]]:
        """The manifests of the finished data set."""
        return {
            split: [Manifest.read(manifest_path(shard.path)) for shard in shards]
            for split, shards in self.shards(Path(self.data_path)).items()
        }

    def download_and_prepare(self, **arguments: Any) -> None:
        """Makes the record files that are missing or out of date, then the data set around them.

        Raises:
            MoloError: a file cannot be written, or no video of a split can be used.
        """
        if not self._lists:
            raise MoloError(f"there are no lists of the videos of {self._settings.dataset}")
        if self.unfinished() and self.data_path.exists():
            shutil.rmtree(self._work, ignore_errors=True)
            os.rename(self.data_path, self._work)
        # Where TFDS makes an empty folder for downloads.
        super().download_and_prepare(download_dir=self._work / "downloads", **arguments)
        shutil.rmtree(self._work, ignore_errors=True)

    def _log_download_bytes(self) -> None:
        """Nothing is downloaded, and the caller shows the progress."""

    def _log_download_done(self) -> None:
        """The caller reports."""

    def _take_up(self) -> None:
        """Puts together again what a kill in the last moment left in two folders."""
        for left in self._work.parent.glob(f"incomplete.*_{VERSION}"):
            self._work.mkdir(exist_ok=True)
            for file in left.iterdir():
                os.replace(file, self._work / file.name)
            # Where both names were of one file, replacing has done nothing.
            shutil.rmtree(left)

    def _check_settings(self) -> None:
        """Checks that what is there was made with the same settings.

        Raises:
            MoloError: with both settings.
        """
        for folder in (Path(self.data_path), self._work):
            note = folder / SETTINGS_FILE
            if note.exists():
                found = read_settings(note)
                if found != self._settings:
                    raise MoloError(
                        f"{note.parent} holds {found}; asked for is {self._settings}."
                        " Remove the folder, or choose another --out"
                    )
                return

    def _download_and_prepare(
        self,
        dl_manager: tfds.download.DownloadManager,
        download_config: tfds.download.DownloadConfig | None = None,
    ) -> None:
        """Called by TFDS with `self.data_path` set to a temporary folder that it renames later."""
        self._work.mkdir(parents=True, exist_ok=True)
        write_json(self._work / SETTINGS_FILE, dataclasses.asdict(self._settings))
        shards = self.shards(self._work)
        todo = [s for group in shards.values() for s in group if not s.is_made()]
        made = {s.path for group in shards.values() for s in group} - {s.path for s in todo}
        self._put_aside(made)
        stored = stored_records([self._work / _OLD], self._settings)
        todo = [shard.with_stored(stored) for shard in todo]
        if self._beam:
            self._beam.make(
                todo,
                self._work,
                workers=self._workers,
                seconds=self._seconds,
                advance=self._advance,
            )
        else:
            self._make_here(todo)
        self.info.set_splits(tfds.core.SplitDict([self._split_info(*s) for s in shards.items()]))
        _place(self._work / SETTINGS_FILE, Path(self.data_path) / SETTINGS_FILE)
        for shard in [s for group in shards.values() for s in group]:
            for path in (shard.path, manifest_path(shard.path)):
                _place(path, Path(self.data_path) / path.name)

    def _put_aside(self, made: set[Path]) -> None:
        """Moves record files that are not as they should be away, so that records can be copied.

        What is no whole record file, with its manifest, is removed.
        """
        old = self._work / _OLD
        old.mkdir(exist_ok=True)
        keep = made | {manifest_path(path) for path in made} | {self._work / SETTINGS_FILE}
        stamp = time.time_ns()
        for file in sorted(self._work.iterdir()):
            if file in keep or file.is_dir():
                continue
            # The manifest goes last: without it a record file counts for nothing.
            manifest = manifest_path(file)
            if manifest.exists():
                os.replace(file, old / f"{stamp}-{file.name}")
                os.replace(manifest, old / f"{stamp}-{manifest.name}")
            elif file.exists():
                file.unlink()

    def _make_here(self, shards: Sequence[Shard]) -> None:
        tasks = (task for shard in shards for task in shard.tasks())
        results = in_order(encode_or_reason, tasks, workers=self._workers, seconds=self._seconds)
        counted = self._counted(results)
        try:
            for shard in shards:
                shard.write(counted)
        finally:
            results.close()

    def _counted(self, results: Iterable[Any]) -> Iterator[Any]:
        for result in results:
            self._advance(1)
            yield result

    def _split_info(self, split: str, shards: Sequence[Shard]) -> tfds.core.SplitInfo:
        manifests = [Manifest.read(manifest_path(shard.path)) for shard in shards]
        if not any(manifest.records for manifest in manifests):
            reasons = [o.reason for manifest in manifests for o in manifest.outcomes]
            raise MoloError(
                f"no video of the {split} split can be used; the first one: {reasons[0]}"
            )
        return tfds.core.SplitInfo(
            name=split,
            shard_lengths=[manifest.records for manifest in manifests],
            num_bytes=sum(manifest.bytes for manifest in manifests),
            filename_template=self._get_filename_template(split),
        )


def _place(source: Path, target: Path) -> None:
    """Gives a file a second name, so that it is not lost should the last steps fail."""
    try:
        os.link(source, target)
    except OSError:  # a file system without such links
        shutil.copy2(source, target)
