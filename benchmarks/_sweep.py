"""One method's share of the benchmark of sweeps: a bank of random features, and its matching."""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

# Memory as it is needed, so that its peak means something on an accelerator too.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import numpy as np
from _workers import peak_resident_bytes
from flax import nnx

from molo_jax.analysis.summary import summarize
from molo_jax.backbones import backbone_info
from molo_jax.bank.description import Layout
from molo_jax.bank.store import FeatureBank
from molo_jax.data.clips.episodes import EpisodeSampler
from molo_jax.engine.mesh import make_mesh
from molo_jax.engine.state import create_model
from molo_jax.engine.step import make_embed, make_match
from molo_jax.methods.settings import settings_class
from molo_jax.sweep import Sweep, sweep_scores

# Clips of a call of the network, of which only the shapes of its output are taken; clips that are
# written at once.
_CLIPS, _WRITTEN = 2, 256


class Benchmark:
    """Evaluates one method with random weights on a bank of random features."""

    def __init__(self, options: dict[str, Any]):
        self._options = options
        settings = settings_class(options["method"])(num_classes=64, backbone=options["backbone"])
        self._graphdef, *self._weights = create_model(settings, seed=options["seed"])
        side = backbone_info(options["backbone"]).stride
        embed = make_embed(
            self._graphdef, preprocess=lambda x: x, mesh=make_mesh(jax.devices()[:1])
        )
        clips = jax.ShapeDtypeStruct((_CLIPS, options["frames"], side, side, 3), np.float32)
        self._shapes = jax.eval_shape(embed, *self._weights, clips)
        self._sizes = [options["videos"]] * options["classes"]
        self._matches = {way: make_match(self._graphdef, n_way=way) for way in options["ways"]}

    def measure(self) -> dict[str, Any]:
        """Evaluates all episodes of all ways and shots.

        A method without a table of inner products is given `direct_episodes` episodes of each way
        and number of shots, once to compile and once to measure.

        Returns:
            Seconds: ``draw``, ``match`` and ``statistics``; ``total``, of all episodes, and
            ``measured``, the share of the episodes that was measured. Bytes: ``features``, of the
            bank, and ``peak``, of the process. Whether a ``table`` was used.
        """
        options = self._options
        model = nnx.merge(self._graphdef, *self._weights)
        by_products = bool(model.streams(self._shapes_of_rows(1)))
        episodes = options["episodes"]
        if not by_products:
            # Whole batches, for a short one is filled up.
            batches = -(-options["direct_episodes"] // options["batch"])
            episodes = min(episodes, batches * options["batch"])
        with tempfile.TemporaryDirectory() as folder:
            bank = self._bank(Path(folder))
            if not by_products:
                # The programs of all shapes are compiled.
                self._scores(self._drawn(options["batch"]), bank, model)
            start = time.perf_counter()
            sweep = self._drawn(episodes)
            drawn = time.perf_counter()
            scores = self._scores(sweep, bank, model)
            matched = time.perf_counter()
            for score in scores.values():
                summarize(score.outcome, np.array(self._sizes), score.seconds)
            ended = time.perf_counter()
            features = bank.bytes
        share = episodes / options["episodes"]
        parts = {
            "draw": (drawn - start) / share,
            "match": (matched - drawn) / share,
            "statistics": (ended - matched) / share,
        }
        return parts | {
            "total": sum(parts.values()),
            "measured": share,
            "features": features,
            "peak": peak_resident_bytes(),
            "table": by_products,
        }

    def _scores(self, sweep: Sweep, bank: FeatureBank, model: Any) -> dict:
        return sweep_scores(
            sweep,
            bank,
            model,
            lambda way, *arrays: self._matches[way](*self._weights, *arrays),
            budget=self._options["cache_mib"] * 2**20,
            batch=self._options["batch"],
            title=self._options["method"],
        )

    def _drawn(self, episodes: int) -> Sweep:
        options = self._options
        samplers = {
            (way, shot): EpisodeSampler(
                self._sizes,
                options["seed"],
                "test",
                way,
                shot,
                options["query"],
                options["frames"],
                frame_draw="video",
            )
            for way in options["ways"]
            for shot in options["shots"]
        }
        return Sweep.draw(samplers, episodes, lambda *place: False)

    def _shapes_of_rows(self, rows: int) -> Any:
        return jax.tree.map(lambda x: np.zeros((rows, *x.shape[1:]), x.dtype), self._shapes)

    def _bank(self, folder: Path) -> FeatureBank:
        """Returns a bank of random features."""
        random = np.random.default_rng(self._options["seed"])
        layout = Layout.of(self._shapes_of_rows(0), tuple(self._sizes))
        bank = FeatureBank.open(folder / "bank", {}, {}, layout)
        with bank.writing(1):
            for start in range(0, bank.videos, _WRITTEN):
                rows = np.arange(start, min(start + _WRITTEN, bank.videos))
                bank.put(
                    rows,
                    jax.tree.map(
                        lambda leaf, rows=rows: random.standard_normal(
                            (len(rows), *leaf.shape[1:]), leaf.dtype
                        ),
                        self._shapes,
                    ),
                )
        return bank
