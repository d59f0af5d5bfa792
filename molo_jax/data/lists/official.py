"""The official split lists of the benchmarks: fetched once, and checked."""

import os
from collections.abc import Iterable
from pathlib import Path

from absl import logging

from molo_jax import downloads
from molo_jax.benchmarks import benchmark
from molo_jax.benchmarks.record import ListSize
from molo_jax.data.lists.splits import SPLIT_FILE, STANDARD_SPLITS, Split, read_split
from molo_jax.errors import MoloError

_LISTS = (
    "https://raw.githubusercontent.com/alibaba-mmai-research/MoLo/"
    "f7f73b6dd8cba446b414b1c47652ab26033bc88e/configs/projects/MoLo"
)


def fetch_lists(name: str, flag: str = "--config.data.split_dir") -> Path:
    """Returns the folder of a benchmark's three lists in the cache; fetches them the first time.

    Args:
        name: of the benchmark.
        flag: the one that names a local copy, for the message where there is no network.

    Raises:
        UsageError: there is no such benchmark.
        MoloError: a list cannot be fetched, or is not the official one.
    """
    known = benchmark(name)
    source = f"{_LISTS}/{known.list_folder}"
    folder = downloads.cache_folder() / "splits" / known.list_folder
    for split, official in known.lists.items():
        file = SPLIT_FILE.format(split=split)
        downloads.fetch(
            f"{source}/{file}",
            folder / file,
            official.sha256,
            otherwise=f"name a folder that holds the three lists of {source} with {flag}",
        )
    return folder


def read_lists(name: str, folder: str | os.PathLike[str]) -> dict[str, Split]:
    """Reads the three lists of a benchmark from any folder.

    Lists that are not the official ones are allowed, shorter ones for instance, and named in a
    warning: results with them cannot be compared with published ones.

    Raises:
        UsageError: there is no such benchmark.
        MoloError: a list is missing or malformed, or two of them share a video or a class.
    """
    benchmark(name)
    lists = read_splits(folder)
    for split in lists.values():
        warn_unless_official(name, split)
    return lists


def read_splits(folder: str | os.PathLike[str], *, partial: bool = False) -> dict[str, Split]:
    """Reads the three lists in a folder; those that are there, if they may be `partial`.

    Raises:
        MoloError: a list is missing or malformed, or two of them share a video or a class.
    """
    paths = {split: Path(folder) / SPLIT_FILE.format(split=split) for split in STANDARD_SPLITS}
    there = {split: path for split, path in paths.items() if path.exists() or not partial}
    if not there:
        names = ", ".join(path.name for path in paths.values())
        raise MoloError(f"there is no split list in {os.fspath(folder)}; expected {names}")
    lists = {split: read_split(path, split) for split, path in there.items()}
    check_apart(lists.values())
    return lists


def warn_unless_official(name: str, split: Split) -> None:
    """Logs a warning with both sizes if a list is not the one of the benchmark."""
    official = benchmark(name).lists[split.name]
    if downloads.sha256(Path(split.path)) != official.sha256:
        sizes = split.class_sizes
        logging.warning(
            "%s is not the official list (%s; official: %s): results with it cannot be compared"
            " with published ones",
            split.path,
            ListSize(sum(sizes), len(sizes), min(sizes)),
            official.size,
        )


def check_apart(lists: Iterable[Split]) -> None:
    """Checks that no two lists share a video, or a class by its name.

    Raises:
        MoloError: naming what is shared and the two lists.
    """
    videos: dict[str, Split] = {}
    classes: dict[str, Split] = {}
    for split in lists:
        here = {video.name for members in split.videos for video in members}
        names = {name for name in split.class_names if name}
        for seen, found, what in ((videos, here, "video"), (classes, names, "class")):
            shared = sorted(seen.keys() & found)
            if shared:
                other = seen[shared[0]].path
                raise MoloError(
                    f"{split.path} and {other} share the {what} {shared[0]!r}"
                    f"{f' and {len(shared) - 1} more' if len(shared) > 1 else ''}; classes that are"
                    " tested must not be in training"
                )
            seen.update(dict.fromkeys(found, split))
