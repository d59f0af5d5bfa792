"""The two implementations, each from the same weights, trained and evaluated on the same arrays.

Letters: e episode, s support, q query, v videos, n way, t frame, h w space.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from ml_collections import ConfigDict
from torch import nn

import molo_torch_ref as reference
from molo_jax import build
from molo_jax.engine.mesh import make_mesh, replicated
from molo_jax.engine.state import create_model, create_state
from molo_jax.engine.step import chunked, make_embed, make_match, make_train_step
from molo_jax.methods.episode import Episode
from molo_jax.methods.settings import MoLoSettings
from molo_jax.weights.torch_map import export_tensors, import_tensors
from molo_torch_ref.matching import match_stream
from parity_tests.methods import is_fixed
from parity_tests.training_checks import JAX, JAX_DOUBLE, TORCH, TORCH_DOUBLE
from parity_tests.training_data import TestEpisodes

# Clips that PyTorch embeds at once.
_CLIPS = 32


class JaxRun:
    """The JAX implementation: its own training step, optimizer, schedule and evaluation.

    Args:
        config: the configuration; the weights come from its seed.
        num_classes: number of training classes.
        double: compute in float64, from the same float32 weights.
    """

    def __init__(self, config: ConfigDict, num_classes: int, *, double: bool = False):
        self._double = double
        # Before the precision is set: in float64 the same seed draws other weights.
        self._graphdef, *weights = create_model(
            build.method_settings(config, num_classes), config.seed
        )
        with self._precision():
            self._build(config, *jax.tree.map(self._cast, weights))

    def _build(self, config: ConfigDict, params: nnx.State, batch_stats: nnx.State) -> None:
        # One device: the episodes of a step are averaged one after another, as in the reference.
        self._mesh = make_mesh(jax.devices()[:1])
        transformation = build.optimizer(config)
        # Where the step will leave it, so that the second call finds the same program.
        self._state = jax.device_put(
            create_state(params, batch_stats, transformation), replicated(self._mesh)
        )
        self._step = make_train_step(
            self._graphdef,
            transformation,
            preprocess=_as_episode,
            episode_key=build.train_key(config),
            n_way=config.train.n_way,
            mesh=self._mesh,
        )
        self._embed = make_embed(self._graphdef, preprocess=lambda clips: clips, mesh=self._mesh)
        self._match = make_match(self._graphdef, n_way=config.eval.n_way)
        self._microbatch = config.train.microbatch

    def step(self, batch: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Makes one optimizer step; returns the batch's means of every loss term and the loss."""
        with self._precision():
            batch = {name: self._cast(array) for name, array in batch.items()}
            chunks = chunked(batch, self._microbatch)
            self._state, metrics = self._step(self._state, chunks, len(chunks))
            return {name: float(metrics[name]) for name in ("loss", *tuple(MoLoSettings.losses))}

    def tensors(self) -> dict[str, np.ndarray]:
        """Returns copies of parameters and statistics under their official names."""
        variables = {}
        for state in (self._state.params, self._state.batch_stats):
            for path, value in nnx.to_flat_state(state):
                variables[path] = np.array(value[...])
        return export_tensors(variables)

    def logits(
        self, episodes: TestEpisodes, tensors: Mapping[str, np.ndarray] | None = None
    ) -> np.ndarray:
        """Returns the match logits `(e, q, n)`, with the run's weights or with given ones."""
        with self._precision():
            weights = self._state.params, self._state.batch_stats
            if tensors is not None:
                weights = _filled(weights, tensors)
            clips = episodes.clip_chunks(_CLIPS)
            chunks = [self._embed(*weights, self._cast(chunk)) for chunk in clips]
            tokens = jax.tree.map(lambda *parts: jnp.concatenate(parts), *chunks)
            positions = episodes.support, episodes.query, episodes.support_labels
            return np.asarray(self._match(*weights, tokens, *positions), np.float64)

    def _precision(self) -> contextlib.AbstractContextManager:
        """Full float32 on every device, or float64."""
        if self._double:
            return jax.enable_x64(True)
        return jax.default_matmul_precision("highest")

    def _cast(self, array: np.ndarray | jax.Array) -> jax.Array:
        """Moves an array to the device in the run's precision; counters have that of their sums."""
        array = jnp.asarray(array)
        if not self._double:
            return array
        floating = jnp.issubdtype(array.dtype, jnp.floating)
        return array.astype(jnp.float64 if floating else jnp.int64)


class TorchRun:
    """The PyTorch reference, from given weights.

    Args:
        config: the configuration.
        num_classes: number of training classes.
        tensors: the weights, under their official names.
        double: compute in float64.
    """

    def __init__(
        self,
        config: ConfigDict,
        num_classes: int,
        tensors: Mapping[str, np.ndarray],
        *,
        double: bool = False,
    ):
        model, method = config.model, config.method
        self.model = reference.MoLo(
            num_classes,
            model.backbone,
            positional_a=method.positional_a,
            positional_b=method.positional_b,
            motion_weight=method.motion_weight,
            single_direction=method.single_direction,
            dropout_position=method.dropout_position,
            dropout_attention=method.dropout_attention,
            dropout_feedforward=method.dropout_feedforward,
        )
        state = {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}
        fixed = {n: t for n, t in self.model.state_dict().items() if is_fixed(n)}
        self.model.load_state_dict(fixed | state, strict=True)
        self._dtype = torch.float64 if double else torch.float32
        self.model.to(self._dtype)
        self.coefficients = reference.Coefficients(
            method.classification,
            method.contrast,
            # The reference multiplies it by the accumulation, as the official code does.
            method.reconstruction / config.optimizer.accumulation,
        )
        self.optimizer = reference.make_optimizer(self.model, config.optimizer.weight_decay)
        self._schedule = _schedule(config)
        self._accumulation = config.optimizer.accumulation
        self._n_way, self._eval_n_way = config.train.n_way, config.eval.n_way
        self._steps = 0

    def step(self, batch: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Makes one optimizer step; returns the batch's means of every loss term and the loss."""
        # A step has the rate of the last of the iterations that it accumulates.
        iteration = self._accumulation * (self._steps + 1) - 1
        history = reference.train_step(
            self.model,
            self.optimizer,
            [self._episode(batch, number) for number in range(len(batch["index"]))],
            n_way=self._n_way,
            coefficients=self.coefficients,
            accumulation=self._accumulation,
            # Rounded as in the JAX schedule, which would else differ by this rounding in float64.
            lr=float(np.float32(reference.learning_rate(self._schedule, iteration))),
        )
        self._steps += 1
        means = {name: float(np.mean([h[name] for h in history])) for name in history[0]}
        return {"loss": self._accumulation * means["total"]} | {
            t: means[t] for t in tuple(MoLoSettings.losses)
        }

    def tensors(self) -> dict[str, np.ndarray]:
        """Returns copies of parameters and statistics under their official names."""
        state = self.model.state_dict().items()
        return {name: tensor.numpy().copy() for name, tensor in state if not is_fixed(name)}

    @torch.no_grad()
    def logits(self, episodes: TestEpisodes) -> np.ndarray:
        """Returns the match logits `(e, q, n)`; embeds each distinct clip once."""
        self.model.eval()
        chunks = [self._tokens(self._clips(c)) for c in episodes.clip_chunks(_CLIPS)]
        appearance, motion = (torch.cat(parts) for parts in zip(*chunks, strict=True))
        rows = zip(episodes.support, episodes.query, episodes.support_labels, strict=True)
        scores = []
        for support, query, labels in rows:
            way = torch.from_numpy(labels), self._eval_n_way, *self.model.match
            frames, *_ = match_stream(appearance[support], appearance[query], *way)
            moving, *_ = match_stream(motion[support], motion[query], *way)
            scores.append(-(frames + self.model.motion_weight * moving))
        return torch.stack(scores).double().numpy()

    def _tokens(self, clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the tokens of clips: what the forward pass gets from its two encoders."""
        model, seen = self.model, {}
        encoders = (model.temporal_atte_before, model.temporal_atte_before_motion)
        hooks = [e.register_forward_hook(_keep_larger(seen, e)) for e in encoders]
        try:
            # As the queries of an episode; without its support there is no forward pass.
            model(clips[:1], clips, torch.zeros(1, dtype=torch.int64), 1, reconstruct=False)
        finally:
            for hook in hooks:
                hook.remove()
        return tuple(seen[encoder].relu() for encoder in encoders)

    def _episode(self, batch: Mapping[str, np.ndarray], number: int) -> reference.Episode:
        labels = ("support_labels", "query_labels", "support_classes", "query_classes")
        return reference.Episode(
            support=self._clips(batch["support"][number]),
            query=self._clips(batch["query"][number]),
            **{name: torch.from_numpy(batch[name][number].astype(np.int64)) for name in labels},
        )

    def _clips(self, clips: np.ndarray) -> torch.Tensor:
        """Turns `(v, t, h, w, 3)` into PyTorch's `(v, t, 3, h, w)`; float32 values stay exact."""
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(clips, -1, 2))).to(self._dtype)


def make_runs(
    config: ConfigDict, num_classes: int, names: Sequence[str]
) -> dict[str, JaxRun | TorchRun]:
    """Builds the runs of these names, all from the weights that the configuration's seed gives."""
    jax_runs = {
        name: JaxRun(config, num_classes, double=name == JAX_DOUBLE)
        for name in names
        if name in (JAX, JAX_DOUBLE)
    }
    # The same in both precisions: the float64 weights are the float32 ones.
    tensors = next(iter(jax_runs.values())).tensors()
    torch_runs = {
        name: TorchRun(config, num_classes, tensors, double=name == TORCH_DOUBLE)
        for name in names
        if name in (TORCH, TORCH_DOUBLE)
    }
    return jax_runs | torch_runs


@contextlib.contextmanager
def torch_threads() -> Iterator[None]:
    """Lets PyTorch use half of the cores, and afterwards as many threads as before.

    Its threads spin while they wait for each other; where JAX or others use the cores as well, that
    costs more than it gains.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // 2))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _keep_larger(seen: dict[nn.Module, torch.Tensor], module: nn.Module):
    """Returns a hook that keeps that output of a module which is of the most videos."""

    def hook(_, inputs, output):
        del inputs
        if module not in seen or len(output) > len(seen[module]):
            seen[module] = output

    return hook


def _as_episode(arrays: Mapping[str, jax.Array], key: jax.Array) -> Episode:
    """Takes views that are made already."""
    del key
    return Episode(**{name: value for name, value in arrays.items() if name != "index"})


def _filled(
    states: tuple[nnx.State, ...], tensors: Mapping[str, np.ndarray]
) -> tuple[nnx.State, ...]:
    """Returns the states with the values of official tensors."""
    flat = [dict(nnx.to_flat_state(state)) for state in states]
    shapes = {path: value.shape for state in flat for path, value in state.items()}
    values = import_tensors(tensors, shapes)
    return tuple(
        nnx.from_flat_state({p: v.replace(jnp.asarray(values[p])) for p, v in state.items()})
        for state in flat
    )


def _schedule(config: ConfigDict) -> reference.Schedule:
    optimizer = config.optimizer
    return reference.Schedule(
        base_lr=optimizer.base_lr,
        warmup_start_lr=optimizer.warmup_start_lr,
        steps_iter=optimizer.steps_iter,
        steps=tuple(optimizer.boundaries),
        factors=tuple(optimizer.factors),
    )
