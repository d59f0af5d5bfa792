"""A preparation of the videos of a list, in this process."""

from pathlib import Path

import numpy as np

from molo_jax.data.clips.episodes import EpisodeSampler
from molo_jax.data.lists.splits import read_split
from molo_jax.data.store import tfds_builder
from molo_jax.data.store.preparation import Plan, find_videos, prepare
from molo_jax.data.store.prepared import PreparedDataset
from molo_jax.data.store.records import Settings
from molo_jax.data.store.report import Need
from molo_jax.errors import MoloError

SIDE = 48


def in_this_process(function, tasks, *, workers, seconds):
    """Stands in for `processes.in_order` where processes would only cost time."""
    for task in tasks:
        yield function(*task)


def make_plan(tree: Path, videos: Path | None = None, **changes) -> Plan:
    """The train list of a tree of `videos` and `splits`, quality 95 in all colors."""
    settings = {"resize": SIDE, "chroma": "444", "num_frames": 5} | changes
    lists = {"train": read_split(tree / "splits" / "train_few_shot.txt", "train")}
    return Plan(
        settings=Settings.of("folder", **settings),
        lists=find_videos(lists, videos or tree / "videos"),
        needs={"train": Need(2, 1, 1)},
        num_frames=settings["num_frames"],
        workers=0,
        seconds=600,
    )


def prepare_tree(tree: Path, out: Path, monkeypatch, videos: Path | None = None, **changes):
    """Prepares it and returns the report."""
    monkeypatch.setattr(tfds_builder, "in_order", in_this_process)
    return prepare(make_plan(tree, videos, **changes), out)


def open_prepared(out: Path, on_bad_video: str = "fail") -> PreparedDataset:
    """Opens what was prepared."""
    return PreparedDataset.open(
        out, "folder", "train", on_bad_video=on_bad_video, how_to_get="Prepare it."
    )


def every_clip(dataset: PreparedDataset) -> dict[tuple[int, int], np.ndarray | str]:
    """A clip of every video, or what is said instead."""
    arguments = {"seed": 1, "n_way": 3, "n_shot": 1, "n_query": 2, "num_frames": 5}
    sampler = EpisodeSampler.from_split(dataset.split, **arguments, frame_draw="video")
    found = {}
    for video in [(c, v) for c, size in enumerate(dataset.class_sizes) for v in range(size)]:
        try:
            request = sampler.clip(*video)
            found[video] = dataset.read_clip(request, sampling="segments", resize=SIDE)
        except MoloError as error:
            found[video] = str(error)
    return found
