"""Builds the parts of training and evaluation from the configuration, which nothing below knows."""

import contextlib
import functools
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import optax
from absl import logging
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from molo_jax.backbones import backbone_info
from molo_jax.config import REFUSE, base_config
from molo_jax.data.augment import AugmentConfig, episode_key, eval_views, train_views
from molo_jax.data.clips.dataset import VideoDataset
from molo_jax.data.clips.episodes import EpisodeSampler
from molo_jax.data.clips.source import ClipSource
from molo_jax.data.lists import official
from molo_jax.data.lists.splits import SPLIT_FILE, STANDARD_SPLITS, Split, read_split
from molo_jax.data.pipeline import episode_batches
from molo_jax.data.store.prepared import PreparedDataset
from molo_jax.engine.evaluation import Score
from molo_jax.engine.optimizer import make_optimizer
from molo_jax.engine.prefetch import place_episodes, prefetched
from molo_jax.engine.schedule import Schedule, cosine_schedule, official_schedule
from molo_jax.engine.state import create_model, create_state
from molo_jax.engine.step import Batch, make_mesh, make_train_step
from molo_jax.errors import MoloError, UsageError
from molo_jax.evaluate import Evaluation
from molo_jax.evaluator import EvaluationData, Evaluator
from molo_jax.methods.episode import Episode
from molo_jax.methods.settings import Settings, own_fields, settings_class
from molo_jax.provenance import ListRecord, settings_seen
from molo_jax.resume import Training
from molo_jax.weights.networks import abstract_network, starting_weights
from molo_jax.weights.torch_map import decays


def method_settings(config: ConfigDict, num_classes: int) -> Settings:
    """Returns the settings of the method; `num_classes` counts the training classes."""
    section = config.method
    known = settings_class(section.name)
    own = {name: section[name] for name in own_fields(known)}
    return known(num_classes=num_classes, backbone=config.model.backbone, **own)


def schedule(config: ConfigDict) -> Schedule:
    """Returns the learning rate as a function of the optimizer step."""
    optimizer = config.optimizer
    if optimizer.schedule == "cosine":
        return cosine_schedule(optimizer.base_lr, optimizer.warmup_steps, config.train.steps)
    return official_schedule(
        base_lr=optimizer.base_lr,
        warmup_start_lr=optimizer.warmup_start_lr,
        steps_iter=optimizer.steps_iter,
        boundaries=tuple(optimizer.boundaries),
        factors=tuple(optimizer.factors),
        accumulation=optimizer.accumulation,
    )


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Returns the optimizer; weight decay acts on what it acts on in the official training."""
    return make_optimizer(
        schedule(config),
        decays=decays,
        name=config.optimizer.name,
        weight_decay=config.optimizer.weight_decay,
        b1=config.optimizer.b1,
        b2=config.optimizer.b2,
        eps=config.optimizer.eps,
    )


def train_key(config: ConfigDict) -> Callable[[jax.Array], jax.Array]:
    """Returns the function from an episode's index to the key of its augmentation and dropout."""
    return functools.partial(episode_key, config.seed, "train")


def normalization(config: ConfigDict) -> tuple[float, float]:
    """Returns the mean and the deviation of the pixels that the backbone is made for."""
    info = backbone_info(config.model.backbone)
    return info.mean, info.std


def eval_preprocess(config: ConfigDict) -> Callable[[jax.Array], jax.Array]:
    """Returns the function that crops and normalizes the pixels of clips outside training."""
    crop, scale = config.data.crop, normalization(config)
    return lambda clips: eval_views(clips, crop, scale)


def train_preprocess(config: ConfigDict) -> Callable[[Batch, jax.Array], Episode]:
    """Returns the function that crops, augments and normalizes the pixels of one episode."""
    strengths = AugmentConfig(**config.augment)
    crop, scale = config.data.crop, normalization(config)

    def preprocess(arrays: Batch, key: jax.Array) -> Episode:
        clips = arrays["support"], arrays["query"]
        support, query = train_views(key, *clips, crop, strengths, scale)
        names = ("support_labels", "query_labels", "support_classes", "query_classes")
        return Episode(support=support, query=query, **{name: arrays[name] for name in names})

    return preprocess


def open_split(config: ConfigDict, split: str) -> ClipSource:
    """Opens one split of the prepared videos, or of the videos themselves (`data.source`).

    Raises:
        MoloError: when the folder, the list or videos are missing, with how to get them; or when
            two of the lists that there are share a video or a class.
        UsageError: when `data.split_dir` is empty and the dataset has no official lists, or the
            videos were prepared for other clips.
    """
    if config.data.source == "videos":
        return _open_videos(config, split)
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
    return (
        f"{config.dataset.how_to_get} Then prepare them with python -m molo_jax.prepare"
        f" --dataset={config.dataset.name} --videos=DIR --out={config.data.prepared}, or name the"
        " folder that was its --out with --config.data.prepared. Without preparation, only slower:"
        " --config.data.source=videos --config.data.root=DIR."
    )


def _open_videos(config: ConfigDict, split: str) -> VideoDataset:
    data, name = config.data, config.dataset.name
    if not data.split_dir and name not in official.BENCHMARKS:
        raise UsageError(
            f"config.data.split_dir is empty, and there are no official lists of {name!r}; name the"
            " folder of its three lists"
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
    if name in official.BENCHMARKS:
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
    return _sampler(config, dataset, n_way, n_shot, config.eval.n_query, draw)


def _sampler(
    config: ConfigDict, dataset: ClipSource, n_way: int, n_shot: int, n_query: int, frame_draw: str
) -> EpisodeSampler:
    sampler = EpisodeSampler.from_split(
        dataset.split,
        seed=config.seed,
        n_way=n_way,
        n_shot=n_shot,
        n_query=n_query,
        num_frames=config.data.num_frames,
        frame_draw=frame_draw,
    )
    sampler.check_usable(dataset.is_bad)
    return sampler


def train_mesh(config: ConfigDict) -> Mesh:
    """Returns a mesh over as many devices as the episodes of a step can be spread over evenly.

    Raises:
        UsageError: when train.microbatch does not divide train.episodes_per_step.
    """
    episodes, microbatch = config.train.episodes_per_step, config.train.microbatch
    if episodes % microbatch:
        raise UsageError(
            f"config.train.episodes_per_step is {episodes}; it must be divisible by"
            f" train.microbatch, {microbatch}"
        )
    devices = jax.devices()
    count = max(n for n in range(1, len(devices) + 1) if episodes // microbatch % n == 0)
    if count < len(devices):
        logging.warning(
            "training uses %d of %d devices: train.episodes_per_step=%d is no multiple of"
            " train.microbatch=%d times all of them",
            count,
            len(devices),
            episodes,
            microbatch,
        )
    return make_mesh(devices[:count])


def evaluation_data(
    config: ConfigDict, split: str, *, n_way: int, shots: Sequence[int], mesh: Mesh
) -> EvaluationData:
    """Opens a split for evaluation.

    Raises:
        MoloError: when the split's folder, list or videos are missing, or too few for an episode.
    """
    dataset, data = open_split(config, split), config.data
    return EvaluationData(
        dataset=dataset,
        samplers={n: eval_sampler(config, dataset, n_way=n_way, n_shot=n) for n in shots},
        n_way=n_way,
        num_frames=data.num_frames,
        sampling=eval_sampling(config),
        resize=data.resize,
        workers=data.workers,
        prefetch=data.prefetch,
        preprocess=eval_preprocess(config),
        mesh=mesh,
        clip_batch=config.eval.clip_batch,
        episode_batch=config.eval.episode_batch,
        cache_mib=config.eval.cache_mib,
    )


def evaluation(config: ConfigDict) -> Evaluation:
    """Returns what is evaluated.

    Raises:
        MoloError: when data are missing, see :func:`evaluation_data`.
    """
    section = config.eval
    return Evaluation(
        data=evaluation_data(
            config, section.split, n_way=section.n_way, shots=section.shots, mesh=make_mesh()
        ),
        dataset=config.dataset.name,
        split=section.split,
        n_query=section.n_query,
        episodes=section.episodes,
        controls=section.controls,
        method=method_settings(config, num_classes=0),
        seed=config.seed,
        init_from=config.init_from,
        clips=_clips(config),
        refuse_trained=section.on_trained_classes == REFUSE,
        config=config.to_dict(),
    )


def _clips(config: ConfigDict) -> dict[str, Any]:
    """Returns what is made of a video, see :func:`molo_jax.provenance.settings_seen`."""
    return {key: config.data[key] for key in ("num_frames", "sampling", "resize", "crop")}


def training(config: ConfigDict) -> Training:
    """Opens the data of a training, and returns its parts.

    Raises:
        MoloError: when data are missing or too few.
    """
    train, mesh, dataset = config.train, train_mesh(config), open_split(config, "train")
    sampler = train_sampler(config, dataset)
    method, transformation = method_settings(config, len(dataset.split.classes)), optimizer(config)
    seen = settings_seen(_clips(config), dataset, method)
    graphdef, *_ = abstract_network(method)
    trained, validated = ListRecord.of(config.dataset.name, dataset.split), None
    scored, validation = None, {}
    if train.eval_every:
        shots, n_way = (train.n_shot,), train.n_way
        data = evaluation_data(config, "val", n_way=n_way, shots=shots, mesh=mesh)
        validated = ListRecord.of(config.dataset.name, data.dataset.split)
        evaluator = Evaluator(data, graphdef)

        def scored(*weights: nnx.State) -> Score:
            scores = evaluator.scores(*weights, episodes=train.val_episodes, title="val")
            return scores[train.n_shot]

        validation = _validation(config, seen, validated)
    return Training(
        initial=lambda: create_state(*create_model(method, config.seed)[1:], transformation),
        first_weights=functools.partial(
            starting_weights,
            method,
            init_from=config.init_from,
            pretrained=config.model.pretrained,
            new_classifier=config.init_new_classifier,
        ),
        step=make_train_step(
            graphdef,
            transformation,
            preprocess=train_preprocess(config),
            episode_key=train_key(config),
            n_way=train.n_way,
            mesh=mesh,
        ),
        scored=scored,
        batches=functools.partial(_batches, config, dataset, sampler, mesh),
        mesh=mesh,
        schedule=schedule(config),
        steps=train.steps,
        episodes_per_step=train.episodes_per_step,
        log_every=train.log_every,
        eval_every=train.eval_every,
        checkpoint_every=train.checkpoint_every,
        dataset=dataset,
        method=method,
        trained=trained,
        validated=validated,
        seen=seen,
        validation=validation,
        config=config.to_dict(),
        default_config=base_config(config.method.name).to_dict(),
        init_from=config.init_from,
        refuse_trained=config.eval.on_trained_classes == REFUSE,
    )


def _validation(
    config: ConfigDict, seen: Mapping[str, Any], validated: ListRecord
) -> dict[str, Any]:
    """Returns everything but the weights that the accuracy of a validation depends on.

    The keys are those of the configuration; one is a digest of the val list.
    """
    train = config.train
    return dict(seen) | {
        "seed": config.seed,
        "train.n_way": train.n_way,
        "train.n_shot": train.n_shot,
        "train.val_episodes": train.val_episodes,
        "eval.n_query": config.eval.n_query,
        "eval.frame_draw": config.eval.frame_draw,
        "data.on_bad_video": config.data.on_bad_video,
        "val list": validated.digest[:12],
    }


def _batches(
    config: ConfigDict, dataset: ClipSource, sampler: EpisodeSampler, mesh: Mesh, done: int
) -> Generator[Batch, None, None]:
    """Yields the batches of the steps behind the first `done`, each on its way to the devices."""
    data, train = config.data, config.train
    decoded = episode_batches(
        dataset,
        sampler,
        start=done * train.episodes_per_step,
        stop=train.steps * train.episodes_per_step,
        batch_size=train.episodes_per_step,
        workers=data.workers,
        prefetch=data.prefetch,
        resize=data.resize,
        sampling=data.sampling,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    with contextlib.closing(decoded):
        yield from prefetched(decoded, lambda batch: place_episodes(batch, mesh, train.microbatch))
