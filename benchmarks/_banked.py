"""Evaluation by a bank of features: each video is decoded and embedded once, in JAX."""

import functools
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from molo_jax.backbones import backbone_info
from molo_jax.bank.description import Layout
from molo_jax.bank.filling import fill
from molo_jax.bank.store import FeatureBank
from molo_jax.data.augment import eval_views
from molo_jax.data.clips.dataset import VideoDataset
from molo_jax.data.clips.episodes import clip_of_draw
from molo_jax.engine.mesh import make_mesh
from molo_jax.engine.state import create_model
from molo_jax.evaluator import EvaluationData, Evaluator
from molo_jax.methods.settings import MoLoSettings
from molo_jax.nn.precision import PRECISIONS
from molo_jax.sweep import Sweep, sweep_scores
from molo_jax.weights import torch_map

RESIZE, CROP = 256, 224
# Classes of the auxiliary classifier, which takes no part.
CLASSES = 64
_CLIPS = 8


class Benchmark:
    """Evaluates a network with random weights.

    Args:
        options: those of the benchmark, with `sampler` (of the episodes), `sampling` and `folder`.
    """

    def __init__(self, options: dict[str, Any]):
        self._options = options
        settings = MoLoSettings(num_classes=CLASSES, backbone=options["backbone"])
        graphdef, *self._weights = create_model(settings, options["seed"])
        info, folder = backbone_info(options["backbone"]), options["folder"]
        self._source = VideoDataset.open(
            f"{folder}/videos",
            f"{folder}/splits",
            "train",
            on_bad_video="fail",
            how_to_get="Remove the folder and start again.",
        )
        self._sampler = options["sampler"]
        data = EvaluationData(
            dataset=self._source,
            samplers={(options["way"], options["shot"]): self._sampler},
            num_frames=options["frames"],
            reading={
                "sampling": options["sampling"],
                "resize": RESIZE,
                "workers": 0,
                "prefetch": 2,
            },
            preprocess=lambda clips: eval_views(clips, CROP, (info.mean, info.std)),
            mesh=make_mesh(jax.devices()[:1]),
            clip_batch=_CLIPS,
            episode_batch=options["batch"],
            cache_mib=options["cache_mib"],
            precision=PRECISIONS["float32"],
        )
        self._evaluator = Evaluator(data, graphdef)
        self._folder = tempfile.TemporaryDirectory()

    def tensors(self) -> dict[str, np.ndarray]:
        """The weights and statistics with official names."""
        states = jax.device_get(tuple(self._weights))
        flat = {path: v[...] for state in states for path, v in nnx.to_flat_state(state)}
        return torch_map.export_tensors(flat)

    def compile(self) -> float:
        """Compiles the network; returns the seconds."""
        start = time.perf_counter()
        requests = [self._sampler.clip(0, 0)] * _CLIPS
        list(self._evaluator.embed(*self._weights, requests))
        return time.perf_counter() - start

    def embed(self, turn: int) -> dict[str, Any]:
        """Embeds every video once into a new bank; returns the seconds and the number of clips."""
        start = time.perf_counter()
        like = self._evaluator.like(*self._weights)
        layout = Layout.of(like, self._source.class_sizes)
        self._bank = FeatureBank.open(Path(self._folder.name) / f"bank{turn}", {}, {}, layout)
        seed, split = self._options["seed"], self._sampler.split_name
        clip_of = functools.partial(clip_of_draw, seed, split, self._options["frames"])
        embed = functools.partial(self._evaluator.embed, *self._weights)
        clips = fill(self._bank, self._source, clip_of, embed)
        return {"seconds": time.perf_counter() - start, "clips": clips}

    def predicted(self, count: int) -> np.ndarray:
        """The predicted labels of the queries of the first episodes, (e, w, q)."""
        cell = self._options["way"], self._options["shot"]
        sweep = Sweep.draw({cell: self._sampler}, count, lambda *place: False)
        scores = sweep_scores(
            sweep,
            self._bank,
            self._evaluator.model(*self._weights),
            lambda way, *arrays: self._evaluator.match(way, *self._weights, *arrays),
            budget=self._options["cache_mib"] * 2**20,
            batch=self._options["batch"],
            title="bank",
        )
        return scores[cell].outcome.predicted
