"""The training loop: episodes in, checkpoints and metrics out, resumable at any moment."""

import contextlib
import dataclasses
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict
from tqdm import tqdm

from molo_jax import build
from molo_jax.config import base_config, config_keys
from molo_jax.data.pipeline import episode_batches
from molo_jax.engine.checkpoint import Checkpoints
from molo_jax.engine.evaluation import Score
from molo_jax.engine.metrics import (
    MetricLog,
    Stopwatch,
    check_finite,
    format_metrics,
    mean_metrics,
)
from molo_jax.engine.prefetch import place_episodes, prefetched
from molo_jax.engine.state import TrainState, count_parameters, create_model, create_state
from molo_jax.engine.step import make_train_step, replicated
from molo_jax.errors import MoloError
from molo_jax.evaluate import Evaluator
from molo_jax.old_checkpoints import config_of_now
from molo_jax.provenance import (
    ListRecord,
    Provenance,
    check_new,
    check_same_classes,
    listed_changes,
    overlap,
    settings_seen,
    validation_settings,
)
from molo_jax.stopping import StopSignals
from molo_jax.weights.networks import (
    BEST,
    LATEST,
    check_same_network,
    read_meta,
    starting_weights,
)

# What of a log line fits beside a progress bar.
_BESIDE_BAR = ("loss", "match", "accuracy", "learning_rate", "episodes_per_second")


class Interrupted(MoloError):
    """The process was asked to stop; its work is saved."""


def train(config: ConfigDict, workdir: Path) -> None:
    """Trains to `train.steps`, going on from the last checkpoint in `workdir` if there is one.

    Otherwise it starts from `init_from`, from `model.pretrained`, or from random weights.

    Writes `checkpoints/` (the newest), `best/` (the best on the val split), `metrics.jsonl` and
    `tensorboard/` into `workdir`.

    Raises:
        MoloError: when data are missing or broken, a checkpoint does not fit, a loss is not finite,
            or the process was interrupted (after saving).
    """
    with Trainer(config, workdir) as trainer:
        if trainer.step >= config.train.steps:
            logging.info("training is complete at step %d", trainer.step)
            return
        trainer.run()


class Trainer:
    """A training run. Opening it reads the data lists and restores the last checkpoint."""

    def __init__(self, config: ConfigDict, workdir: Path):
        self._config, self._workdir = config, workdir
        self._mesh = build.train_mesh(config)
        self._dataset = build.open_split(config, "train")
        self._sampler = build.train_sampler(config, self._dataset)
        self._settings = build.method_settings(config, len(self._dataset.split.classes))
        self._lists = {"train": ListRecord.of(config.dataset.name, self._dataset.split)}
        self._origin = Provenance()
        self._schedule = build.schedule(config)
        optimizer = build.optimizer(config)
        graphdef, params, batch_stats = create_model(self._settings, config.seed)
        self._state = create_state(params, batch_stats, optimizer)
        self._validator = self._make_validator(graphdef) if config.train.eval_every else None
        self._step_function = make_train_step(
            graphdef,
            optimizer,
            preprocess=build.train_preprocess(config),
            episode_key=build.train_key(config),
            n_way=config.train.n_way,
            mesh=self._mesh,
        )
        # Metrics of finished steps that no log line covers yet, and of the step that is running.
        self._unlogged: list[dict[str, float]] = []
        self._running: tuple[int, dict[str, jax.Array]] | None = None
        self._best_accuracy = -1.0
        self.step = 0
        self._begun = self._validating = False
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Trainer":
        with contextlib.ExitStack() as stack:
            if not any(entry.name.isdigit() for entry in (self._workdir / LATEST).glob("*")):
                # First, so that weights which do not fit leave no empty folders behind.
                self._begin()
            self._latest = stack.enter_context(Checkpoints(self._workdir / LATEST))
            self._best = stack.enter_context(Checkpoints(self._workdir / BEST, keep=1))
            self._resume()
            self._log = stack.enter_context(MetricLog(self._workdir, self.step))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)

    def run(self) -> None:
        """Trains until the last step."""
        train, steps = self._config.train, self._config.train.steps
        logging.info(
            "training %s, %s, with %s parameters from step %d to %d on %d device(s)",
            self._settings.title,
            self._settings.backbone,
            f"{count_parameters(self._state.params):,}",
            self.step,
            steps,
            self._mesh.size,
        )
        logging.info(
            "the first step compiles the network, which takes half a minute to several minutes on a"
            " CPU; nothing is shown until then"
        )
        # Starts after the first step, whose compilation would hide the rate.
        self._watch: Stopwatch | None = None
        self._validate_best_again()
        with (
            StopSignals(self._plan, without=self._lost, raises=False) as signals,
            contextlib.closing(self._batches()) as batches,
            _bar(self.step, steps) as self._bar,
        ):
            self._bar.set_postfix_str("the first step is compiling")
            for batch in batches:
                self._advance(batch)
                last = self.step == steps
                if self.step % train.log_every == 0 or last:
                    self._write_line()
                if self._validator and (self.step % train.eval_every == 0 or last):
                    self._validate()
                if self.step % train.checkpoint_every == 0 or last or signals.received:
                    self._save()
                if signals.received and not last:
                    raise self._interrupted(signals.received)
        self._report_bad_videos()

    def _make_validator(self, graphdef: Any) -> Evaluator:
        dataset = build.open_split(self._config, "val")
        self._lists["val"] = ListRecord.of(self._config.dataset.name, dataset.split)
        return Evaluator(
            self._config,
            dataset,
            graphdef,
            self._mesh,
            n_way=self._config.train.n_way,
            shots=(self._config.train.n_shot,),
        )

    def _resume(self) -> None:
        """Restores the last checkpoint, or starts from the initial weights."""
        whole = replicated(self._mesh)
        for checkpoints in (self._best, self._latest):
            step = checkpoints.latest_step()
            if step is not None:
                meta = checkpoints.meta(step)
                where = checkpoints.describe(step)
                _refuse_converted(where, meta)
                check_same_network(where, meta["architecture"], self._settings)
        self._discard_newer_best()
        step = self._best.latest_step()
        if step is not None:
            self._best_accuracy = self._best.meta(step)["val_accuracy"]
        step = self._latest.latest_step()
        if step is None:
            if not self._begun:
                # What looked like a checkpoint was an incomplete one.
                self._begin()
            return
        if self._config.init_from:
            logging.info("init_from is not used again: %s has a checkpoint", self._workdir)
        meta = self._latest.meta(step)
        self._follow(self._latest.describe(step), meta, goes_on=True)
        _warn_of_changes(meta["config"], self._config)
        items = self._latest.restore(step, _items(self._state), whole)
        self._state = TrainState(**items["model"], **items["optimizer"])
        self._unlogged, self.step = meta["unlogged"], step
        logging.info("going on from step %d in %s", step, self._workdir)

    def _begin(self) -> None:
        """Starts from the initial weights."""
        if self._config.init_from:
            where, meta = read_meta(self._config.init_from)
            self._follow(where, meta, goes_on=False)
            self._origin = dataclasses.replace(self._origin, init_from=self._config.init_from)
        else:
            self._origin = self._origin_now(Provenance())
        state = self._state
        params, batch_stats = starting_weights(
            self._config, self._settings, state.params, state.batch_stats
        )
        # The optimizer's moments are zeros, whatever the weights are.
        state = dataclasses.replace(state, params=params, batch_stats=batch_stats)
        self._state = jax.device_put(state, replicated(self._mesh))
        self._begun = True

    def _follow(self, where: str, meta: dict[str, Any], *, goes_on: bool) -> None:
        """Notes what the weights at hand were trained on, and that they will be trained further.

        Args:
            where: their checkpoint.
            meta: what it says of itself.
            goes_on: whether that training goes on, and is not a new one that begins with them.

        Raises:
            MoloError: when the training would go on with other classes, or its val split holds
                classes that the weights were trained on.
        """
        before = Provenance.of_meta(meta)
        if goes_on:
            check_same_classes(where, before, self._lists["train"])
        elif changes := before.other_settings(self._seen()):
            sides = ({k: v[side] for k, v in changes.items()} for side in ("training", "now"))
            logging.warning("not as in the training of %s: %s", where, listed_changes(*sides))
        if "val" in self._lists:
            found = overlap(before, self._lists["val"], "val")
            check_new(where, found, "val", self._config.eval.on_trained_classes)
        self._origin = self._origin_now(before)

    def _origin_now(self, before: Provenance) -> Provenance:
        return before.followed_by(self._lists["train"], self._lists.get("val"), self._seen())

    def _seen(self) -> dict[str, Any]:
        return settings_seen(self._config, self._dataset, self._settings.to_json())

    def _validation(self) -> dict[str, Any]:
        return validation_settings(self._config, self._seen(), self._lists["val"])

    def _validate_best_again(self) -> None:
        """Validates the best network so far under the settings of now, if its were others.

        Accuracies of different episodes cannot be compared: a network that was best at an easier
        validation would stay the best one for ever.
        """
        step = self._best.latest_step()
        if step is None:
            return
        where = self._best.describe(step)
        if not self._validator:
            logging.warning("train.eval_every is 0: %s stays what an evaluation uses", where)
            return
        meta, now = self._best.meta(step), self._validation()
        before = meta.get("validation", {})
        if before == now:
            return
        targets = {"model": _items(self._state)["model"]}
        model = self._best.restore(step, targets, replicated(self._mesh))["model"]
        score = self._score(model["params"], model["batch_stats"])
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
            "validation": self._validation(),
            "validated_on": self._origin.to_meta()["validated_on"],
        }

    def _score(self, params: Any, batch_stats: Any) -> Score:
        train = self._config.train
        scores = self._validator.scores(
            params, batch_stats, episodes=train.val_episodes, title="val"
        )
        return scores[train.n_shot]

    def _discard_newer_best(self) -> None:
        """Removes a best network from after the last checkpoint: training will come to it again.

        Raises:
            MoloError: when there is no checkpoint and the best network is of other settings.
        """
        best, latest = self._best.latest_step(), self._latest.latest_step()
        if best is None or (latest is not None and best <= latest):
            return
        meta = self._best.meta(best)
        if latest is None and _changes(meta["config"], self._config):
            raise MoloError(
                f"{self._best.describe(best)} is of a training with other settings, and there is"
                f" no checkpoint to go on from; remove {self._workdir / BEST} or use another"
                " --workdir"
            )
        logging.info("going back to before %s", self._best.describe(best))
        self._best.delete(best)

    def _batches(self) -> Iterator[dict[str, jax.Array]]:
        with contextlib.closing(self._decoded()) as batches:
            yield from prefetched(
                batches,
                lambda batch: place_episodes(batch, self._mesh, self._config.train.microbatch),
            )

    def _decoded(self) -> Iterator[dict[str, np.ndarray]]:
        data, episodes = self._config.data, self._config.train.episodes_per_step
        return episode_batches(
            self._dataset,
            self._sampler,
            start=self.step * episodes,
            stop=self._config.train.steps * episodes,
            batch_size=episodes,
            workers=data.workers,
            prefetch=data.prefetch,
            resize=data.resize,
            sampling=data.sampling,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def _advance(self, arrays: dict[str, jax.Array]) -> None:
        """Starts an optimizer step, and meanwhile checks the numbers of the one before it."""
        started = time.perf_counter()
        self._state, metrics = self._step_function(self._state, arrays)
        if self._watch is None:
            jax.block_until_ready(metrics)
            seconds = time.perf_counter() - started
            logging.info("the first step, with its compilation, took %.0f s", seconds)
            self._watch = Stopwatch()
        self._settle()
        self.step += 1
        self._running = self.step, metrics
        self._watch.add(self._config.train.episodes_per_step)
        self._bar.update()

    def _settle(self) -> None:
        """Waits for the running step, if there is one, and checks its numbers."""
        if self._running is None:
            return
        step, metrics = self._running
        self._running = None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        check_finite(step, values)
        self._unlogged.append(values)

    def _write_line(self) -> None:
        """Logs the mean over the steps since the last line."""
        self._settle()
        values = mean_metrics(self._unlogged)
        self._unlogged = []
        values["learning_rate"] = float(self._schedule(jnp.int32(self.step - 1)))
        values["episodes_per_second"] = self._watch.rate()
        self._log.write(self.step, "train", values)
        shown = self._ordered(values) if self._bar.disable else _BESIDE_BAR
        self._say({name: values[name] for name in shown}, is_step=True)

    def _ordered(self, values: dict[str, float]) -> list[str]:
        """Returns the names of all numbers: the loss, its terms, what else there is."""
        first, last = ("loss", *self._settings.losses, "accuracy"), ("learning_rate",)
        last = ("grad_norm", *last, "episodes_per_second")
        between = [name for name in values if name not in (*first, *last)]
        return [name for name in (*first, *between, *last) if name in values]

    def _validate(self) -> None:
        """Evaluates on the val split, and keeps the weights if they are the best so far.

        Of equally accurate ones the earlier stay: later ones are no better, and trained longer.
        """
        self._settle()
        self._watch.pause()
        self._validating = True
        score = self._score(self._state.params, self._state.batch_stats)
        self._validating = False
        values = {"accuracy": score.accuracy, "ci95": score.ci95}
        self._log.write(self.step, "val", values)
        self._say({f"val_{name}": value for name, value in values.items()})
        if score.accuracy > self._best_accuracy:
            self._best_accuracy = score.accuracy
            meta = self._meta() | self._validated(score)
            self._best.save(self.step, meta=meta, model=_items(self._state)["model"])
        self._watch.resume()

    def _save(self) -> None:
        """Saves everything that training needs in order to go on from here."""
        self._settle()
        self._watch.pause()
        _check_weights(self.step, self._state)
        meta = self._meta() | {"unlogged": self._unlogged}
        self._latest.save(self.step, meta=meta, **_items(self._state))
        self._watch.resume()

    def _meta(self) -> dict[str, Any]:
        return {
            "architecture": self._settings.to_json(),
            "step": self.step,
            "config": self._config.to_dict(),
            **self._origin.to_meta(),
        }

    def _say(self, values: dict[str, float], *, is_step: bool = False) -> None:
        """Shows the numbers of a step beside the progress bar, others as a log line above it."""
        if is_step and not self._bar.disable:
            self._bar.set_postfix_str(format_metrics(values))
        else:
            logging.info("step %d  %s", self.step, format_metrics(values))

    def _plan(self) -> str:
        """Says what follows a signal to stop; called from another thread, at any moment."""
        first = ""
        if self._validating:
            first = "; a validation is running, which ends first"
        elif self._watch is None:
            first = "; the first step is still compiling, which can take minutes"
        return (
            f"stopping after this step and saving{first}. A second SIGINT (Ctrl-C) stops at once,"
            " without saving"
        )

    def _lost(self) -> str:
        saved = self._latest.saved_step
        kept = f"the last checkpoint is that of step {saved}" if saved else "there is no checkpoint"
        return f"stopped by a second SIGINT without saving; {kept}"

    def _interrupted(self, number: int) -> Interrupted:
        error = Interrupted(
            f"stopped by {signal.Signals(number).name} after step {self.step}, which is saved; the"
            " same command goes on from there"
        )
        error.exit_code = 128 + number
        return error

    def _report_bad_videos(self) -> None:
        if self._dataset.bad_count:
            logging.warning(
                "%d videos of the train split were left out as unusable", self._dataset.bad_count
            )


def _bar(step: int, steps: int) -> tqdm:
    """A progress bar on a terminal, as wide as that is at the moment; nothing elsewhere."""
    return tqdm(total=steps, initial=step, unit="step", disable=None, dynamic_ncols=True)


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


def _refuse_converted(where: str, meta: dict[str, Any]) -> None:
    """Keeps a training from going on from, or replacing, what it did not write.

    Raises:
        MoloError: when the checkpoint was made by `molo_jax.convert`.
    """
    if "source" in meta:
        raise MoloError(
            f"{where} was converted from {meta['source']} and is of no training here; move its"
            " folder elsewhere and start from it with --config.init_from=FOLDER"
        )


def _warn_of_changes(stored: dict[str, Any], config: ConfigDict) -> None:
    """Logs which values of the configuration differ from those a checkpoint was made with."""
    changes = _changes(stored, config)
    if changes:
        logging.warning("the configuration changed since the checkpoint: %s", "; ".join(changes))


def _changes(stored: dict[str, Any], config: ConfigDict) -> list[str]:
    now = json.loads(json.dumps(config.to_dict()))
    defaults = json.loads(json.dumps(base_config(config.method.name).to_dict()))
    stored, changes = config_of_now(stored), []
    for key in config_keys(now):
        # What is younger than the checkpoint had its default value then.
        old, new = _lookup(stored, key, _lookup(defaults, key)), _lookup(now, key)
        if old != new:
            changes.append(f"{key} was {old!r}, is {new!r}")
    return changes


def _lookup(tree: dict[str, Any], key: str, default: Any = None) -> Any:
    for part in key.split("."):
        if part not in tree:
            return default
        tree = tree[part]
    return tree
