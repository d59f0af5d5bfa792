"""The JAX side: the training step and the evaluation forward of molo_jax, on one device."""

import dataclasses
import functools
import os
import time
from collections.abc import Callable
from typing import Any

# Memory as it is needed: both frameworks share an accelerator, and the peak means something.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
from _episodes import ACCUMULATION, CLASSES, COEFFICIENTS, LEARNING_RATE, random_episodes
from _workers import peak_resident_bytes, processor
from flax import nnx

from molo_jax.engine.mesh import episodes_sharding, make_mesh, replicated
from molo_jax.engine.optimizer import make_optimizer
from molo_jax.engine.state import count_parameters, create_model, create_state
from molo_jax.engine.step import chunked, make_train_step
from molo_jax.methods.episode import Episode
from molo_jax.methods.settings import MoLoSettings
from molo_jax.nn.precision import PRECISIONS, using
from molo_jax.weights import torch_map


class Benchmark:
    """Computes on JAX's default device; with several of them, on the first.

    Args:
        options: the sizes, and `precision` and `remat` of a variant.
    """

    def __init__(self, options: dict[str, Any]):
        self._precision = PRECISIONS[options["precision"]]
        self._options = options
        coefficients = dict(COEFFICIENTS)
        # The official code multiplies the weight of the reconstruction by its accumulation.
        coefficients["reconstruction"] *= ACCUMULATION
        self._config = MoLoSettings(
            num_classes=CLASSES, backbone=options["backbone"], **coefficients
        )
        self._graphdef, self._params, self._stats = create_model(self._config, seed=0)
        self._arrays = random_episodes(options)
        self._runs: dict[str, Callable[[], None]] = {}

    def describe(self) -> dict[str, Any]:
        """Version, platform ("cpu" or "gpu"), device and number of parameters."""
        device = jax.devices()[0]
        return {
            "version": jax.__version__,
            "platform": device.platform,
            "device": processor() if device.platform == "cpu" else device.device_kind,
            "parameters": count_parameters(self._params),
        }

    def tensors(self) -> dict[str, np.ndarray]:
        """The initial weights and statistics with official names."""
        states = jax.device_get((self._params, self._stats))
        flat = {path: v[...] for state in states for path, v in nnx.to_flat_state(state)}
        return torch_map.export_tensors(flat)

    def losses(self) -> dict[str, float]:
        """Loss terms and total of the first episode in training mode, without dropout."""
        none = {f"dropout_{site}": 0.0 for site in ("position", "attention", "feedforward")}
        config = dataclasses.replace(self._config, **none)
        graphdef = nnx.graphdef(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))

        @jax.jit
        def compute(params, stats, episode):
            model = nnx.merge(graphdef, params, stats, copy=True)
            with using(self._precision):
                terms = model(episode, n_way=self._options["way"], train=True).losses
            return terms | {"total": model.total_loss(terms)}

        losses = compute(self._params, self._stats, self._episode(0))
        return {name: float(value) for name, value in losses.items()}

    def scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Match and class logits of the first episode in evaluation mode."""
        return jax.device_get(self._forward(self._params, self._stats, self._episode(0)))

    def run(self, what: str) -> float:
        """Runs "training" (one step) or "evaluation" (its episodes); returns the seconds."""
        if what not in self._runs:
            make = {"evaluation": self._evaluation, "training": self._training}[what]
            self._runs[what] = make()
        start = time.perf_counter()
        self._runs[what]()
        return time.perf_counter() - start

    def peak_memory(self) -> dict[str, Any]:
        """Peak bytes of the accelerator, or of this process where there is none."""
        statistics = jax.devices()[0].memory_stats()
        if statistics and "peak_bytes_in_use" in statistics:
            return {"bytes": statistics["peak_bytes_in_use"], "of": "the accelerator"}
        return {"bytes": peak_resident_bytes(), "of": "the process"}

    def _episode(self, number: int) -> Episode:
        arrays = {name: x[number] for name, x in self._arrays.items() if name != "index"}
        return Episode(**jax.device_put(arrays, jax.devices()[0]))

    @functools.cached_property
    def _forward(self) -> Callable[..., tuple[jax.Array, jax.Array]]:
        way = self._options["way"]

        @jax.jit
        def forward(params, stats, episode):
            model = nnx.merge(self._graphdef, params, stats, copy=True)
            with using(self._precision):
                output = model.forward(episode, n_way=way, train=False, reconstruct=False)
            return output.scores.match, output.class_logits

        return forward

    def _evaluation(self) -> Callable[[], None]:
        episodes = [self._episode(number) for number in range(self._options["episodes"])]

        def evaluate():
            scores = [self._forward(self._params, self._stats, e) for e in episodes]
            jax.block_until_ready(scores)

        return evaluate

    def _training(self) -> Callable[[], None]:
        step, state, chunks = self._step()

        def train():
            nonlocal state
            state, _ = step(state, chunks, len(chunks))
            jax.block_until_ready(state)

        return train

    def step(self) -> tuple[Callable[..., Any], tuple[Any, Any]]:
        """The training step of one chunk, and what it is called with: state and chunk."""
        step, state, (chunk,) = self._step()
        return lambda state, chunk: step(state, [chunk], 1), (state, chunk)

    def _step(self) -> tuple[Callable[..., Any], Any, list[Any]]:
        optimizer = make_optimizer(lambda step: LEARNING_RATE, decays=torch_map.decays)
        mesh = make_mesh(jax.devices()[:1])
        step = make_train_step(
            self._graphdef,
            optimizer,
            preprocess=lambda arrays, key: Episode(
                **{name: x for name, x in arrays.items() if name != "index"}
            ),
            episode_key=lambda index: jax.random.fold_in(jax.random.key(0), index),
            n_way=self._options["way"],
            mesh=mesh,
            precision=self._precision,
            remat=self._options["remat"],
        )
        chunks = chunked(self._arrays, self._options["microbatch"])
        chunks = jax.block_until_ready(jax.device_put(chunks, episodes_sharding(mesh)))
        # On the mesh from the beginning, or the second step is compiled anew. The steps take over
        # the memory of the state, which is therefore a copy.
        state = create_state(self._params, self._stats, optimizer)
        state = jax.device_put(jax.tree.map(jnp.copy, state), replicated(mesh))
        return step, state, chunks
