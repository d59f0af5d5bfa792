"""What both implementations are trained and evaluated on: real videos, decoded once for both.

Letters: e episode, s support, q query, v videos, n way, t frame, h w space.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from molo_jax import build
from molo_jax.cli import load_config
from molo_jax.data.clips.dataset import VideoDataset
from molo_jax.data.clips.episodes import ClipRequest
from molo_jax.data.pipeline import clip_batches, episode_batches
from molo_jax.engine.evaluation import clip_key

_CONFIG = Path(__file__).parents[1] / "configs" / "synthetic.py"
_CLIPS = 16


@dataclasses.dataclass(frozen=True)
class Settings:
    """A comparison of trainings.

    Attributes:
        steps: optimizer steps.
        episodes_per_step: episodes whose gradient a step averages, one after another.
        way: classes of a training episode; those of the evaluation have 5.
        frames: frames of a clip.
        backbone: the network of single frames.
        base_lr: highest learning rate.
        seed: of weights, episodes and frames.
        test_episodes: episodes of the evaluation.
    """

    steps: int
    episodes_per_step: int = 2
    way: int = 5
    frames: int = 8
    backbone: str = "resnet18"
    base_lr: float = 5e-4
    seed: int = 0
    test_episodes: int = 200


def make_config(settings: Settings, data: Path) -> ConfigDict:
    """Returns the demo's configuration with the official optimizer and kind of schedule.

    The learning rate rises for a quarter of the steps and falls to a tenth after three quarters.
    """
    config = load_config(str(_CONFIG))
    config.seed = settings.seed
    config.data.source = "videos"
    config.data.root, config.data.split_dir = str(data / "videos"), str(data / "splits")
    config.data.num_frames = settings.frames
    config.model.backbone = settings.backbone
    config.train.n_way = settings.way
    config.train.steps = settings.steps
    config.train.episodes_per_step = settings.episodes_per_step
    config.train.microbatch = 1
    config.optimizer.schedule = "official"
    config.optimizer.base_lr = settings.base_lr
    config.optimizer.warmup_start_lr = settings.base_lr / 10
    config.optimizer.steps_iter = max(1, config.optimizer.accumulation * settings.steps // 4)
    # Progress counts twice: after three units of `steps_iter` it is 6.
    config.optimizer.boundaries = (0, 6)
    config.optimizer.factors = (1.0, 0.1)
    config.optimizer.weight_decay = 1e-3
    config.eval.shots = (1,)
    config.eval.episodes = settings.test_episodes
    return config


def training_batches(config: ConfigDict, dataset: VideoDataset) -> Iterator[dict[str, np.ndarray]]:
    """Yields the episodes of each step as training makes them, cropped and normalized once.

    Clips are float32 `(e, s, t, h, w, 3)`, support and query; the rest is as from the pipeline.
    """
    preprocess, key = build.train_preprocess(config), build.train_key(config)

    # The step splits an episode's key into one for the pixels and one for dropout.
    @jax.jit
    @jax.vmap
    def views(arrays):
        episode = preprocess(arrays, jax.random.split(key(arrays["index"]))[0])
        return {"support": episode.support, "query": episode.query}

    each = config.train.episodes_per_step
    stream = episode_batches(
        dataset,
        build.train_sampler(config, dataset),
        start=0,
        stop=config.train.steps * each,
        batch_size=each,
        workers=config.data.workers,
        prefetch=config.data.prefetch,
        resize=config.data.resize,
        sampling=config.data.sampling,
    )
    with contextlib.closing(stream):
        for batch in stream:
            yield batch | jax.tree.map(np.asarray, views(batch))


@dataclasses.dataclass(frozen=True)
class TestEpisodes:
    """Episodes of unseen classes, and the distinct clips that they are made of.

    Attributes:
        clips: normalized clips `(v, t, h, w, 3)`.
        support, query: positions in `clips`, `(e, s)` and `(e, q)`.
        support_labels, query_labels: class within the episode, of the same shapes.
    """

    # Not a test, whatever pytest thinks of the name.
    __test__ = False

    clips: np.ndarray
    support: np.ndarray
    query: np.ndarray
    support_labels: np.ndarray
    query_labels: np.ndarray

    def clip_chunks(self, size: int) -> Iterator[np.ndarray]:
        """Yields the clips, at most `size` at a time."""
        for start in range(0, len(self.clips), size):
            yield self.clips[start : start + size]


def read_test_episodes(config: ConfigDict) -> TestEpisodes:
    """Draws the first `eval.episodes` 1-shot episodes of the test split and decodes their clips."""
    dataset = build.open_split(config, "test")
    sampler = build.eval_sampler(
        config, dataset, n_way=config.eval.n_way, n_shot=config.eval.shots[0]
    )
    episodes = [sampler.resolve(sampler(index)) for index in range(config.eval.episodes)]
    requests = {clip_key(c): c for e in episodes for c in (*e.support, *e.query)}
    rows = {key: row for row, key in enumerate(requests)}

    def positions(name: str) -> np.ndarray:
        return np.int32([[rows[clip_key(c)] for c in getattr(e, name)] for e in episodes])

    return TestEpisodes(
        clips=_decode(config, dataset, list(requests.values())),
        support=positions("support"),
        query=positions("query"),
        support_labels=np.stack([e.support_labels for e in episodes]),
        query_labels=np.stack([e.query_labels for e in episodes]),
    )


def _decode(config: ConfigDict, dataset: VideoDataset, requests: list[ClipRequest]) -> np.ndarray:
    stream = clip_batches(
        dataset,
        requests,
        batch_size=_CLIPS,
        workers=config.data.workers,
        prefetch=config.data.prefetch,
        resize=config.data.resize,
        sampling=build.eval_sampling(config),
    )
    view = jax.jit(build.eval_preprocess(config))
    with contextlib.closing(stream):
        return np.concatenate([np.asarray(view(batch.clips))[batch.ok] for batch in stream])
