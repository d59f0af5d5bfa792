"""One method's share of the benchmark of matching: its network, and random features of clips."""

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

# Memory as it is needed, so that its peak means something on an accelerator too.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
from _workers import peak_resident_bytes
from jax import lax

from molo_jax.backbones import backbone_info
from molo_jax.data.clips.episodes import ClipRequest, EpisodeSampler
from molo_jax.engine.evaluation import FeatureStore, evaluate_episodes
from molo_jax.engine.mesh import make_mesh
from molo_jax.engine.state import create_model
from molo_jax.engine.step import make_embed, make_match
from molo_jax.methods.episode import Features
from molo_jax.methods.settings import settings_class

# Clips of a call of the network, of which only the shapes of its output are taken.
_CLIPS = 2


class Benchmark:
    """Evaluates one method on random features, with random weights."""

    def __init__(self, options: dict[str, Any]):
        self._options = options
        settings = settings_class(options["method"])(num_classes=64, backbone=options["backbone"])
        self._graphdef, *self._weights = create_model(settings, seed=options["seed"])
        # What the network makes of clips is known without running it.
        side = backbone_info(options["backbone"]).stride
        embed = make_embed(
            self._graphdef, preprocess=lambda x: x, mesh=make_mesh(jax.devices()[:1])
        )
        clips = jax.ShapeDtypeStruct((_CLIPS, options["frames"], side, side, 3), np.float32)
        self._shapes = jax.eval_shape(embed, *self._weights, clips)

    def measure(self, shot: int) -> dict[str, Any]:
        """Evaluates all episodes with so many shots.

        Returns:
            Seconds: ``compile``, ``draw`` (choosing classes and clips), ``match`` (the compiled
            program, which gathers and matches), ``rest``, and ``total``, the sum of these; ``cpu``,
            those of all cores; ``gather``, the part of ``match`` that gathering alone takes. Bytes:
            ``program``, what the program needs beside its arguments, ``features``, and ``peak``, of
            the process. The ``accuracy``, which is that of chance.
        """
        options = self._options
        sampler = self._sampler(shot)
        store = self._filled_store(sampler)
        first = [sampler.resolve(sampler(index)) for index in range(options["batch"])]
        batch = (
            np.int32([store.rows(episode.support) for episode in first]),
            np.int32([store.rows(episode.query) for episode in first]),
            np.stack([episode.support_labels for episode in first]),
        )
        table = store.table()
        cpu, start = time.process_time(), time.perf_counter()
        lowered = make_match(self._graphdef, n_way=options["way"]).lower(
            *self._weights, table, *batch
        )
        program = lowered.compile()
        seconds = {"compile": time.perf_counter() - start, "draw": 0.0, "match": 0.0}
        busy = 0.0

        def resolve(index: int):
            before = time.perf_counter()
            episode = sampler.resolve(sampler(index))
            seconds["draw"] += time.perf_counter() - before
            return episode

        def match(*arrays):
            nonlocal busy
            before, busy_before = time.perf_counter(), time.process_time()
            logits = jax.block_until_ready(program(*self._weights, *arrays))
            seconds["match"] += time.perf_counter() - before
            busy += time.process_time() - busy_before
            return logits

        score = evaluate_episodes(
            resolve, options["episodes"], store=store, match=match, batch=options["batch"]
        )
        total, cpu = time.perf_counter() - start, time.process_time() - cpu
        calls = -(-options["episodes"] // options["batch"])
        memory = program.memory_analysis()
        return {
            **seconds,
            "rest": total - sum(seconds.values()),
            "total": total,
            "cpu": cpu,
            # By the time of the cores: other programs slow the two down at different moments.
            "gather": seconds["match"]
            * min(1.0, calls * _gather_seconds(table, *batch[:2]) / busy),
            "program": memory.temp_size_in_bytes if memory else None,
            "features": sum(leaf.nbytes for leaf in jax.tree.leaves(table)),
            "peak": peak_resident_bytes(),
            "accuracy": score.accuracy,
        }

    def _sampler(self, shot: int) -> EpisodeSampler:
        options = self._options
        return EpisodeSampler(
            [options["videos"]] * options["classes"],
            options["seed"],
            "test",
            options["way"],
            shot,
            options["query"],
            options["frames"],
            frame_draw="video",
        )

    def _filled_store(self, sampler: EpisodeSampler) -> FeatureStore:
        """Returns a store that holds random features of every clip."""
        rng = np.random.default_rng(self._options["seed"])

        def embed(clips: Sequence[ClipRequest]) -> Iterator[tuple[np.ndarray, Features]]:
            def numbers(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
                return rng.standard_normal((len(clips), *leaf.shape[1:]), leaf.dtype)

            yield np.arange(len(clips)), jax.tree.map(numbers, self._shapes)

        classes, videos = self._options["classes"], self._options["videos"]
        store = FeatureStore(embed, classes * videos)
        store.ensure(sampler.clip(c, v) for c in range(classes) for v in range(videos))
        return store


def _gather_seconds(features: Features, support: np.ndarray, query: np.ndarray) -> float:
    """Seconds of all cores for reading the features of one batch of episodes.

    Each number is read and added up, which is the least that a program can do with it.
    """

    @jax.jit
    def gather(features, support, query):
        def one(episode):
            rows = jnp.concatenate(episode)
            return sum(jnp.sum(leaf[rows]) for leaf in jax.tree.leaves(features))

        return lax.map(one, (support, query), batch_size=len(support))

    jax.block_until_ready(gather(features, support, query))
    times = []
    for _ in range(5):
        start = time.process_time()
        jax.block_until_ready(gather(features, support, query))
        times.append(time.process_time() - start)
    return float(np.median(times))
