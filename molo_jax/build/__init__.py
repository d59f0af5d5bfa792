"""Builds the parts of training and evaluation from the configuration, which nothing below knows."""

import collections
import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import jax
import optax
from absl import logging
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from molo_jax.backbones import backbone_info
from molo_jax.build.data import (
    eval_sampler,
    eval_sampling,
    open_split,
    tested_data,
    train_sampler,
)
from molo_jax.config import REFUSE, base_config, method_settings
from molo_jax.data.augment import AugmentConfig, episode_key, eval_views, train_views
from molo_jax.data.clips.episodes import EpisodeSampler
from molo_jax.data.clips.source import ClipSource
from molo_jax.data.pipeline import episode_batches
from molo_jax.engine import hosts
from molo_jax.engine.evaluation import Score
from molo_jax.engine.hosts import connect_devices
from molo_jax.engine.mesh import all_devices, even_devices, make_mesh
from molo_jax.engine.optimizer import make_optimizer
from molo_jax.engine.prefetch import place_episodes, prefetched
from molo_jax.engine.runtime import parse_steps
from molo_jax.engine.schedule import Schedule, cosine_schedule, official_schedule
from molo_jax.engine.state import create_model, create_state
from molo_jax.engine.step import Batch, make_train_step
from molo_jax.errors import UsageError
from molo_jax.evaluate import Evaluation
from molo_jax.evaluator import EvaluationData, Evaluator
from molo_jax.methods.episode import Episode
from molo_jax.nn.precision import PRECISIONS
from molo_jax.provenance import ListRecord, settings_seen
from molo_jax.resume import Training
from molo_jax.stored_config import changes
from molo_jax.weights.networks import abstract_network, starting_weights
from molo_jax.weights.torch_map import decays


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


def train_mesh(config: ConfigDict) -> Mesh:
    """Returns a mesh over as many devices as the episodes of a step can be spread over evenly.

    Every host (process) has the same number of them.

    Raises:
        UsageError: the processes have different numbers of devices, or the episodes of a step
            cannot be spread over the processes.
    """
    episodes, microbatch = config.train.episodes_per_step, config.train.microbatch
    devices = all_devices()
    counts = collections.Counter(device.process_index for device in devices)
    (most, number), (fewest, less) = counts.most_common()[0], counts.most_common()[-1]
    if number != less:
        # Checkpoints are written by all devices of all processes, which orbax takes for a table.
        raise UsageError(
            f"process {most} has {number} devices and process {fewest} has {less}; a training needs"
            " the same number in all processes (CUDA_VISIBLE_DEVICES chooses GPUs)"
        )
    used = even_devices(devices, parts=episodes // microbatch)
    if not used:
        raise UsageError(
            f"train.episodes_per_step={episodes} cannot be spread over {len(counts)} processes,"
            f" each of which computes a multiple of train.microbatch={microbatch}; make"
            f" train.episodes_per_step a multiple of {len(counts) * microbatch}, or start fewer"
            " processes"
        )
    if len(used) < len(devices):
        logging.warning(
            "training uses %d of %d devices: train.episodes_per_step=%d is no multiple of"
            " train.microbatch=%d times all of them",
            len(used),
            len(devices),
            episodes,
            microbatch,
        )
    connect_devices(used)
    return make_mesh(used)


def evaluation_mesh() -> Mesh:
    """Returns a mesh over the devices of all hosts (processes), the same number on each."""
    used = even_devices()
    connect_devices(used)
    return make_mesh(used)


def evaluation_data(
    config: ConfigDict, split: str, *, ways: Sequence[int], shots: Sequence[int], mesh: Mesh
) -> EvaluationData:
    """Opens a split for evaluation, with every number of shots for each number of classes.

    Raises:
        MoloError: when the split's folder, list or videos are missing, or too few for an episode.
    """
    dataset = open_split(config, split)
    return EvaluationData(
        dataset=dataset,
        samplers={
            (way, shot): eval_sampler(config, dataset, n_way=way, n_shot=shot)
            for way in ways
            for shot in shots
        },
        num_frames=config.data.num_frames,
        reading=_reading(config, eval_sampling(config)),
        preprocess=eval_preprocess(config),
        mesh=mesh,
        clip_batch=config.eval.clip_batch,
        episode_batch=config.eval.episode_batch,
        cache_mib=config.eval.cache_mib,
        precision=PRECISIONS[config.eval.precision],
    )


def _reading(config: ConfigDict, sampling: str) -> dict[str, Any]:
    """Returns how clips are read, see :func:`molo_jax.data.pipeline.clip_batches`."""
    data = config.data
    options = {"resize": data.resize, "workers": data.workers, "prefetch": data.prefetch}
    return options | {"sampling": sampling}


def evaluation(config: ConfigDict) -> Evaluation:
    """Returns what is evaluated.

    Raises:
        MoloError: when data are missing, see :func:`evaluation_data`.
    """
    tested = tested_data(config)
    return Evaluation(
        data=evaluation_data(
            tested,
            config.eval.split,
            ways=config.eval.ways or (config.eval.n_way,),
            shots=config.eval.shots,
            mesh=evaluation_mesh(),
        ),
        dataset=tested.dataset.name,
        trained_dataset=config.dataset.name,
        split=config.eval.split,
        n_query=config.eval.n_query,
        episodes=config.eval.episodes,
        controls=config.eval.controls,
        method=method_settings(config, num_classes=0),
        seed=config.seed,
        init_from=config.init_from,
        clips=_clips(config),
        refuse_trained=config.eval.on_trained_classes == REFUSE,
        config=config.to_dict(),
    )


def on_own_devices(evaluation: Evaluation) -> Evaluation:
    """Returns an evaluation for what process 0 does alone, see `hosts.alone`."""
    data = dataclasses.replace(evaluation.data, mesh=evaluation_mesh())
    return dataclasses.replace(evaluation, data=data)


def embedding(config: ConfigDict, split: str) -> Evaluation:
    """Returns the evaluation of a split without episodes, for which any list is long enough.

    Raises:
        MoloError: when data are missing, see :func:`evaluation_data`.
    """
    without_episodes = config.copy_and_resolve_references()
    without_episodes.eval.split, without_episodes.eval.shots = split, ()
    return evaluation(without_episodes)


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
    seen = settings_seen(_clips(config), dataset, method, train.precision)
    graphdef, *_ = abstract_network(method)
    trained, validated = ListRecord.of(config.dataset.name, dataset.split), None
    scored, data, validation = None, None, {}
    if train.eval_every:
        ways, shots = (train.n_way,), (train.n_shot,)
        data = evaluation_data(config, "val", ways=ways, shots=shots, mesh=mesh)
        validated = ListRecord.of(config.dataset.name, data.dataset.split)
        evaluator = Evaluator(data, graphdef)

        def scored(*weights: nnx.State) -> Score:
            scores = evaluator.scores(*weights, episodes=train.val_episodes, title="val")
            return scores[train.n_way, train.n_shot]

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
        step=functools.partial(
            make_train_step(
                graphdef,
                transformation,
                preprocess=train_preprocess(config),
                episode_key=train_key(config),
                n_way=train.n_way,
                mesh=mesh,
                precision=PRECISIONS[train.precision],
                remat=train.remat,
            ),
            count=train.episodes_per_step // (train.microbatch * mesh.size),
        ),
        scored=scored,
        validation_data=data,
        batches=functools.partial(_batches, config, dataset, sampler, mesh),
        mesh=mesh,
        schedule=schedule(config),
        steps=train.steps,
        episodes_per_step=train.episodes_per_step,
        profile_steps=parse_steps(train.profile_steps),
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
        changes=functools.partial(
            changes,
            now=config.to_dict(),
            defaults=base_config(config.method.name).to_dict(),
        ),
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
    return {key: value for key, value in seen.items() if key != "precision"} | {
        "seed": config.seed,
        "train.n_way": train.n_way,
        "train.n_shot": train.n_shot,
        "train.val_episodes": train.val_episodes,
        "eval.n_query": config.eval.n_query,
        "eval.frame_draw": config.eval.frame_draw,
        "eval.precision": config.eval.precision,
        "data.on_bad_video": config.data.on_bad_video,
        "val list": validated.digest[:12],
    }


def _batches(
    config: ConfigDict, dataset: ClipSource, sampler: EpisodeSampler, mesh: Mesh, done: int
) -> Generator[Iterator[Batch], None, None]:
    """Yields the chunks of the steps behind the first `done`, each on its way to the devices.

    A chunk is what all devices of all hosts compute side by side: consecutive episodes, of which
    each host decodes its own. The chunks of a step are made while the step takes them, so no more
    than a few of them are in memory, however many episodes a step has.
    """
    train = config.train
    chunk = train.microbatch * mesh.size
    decoded = episode_batches(
        dataset,
        sampler,
        start=done * train.episodes_per_step,
        stop=train.steps * train.episodes_per_step,
        batch_size=chunk,
        process_index=hosts.index(),
        process_count=hosts.count(),
        **_reading(config, config.data.sampling),
    )
    with contextlib.closing(decoded):
        chunks = prefetched(decoded, lambda batch: place_episodes(batch, mesh))
        for _ in range(done, train.steps):
            yield itertools.islice(chunks, train.episodes_per_step // chunk)
