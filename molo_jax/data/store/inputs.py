"""What a preparation begins with: the listed videos with their files, for each kind of data set."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from molo_jax.data import synthetic
from molo_jax.data.lists import official
from molo_jax.data.lists.division import Division
from molo_jax.data.lists.folder import read_folder, write_lists
from molo_jax.data.lists.splits import Split, Video
from molo_jax.data.store.preparation import find_videos
from molo_jax.data.store.records import Listed


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The videos of a data set.

    Attributes:
        lists: the listed videos of each split with their files.
        left_out: what else is in one's own folder, with the reason.
        division: how one's own classes were divided; None for other data sets.
    """

    lists: Mapping[str, Sequence[Listed]]
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    division: Division | None = None


def of_benchmark(name: str, videos: str, splits_dir: str | None) -> Inputs:
    """Returns the videos of a benchmark; without a folder of lists its official ones are fetched.

    Raises:
        MoloError: a list cannot be had or read, or none of the videos is there.
    """
    splits_dir = splits_dir or official.fetch_lists(name, "--splits_dir")
    return Inputs(find_videos(official.read_lists(name, splits_dir), videos))


def of_generated(
    out: Path, *, seed: int, videos_per_class: Mapping[str, int | None], workers: int
) -> Inputs:
    """Generates the videos that are not there yet, into the folder of the preparation.

    Args:
        out: the folder.
        seed: of every pixel.
        videos_per_class: of each split; None for the usual number.
        workers: processes; 0 for one per CPU core.
    """
    counts = {split: count for split, count in videos_per_class.items() if count is not None}
    synthetic.generate(out, seed=seed, videos_per_class=counts, workers=workers)
    return Inputs(find_videos(official.read_splits(out / "splits"), out / "videos"))


def of_own_lists(videos: str, splits_dir: str) -> Inputs:
    """Returns one's own videos that lists name, whose classes have names or else numbers.

    Raises:
        MoloError: a list is malformed, there is none, or none of the videos is there.
    """
    lists = official.read_splits(splits_dir, partial=True)
    classes = {
        split: tuple(
            name or str(number) for number, name in zip(one.classes, one.class_names, strict=True)
        )
        for split, one in lists.items()
    }
    return Inputs(find_videos(lists, videos), division=Division("lists", classes))


def of_own_folder(videos: str, **options: Any) -> Inputs:
    """Returns one's own videos, a folder for each class; see `read_folder` for the options."""
    found = read_folder(videos, **options)
    lists = find_videos(found.splits, videos, anywhere=False)
    return Inputs(lists, found.left_out, found.division)


def keep_lists(lists: Mapping[str, Sequence[Listed]], folder: str | os.PathLike[str]) -> None:
    """Writes the lists of one's own videos, for use without preparation."""
    splits = {
        name: Split.of(
            name, "", [Video(v.name, v.class_id, line) for line, v in enumerate(listed, start=1)]
        )
        for name, listed in lists.items()
    }
    write_lists(splits, folder)
