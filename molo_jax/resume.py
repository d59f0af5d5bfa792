"""What a training is, where it begins or goes on, and what it keeps on the way."""

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import logging
from flax import nnx
from jax.sharding import Mesh

from molo_jax.data.clips.source import ClipSource
from molo_jax.engine import hosts
from molo_jax.engine.checkpoint import Checkpoints
from molo_jax.engine.evaluation import Score
from molo_jax.engine.mesh import replicate, replicated
from molo_jax.engine.schedule import Schedule
from molo_jax.engine.state import TrainState
from molo_jax.engine.step import Batch, Metrics
from molo_jax.errors import MoloError
from molo_jax.evaluator import EvaluationData
from molo_jax.methods.settings import Settings
from molo_jax.provenance import (
    ListRecord,
    Provenance,
    check_new,
    check_same_classes,
    listed_changes,
    overlap,
)
from molo_jax.weights.networks import BEST, LATEST, check_same_network, read_meta


@dataclasses.dataclass(frozen=True)
class Training:
    """The parts of a training.

    Attributes:
        initial: returns the state before the first step, with random weights.
        first_weights: turns random parameters and statistics into those that it begins with.
        step: makes a step of an iterator over its chunks.
        scored: validates parameters and statistics; None without validation.
        validation_data: the episodes of `scored`; None without validation.
        batches: number of finished steps -> the chunks of each further step, on the devices.
        mesh: the devices.
        schedule: the learning rate of a step.
        steps: number of the last step.
        episodes_per_step: episodes of a batch.
        profile_steps: numbers of the first and the last step that are traced; None: none is.
        log_every, eval_every, checkpoint_every: steps between log lines, validations, checkpoints.
        dataset: the videos of the train split.
        method: the settings of the network.
        trained: the record of the train list.
        validated: that of the val list; None without validation.
        seen: see :func:`molo_jax.provenance.settings_seen`.
        validation: what the accuracy of a validation depends on beside the weights, by name.
        config: the whole configuration.
        changes: the configuration of a checkpoint -> what is not so now, in words.
        init_from: the source of the weights that it begins with, or empty.
        refuse_trained: whether val classes that these weights were trained on are refused.
    """

    initial: Callable[[], TrainState]
    first_weights: Callable[[nnx.State, nnx.State], tuple[nnx.State, nnx.State]]
    step: Callable[[TrainState, Iterable[Batch]], tuple[TrainState, Metrics]]
    scored: Callable[[nnx.State, nnx.State], Score] | None
    validation_data: EvaluationData | None
    batches: Callable[[int], Generator[Iterable[Batch], None, None]]
    mesh: Mesh
    schedule: Schedule
    steps: int
    episodes_per_step: int
    profile_steps: tuple[int, int] | None
    log_every: int
    eval_every: int
    checkpoint_every: int
    dataset: ClipSource
    method: Settings
    trained: ListRecord
    validated: ListRecord | None
    seen: Mapping[str, Any]
    validation: Mapping[str, Any]
    config: Mapping[str, Any]
    changes: Callable[[Mapping[str, Any]], list[str]]
    init_from: str
    refuse_trained: bool


class Start(NamedTuple):
    """Where a training begins: its state, the finished steps, and their metrics in no log line."""

    state: TrainState
    step: int
    unlogged: Sequence[Mapping[str, float]]
    # What the weights were trained on, this training included.
    origin: Provenance


@contextlib.contextmanager
def open_training(training: Training, workdir: Path) -> Iterator[tuple[Start, "Keeper"]]:
    """Opens the checkpoints of a work folder; restores the last one, or begins anew.

    With several processes, all of them call this, and begin with the same state.

    Raises:
        MoloError: a checkpoint is damaged, or of something else than this training; or the weights
            to begin with cannot be read, or do not fit.
    """
    start = None
    begun = any(entry.name.isdigit() for entry in (workdir / LATEST).glob("*"))
    if not hosts.broadcast(begun):
        # First, so that weights which do not fit leave no empty folders behind.
        start = _begin(training)
    with Checkpoints(workdir / LATEST) as latest, Checkpoints(workdir / BEST) as best:
        for checkpoints in (best, latest):
            _check_own(checkpoints, training.method)
        _discard_newer_best(training, best, latest)
        if latest.latest_step() is not None:
            start = _go_on(training, latest)
        # Else what looked like a checkpoint may have been an incomplete one.
        start = start or _begin(training)
        yield start, Keeper(training, start.origin, latest, best)


def _begin(training: Training) -> Start:
    """Starts from the initial weights."""
    origin = Provenance()
    if training.init_from:
        where, meta = read_meta(training.init_from)
        origin = dataclasses.replace(Provenance.of_meta(meta), init_from=training.init_from)
        if changes := origin.other_settings(training.seen):
            sides = ({k: v[side] for k, v in changes.items()} for side in ("training", "now"))
            logging.warning("not as in the training of %s: %s", where, listed_changes(*sides))
        _check_validation(training, where, origin)
    state = training.initial()
    params, batch_stats = training.first_weights(state.params, state.batch_stats)
    # The optimizer's moments are zeros, whatever the weights are.
    state = dataclasses.replace(state, params=params, batch_stats=batch_stats)
    return Start(replicate(state, training.mesh), 0, (), _further(training, origin))


def _go_on(training: Training, latest: Checkpoints) -> Start:
    """Restores the last checkpoint."""
    step = latest.latest_step()
    where, meta = latest.describe(step), latest.meta(step)
    if training.init_from:
        logging.info("init_from is not used again: %s has a checkpoint", latest.folder.parent)
    origin = Provenance.of_meta(meta)
    check_same_classes(where, origin, training.trained)
    _check_validation(training, where, origin)
    if changed := training.changes(meta.get("config", {})):
        logging.warning("the configuration changed since the checkpoint: %s", "; ".join(changed))
    targets = _items(jax.eval_shape(training.initial))
    items = latest.restore(step, targets, replicated(training.mesh))
    logging.info("going on from step %d in %s", step, latest.folder.parent)
    state = TrainState(**items["model"], **items["optimizer"])
    return Start(state, step, meta.get("unlogged", ()), _further(training, origin))


def _check_validation(training: Training, where: str, origin: Provenance) -> None:
    """Checks that the val split holds no classes that the weights at hand were trained on."""
    if training.validated:
        found = overlap(origin, training.validated, "val")
        check_new(where, found, "val", refuse=training.refuse_trained)


def _further(training: Training, origin: Provenance) -> Provenance:
    return origin.followed_by(training.trained, training.validated, training.seen)


def _check_own(checkpoints: Checkpoints, method: Settings) -> None:
    """Keeps a training from going on from, or replacing, what it did not write.

    Raises:
        MoloError: the newest checkpoint was made by `molo_jax.convert`, or is of another network.
    """
    step = checkpoints.latest_step()
    if step is None:
        return
    where, meta = checkpoints.describe(step), checkpoints.meta(step)
    if "source" in meta:
        raise MoloError(
            f"{where} was converted from {meta['source']} and is of no training here; move its"
            " folder elsewhere and start from it with --config.init_from=FOLDER"
        )
    check_same_network(where, meta.get("architecture"), method)


def _discard_newer_best(training: Training, best: Checkpoints, latest: Checkpoints) -> None:
    """Removes a best network from after the last checkpoint: training will come to it again.

    The one before it is kept too, and is then the best so far: on a GPU, training may come to
    another network, which is none of the best.

    Raises:
        MoloError: when there is no checkpoint and the best network is of other settings.
    """
    newest, step = best.latest_step(), latest.latest_step()
    if newest is None or (step is not None and newest <= step):
        return
    if step is None and training.changes(best.meta(newest).get("config", {})):
        raise MoloError(
            f"{best.describe(newest)} is of a training with other settings, and there is no"
            f" checkpoint to go on from; remove {best.folder} or use another --workdir"
        )
    logging.info("going back to before %s", best.describe(newest))
    best.delete(newest)
    _discard_newer_best(training, best, latest)


class Keeper:
    """Keeps the newest state of a training, and the network that was best on the val split.

    Args:
        training: its parts.
        origin: what the weights were trained on.
        latest: the checkpoints of the newest state.
        best: that of the best network.
    """

    def __init__(
        self, training: Training, origin: Provenance, latest: Checkpoints, best: Checkpoints
    ):
        self._training, self._origin = training, origin.to_meta()
        self._latest, self._best = latest, best
        step = best.latest_step()
        self._best_accuracy = -1.0 if step is None else best.meta(step).get("val_accuracy", -1.0)

    @property
    def saved_step(self) -> int | None:
        """The step of the newest checkpoint; may be read by another thread."""
        return self._latest.saved_step

    @property
    def unfinished(self) -> bool:
        """Whether something is being written; may be read by another thread."""
        return self._latest.unfinished or self._best.unfinished

    def save(self, step: int, state: TrainState, unlogged: Sequence[Mapping[str, float]]) -> None:
        """Begins to write everything that training needs in order to go on from here."""
        _check_weights(step, state)
        # Else, after a kill, training could go on behind a validation whose network is not kept.
        self._best.wait()
        meta = self._meta(step) | {"unlogged": unlogged}
        self._latest.save(step, meta=meta, **_items(state))

    def wait(self) -> None:
        """Waits until all that is to be kept is on disk.

        Raises:
            MoloError: when it could not be written.
        """
        self._best.wait()
        self._latest.wait()

    def keep_if_best(self, step: int, state: TrainState, score: Score) -> None:
        """Keeps the weights if they are the best on the val split so far.

        Of equally accurate ones the earlier stay: later ones are no better, and trained longer.
        All processes do what the numbers of process 0 say.
        """
        score = _of_first(score)
        if score.accuracy > self._best_accuracy:
            self._best_accuracy = score.accuracy
            meta = self._meta(step) | self._validated(score)
            self._best.save(step, meta=meta, model=_items(state)["model"])

    def validate_best_again(self) -> None:
        """Validates the best network so far under the settings of now, if its were others.

        Accuracies of different episodes cannot be compared: a network that was best at an easier
        validation would stay the best one for ever.
        """
        step = self._best.latest_step()
        if step is None:
            return
        where = self._best.describe(step)
        if not self._training.scored:
            logging.warning("train.eval_every is 0: %s stays what an evaluation uses", where)
            return
        meta, now = self._best.meta(step), self._training.validation
        before = meta.get("validation", {})
        if before == now:
            return
        targets = {"model": _items(jax.eval_shape(self._training.initial))["model"]}
        model = self._best.restore(step, targets, replicated(self._training.mesh))["model"]
        score = _of_first(self._training.scored(model["params"], model["batch_stats"]))
        logging.warning(
            "%s was the best at another validation (%s); at that of now it has %.4f instead of"
            " %.4f",
            where,
            listed_changes(before, now) if before else "of which it does not say how it was done",
            score.accuracy,
            meta["val_accuracy"],
        )
        self._best_accuracy = score.accuracy
        self._best.replace_meta(step, meta | self._validated(score))

    def _validated(self, score: Score) -> dict[str, Any]:
        """Returns what the best checkpoint says of its validation."""
        return {
            "val_accuracy": score.accuracy,
            "val_ci95": score.ci95,
            "validation": self._training.validation,
            "validated_on": self._origin["validated_on"],
        }

    def _meta(self, step: int) -> dict[str, Any]:
        return {
            "architecture": self._training.method.to_json(),
            "step": step,
            "config": self._training.config,
            **self._origin,
        }


def _of_first(score: Score) -> Score:
    """Returns the score with the accuracy that process 0 has found."""
    if hosts.count() == 1:
        return score
    accuracy, ci95 = hosts.broadcast([score.accuracy, score.ci95])
    return dataclasses.replace(score, accuracy=accuracy, ci95=ci95)


def _items(state: TrainState) -> dict[str, dict[str, Any]]:
    """Returns the trees that a checkpoint holds."""
    return {
        "model": {"params": state.params, "batch_stats": state.batch_stats},
        "optimizer": {"opt_state": state.opt_state, "step": state.step},
    }


@jax.jit
def _finite(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.all(jnp.isfinite(leaf)), tree)


def _check_weights(step: int, state: TrainState) -> None:
    """Refuses to save what no training can go on from.

    Raises:
        MoloError: naming the first tensor that is not finite.
    """
    model = _items(state)["model"]
    for path, finite in jax.tree_util.tree_flatten_with_path(jax.device_get(_finite(model)))[0]:
        if not finite:
            name = jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")
            raise MoloError(
                f"step {step}: {name} is not finite, though the loss is; nothing is saved. A lower"
                " optimizer.base_lr may help; the last checkpoint is from before it"
            )
