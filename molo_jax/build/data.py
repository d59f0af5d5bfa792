"""Opens the data that the configuration names, and draws episodes from them."""

import os
from collections.abc import Mapping
from pathlib import Path

from absl import logging
from ml_collections import ConfigDict

from molo_jax.benchmarks import BENCHMARKS
from molo_jax.config import REFUSE, base_config
from molo_jax.data.clips.dataset import VideoDataset
from molo_jax.data.clips.episodes import EpisodeSampler
from molo_jax.data.clips.source import ClipSource
from molo_jax.data.lists import official
from molo_jax.data.lists.splits import SPLIT_FILE, STANDARD_SPLITS, Split, read_split
from molo_jax.data.store.prepared import PreparedDataset
from molo_jax.errors import MoloError, UsageError
from molo_jax.same_data import make_alike


def open_split(config: ConfigDict, split: str) -> ClipSource:
    """Opens one split of the prepared videos, or of the videos themselves (`data.source`).

    With several processes, all of them leave out the videos that any of them lacks.

    Raises:
        MoloError: when the folder, the list or videos are missing, with how to get them; or when
            two of the lists that there are share a video or a class; or processes have other lists.
        UsageError: when `data.split_dir` is empty and the dataset has no official lists, or the
            videos were prepared for other clips.
    """
    opened = _open_videos if config.data.source == "videos" else _open_prepared
    source = opened(config, split)
    make_alike(source, config.dataset.name)
    return source


def _open_prepared(config: ConfigDict, split: str) -> PreparedDataset:
    data, name = config.data, config.dataset.name
    source = PreparedDataset.open(
        data.prepared,
        name,
        split,
        on_bad_video=data.on_bad_video,
        how_to_get=_how_to_prepare(config),
    )
    source.check_use(sampling=data.sampling, num_frames=data.num_frames, resize=data.resize)
    _check_apart(config, PreparedDataset.lists(data.prepared, name))
    return source


def tested_data(config: ConfigDict) -> ConfigDict:
    """Returns the configuration with the data set that is evaluated in place of the trained one.

    How frames are chosen and cut stays as it is: the network sees what it saw in training.
    """
    if not config.eval.dataset:
        return config
    tested = config.copy_and_resolve_references()
    tested.dataset.name = config.eval.dataset
    known = BENCHMARKS.get(config.eval.dataset)
    tested.dataset.how_to_get = known.how_to_get if known else base_config().dataset.how_to_get
    tested.data.prepared = config.eval.prepared
    tested.data.root, tested.data.split_dir = config.eval.root, config.eval.split_dir
    return tested


def _check_apart(config: ConfigDict, lists: Mapping[str, Split]) -> None:
    """Checks that no two splits share a video or a class.

    Raises:
        MoloError: they do, and `eval.on_trained_classes` is to refuse it.
    """
    try:
        official.check_apart(lists.values())
    except MoloError as error:
        if config.eval.on_trained_classes == REFUSE:
            raise MoloError(
                f"{error}. --config.eval.on_trained_classes=warn goes on all the same"
            ) from error
        logging.warning("%s", error)


def _how_to_prepare(config: ConfigDict) -> str:
    section = "eval" if config.eval.dataset else "data"
    return (
        f"{config.dataset.how_to_get} Then prepare them with python -m molo_jax.prepare"
        f" --dataset={config.dataset.name} --videos=DIR --out={config.data.prepared}, or name the"
        f" folder that was its --out with --config.{section}.prepared. Without preparation, only"
        f" slower: --config.data.source=videos --config.{section}.root=DIR."
    )


def _open_videos(config: ConfigDict, split: str) -> VideoDataset:
    data, name = config.data, config.dataset.name
    if not data.split_dir and name not in BENCHMARKS:
        section = "eval" if config.eval.dataset else "data"
        raise UsageError(
            f"config.{section}.split_dir is empty, and there are no official lists of {name!r};"
            " name the folder of its three lists"
        )
    # Without videos the lists would be of no use.
    fetched = not data.split_dir and os.path.isdir(data.root)
    lists = official.fetch_lists(name) if fetched else data.split_dir
    dataset = VideoDataset.open(
        data.root,
        lists,
        split,
        on_bad_video=data.on_bad_video,
        seconds=data.timeout,
        how_to_get=(
            f"{config.dataset.how_to_get} Name that folder with --config.data.root, and that of its"
            " lists with --config.data.split_dir (a preparation writes those of one's own videos)."
        ),
    )
    _check_apart(config, _available_lists(lists))
    if name in BENCHMARKS:
        official.warn_unless_official(name, dataset.split)
    return dataset


def _available_lists(folder: str | os.PathLike[str]) -> dict[str, Split]:
    paths = {split: Path(folder) / SPLIT_FILE.format(split=split) for split in STANDARD_SPLITS}
    return {split: read_split(path, split) for split, path in paths.items() if path.is_file()}


def train_sampler(config: ConfigDict, dataset: ClipSource) -> EpisodeSampler:
    """Returns the training episodes.

    Raises:
        MoloError: when there are too few classes, or a class has too few usable videos.
    """
    train = config.train
    return _sampler(config, dataset, train.n_way, train.n_shot, train.n_query, "episode")


def eval_sampling(config: ConfigDict) -> str:
    """Returns how frames are chosen outside training: a window is then in the middle."""
    return "window_middle" if config.data.sampling == "window" else config.data.sampling


def eval_sampler(
    config: ConfigDict, dataset: ClipSource, *, n_way: int, n_shot: int
) -> EpisodeSampler:
    """Returns the episodes of an evaluation.

    Raises:
        MoloError: when there are too few classes, or a class has too few usable videos.
    """
    # The window in the middle has no random part, so a video has the same frames everywhere.
    fixed = eval_sampling(config) == "window_middle"
    draw = "video" if fixed else config.eval.frame_draw
    draws = 1 if fixed else config.eval.draws
    return _sampler(config, dataset, n_way, n_shot, config.eval.n_query, draw, draws)


def _sampler(
    config: ConfigDict,
    dataset: ClipSource,
    n_way: int,
    n_shot: int,
    n_query: int,
    frame_draw: str,
    draws: int = 1,
) -> EpisodeSampler:
    sampler = EpisodeSampler.from_split(
        dataset.split,
        seed=config.seed,
        n_way=n_way,
        n_shot=n_shot,
        n_query=n_query,
        num_frames=config.data.num_frames,
        frame_draw=frame_draw,
        draws=draws,
    )
    sampler.check_usable(dataset.is_bad)
    return sampler
