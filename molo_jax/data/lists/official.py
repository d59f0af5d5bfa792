"""The five benchmarks: their official split lists, fetched once and checked, and where videos are.

The lists are those of the official code, pinned to one commit; a class is a number of one split, so
`train0` and `test0` are different ones. Numbers of videos and classes are properties of the lists.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from absl import logging

from molo_jax import downloads
from molo_jax.data.lists.splits import SPLIT_FILE, STANDARD_SPLITS, Split, read_split
from molo_jax.errors import MoloError, UsageError

_LISTS = (
    "https://raw.githubusercontent.com/alibaba-mmai-research/MoLo/"
    "f7f73b6dd8cba446b414b1c47652ab26033bc88e/configs/projects/MoLo"
)


@dataclasses.dataclass(frozen=True)
class SplitFacts:
    """What is known of an official list.

    Attributes:
        videos: number of its lines.
        classes: number of its classes.
        smallest: number of videos of its smallest class.
    """

    videos: int
    classes: int
    smallest: int

    @classmethod
    def of(cls, split: Split) -> "SplitFacts":
        """Counts what a list holds."""
        sizes = split.class_sizes
        return cls(sum(sizes), len(sizes), min(sizes))

    def __str__(self) -> str:
        return f"{self.videos} videos of {self.classes} classes, the smallest of {self.smallest}"


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        title: the name that papers use.
        folder: where its lists are at the official address.
        videos: where its videos are to be had.
        layout: how the lists name them, by an example.
        splits: the metadata of `train`, `val` and `test`.
    """

    title: str
    folder: str
    videos: str
    layout: str
    splits: Mapping[str, SplitFacts]

    @property
    def how_to_get(self) -> str:
        """What to tell a user whose videos are not there."""
        return (
            f"Download the videos of {self.title} from {self.videos} into one folder, in any"
            f" layout; the lists name them as {self.layout}."
        )


# Of the lists at the official address.
_SHA256 = {
    "ssv2_full/train": "886fdd2b9215328efaee7e73ae2ea8f5b3e99fd3732679481652bad1506df5c0",
    "ssv2_full/val": "b9884e9e716fbb9a902121d797c0a43ec04517085eb6b36a2804e037db63d6eb",
    "ssv2_full/test": "83a1ac8e7c6f720c55dced1dc9deae1c11fb8271f8a3bb1f0952aed068646a1e",
    "ssv2_small/train": "724c01ee6595639d0829874e503936596de6564f7bf4293cf332b0f7891e0696",
    "ssv2_small/val": "7b0162b14e42186122677eba5679b7b133017c46fbbfa8638682675aad9f4c0a",
    "ssv2_small/test": "e8b4b69302bd85522fffdaebedd212557a8088e76df6dfcc76a82ac953fe739a",
    "kinetics100/train": "92cac54f79940ab50bb296c48048260238ce82349ad87424994c9839c24a40c6",
    "kinetics100/val": "635b5e78f0031f1823379675cde8f1ffe7bedb1025a817df214a03b0c1674932",
    "kinetics100/test": "c43ada5179a8c402405849f1bab0df7cfa5d2e103fd943e5672f90ba188add53",
    "ucf101/train": "faeb4941e197fc6cefb603f7c277dffa854a5dac74a3ad11ce6955441751c3d5",
    "ucf101/val": "aec8242d1f0af0da107eac5fd7be699f639bcb04078dcbb445fbe7bc8500acbd",
    "ucf101/test": "160ae01885fb33b435e6312234e722f56c1016f2fe34a63c364c29ea4556c957",
    "hmdb51/train": "59a5a0fe9c831bf9b46f05082a25828196a1b44ce4a2ab2dc64b17dead845069",
    "hmdb51/val": "33703ba18c1f036607b2c4872b1bb1c8e0290dcaaf9671264f7ec2ed1cf7de9a",
    "hmdb51/test": "ee8fa2c56e3ace7dcb2b025ea5c7ebf6d2c56f2f114c0bd3a992a894ace9b997",
}
_SSV2 = "https://www.qualcomm.com/developer/software/something-something-v-2-dataset"
BENCHMARKS: Mapping[str, Benchmark] = {
    "ssv2": Benchmark(
        title="Something-Something V2",
        folder="ssv2_full",
        videos=_SSV2,
        layout="78687 (.webm or .mp4)",
        splits={
            "train": SplitFacts(67013, 64, 156),
            "val": SplitFacts(1926, 12, 56),
            "test": SplitFacts(2857, 24, 17),
        },
    ),
    "ssv2_small": Benchmark(
        title="Something-Something V2",
        folder="ssv2_small",
        videos=_SSV2,
        layout="51958 (.webm or .mp4)",
        splits={
            "train": SplitFacts(6400, 64, 100),
            "val": SplitFacts(1200, 12, 100),
            "test": SplitFacts(2400, 24, 100),
        },
    ),
    "kinetics100": Benchmark(
        title="Kinetics-400 (100 of its classes)",
        folder="kinetics100",
        videos="https://github.com/cvdfoundation/kinetics-dataset",
        layout="train_256/air_drumming/-VtLx-mcPds_000012_000022.mp4",
        splits={
            "train": SplitFacts(6400, 64, 100),
            "val": SplitFacts(1200, 12, 100),
            "test": SplitFacts(2400, 24, 100),
        },
    ),
    "ucf101": Benchmark(
        title="UCF101",
        folder="ucf101",
        videos="https://www.crcv.ucf.edu/data/UCF101.php",
        layout="videos/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
        splits={
            "train": SplitFacts(9154, 70, 100),
            "val": SplitFacts(1421, 10, 114),
            "test": SplitFacts(2745, 21, 109),
        },
    ),
    "hmdb51": Benchmark(
        title="HMDB51",
        folder="hmdb51",
        videos="https://serre.lab.brown.edu/hmdb51.html",
        layout="videos/brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi",
        splits={
            "train": SplitFacts(4280, 31, 102),
            "val": SplitFacts(1194, 10, 102),
            "test": SplitFacts(1292, 10, 103),
        },
    ),
}


def benchmark(name: str) -> Benchmark:
    """Returns a benchmark.

    Raises:
        UsageError: naming those that there are.
    """
    if name not in BENCHMARKS:
        raise UsageError(f"{name!r} is no benchmark; choose one of {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def fetch_lists(name: str, flag: str = "--config.data.split_dir") -> Path:
    """Returns the folder of a benchmark's three lists in the cache; fetches them the first time.

    Args:
        name: of the benchmark.
        flag: the one that names a local copy, for the message where there is no network.

    Raises:
        UsageError: there is no such benchmark.
        MoloError: a list cannot be fetched, or is not the official one.
    """
    source = benchmark(name).folder
    folder = downloads.cache_folder() / "splits" / source
    for split in STANDARD_SPLITS:
        file = SPLIT_FILE.format(split=split)
        downloads.fetch(
            f"{_LISTS}/{source}/{file}",
            folder / file,
            _SHA256[f"{source}/{split}"],
            otherwise=f"name a folder that holds the three lists of {_LISTS}/{source} with {flag}",
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
    known = benchmark(name)
    if downloads.sha256(Path(split.path)) != _SHA256[f"{known.folder}/{split.name}"]:
        logging.warning(
            "%s is not the official list (%s; official: %s): results with it cannot be compared"
            " with published ones",
            split.path,
            SplitFacts.of(split),
            known.splits[split.name],
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
