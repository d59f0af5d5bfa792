"""The training of one network in a work folder, resumable at any moment."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax.numpy as jnp
from absl import logging
from tqdm import tqdm

from molo_jax.console import without_bars
from molo_jax.distributed import together
from molo_jax.engine import hosts
from molo_jax.engine.evaluation import Score
from molo_jax.engine.loop import Hook, fit
from molo_jax.engine.metrics import MetricLog, format_metrics
from molo_jax.engine.runtime import CacheUse, profiled
from molo_jax.engine.state import TrainState, count_parameters
from molo_jax.reporting.validation import ValidationBoard
from molo_jax.resume import Training, open_training
from molo_jax.same_data import BadVideos
from molo_jax.stopping import AgreedStop, StopSignals

# What of a log line fits beside a progress bar.
_BESIDE_BAR = ("loss", "match", "accuracy", "learning_rate", "episodes_per_second")

# The folder of a trace in a work folder.
PROFILE = "profile"


def train(training: Training, workdir: Path) -> None:
    """Trains to the last step, going on from the last checkpoint in `workdir` if there is one.

    Writes `checkpoints/` (the newest), `best/` (the best on the val split), `metrics.jsonl` and
    `tensorboard/` into `workdir`. With several processes, all of them call this: they compute the
    steps and write the checkpoints together, and process 0 writes the rest.

    Raises:
        MoloError: when data are missing or broken, a checkpoint does not fit, a loss is not finite,
            or the process was interrupted (after saving).
    """
    with (
        open_training(training, workdir) as (start, keeper),
        MetricLog(workdir, start.step) as metrics,
        together(lambda: keeper.unfinished),
    ):
        if start.step >= training.steps:
            logging.info("training is complete at step %d", start.step)
            return
        _announce(training, start.state, start.step)
        keeper.validate_best_again()
        display = Display(training, metrics, start.step)
        board = ValidationBoard(metrics, training.validation_data)

        def validate(step: int, state: TrainState) -> None:
            with display.validating():
                score = training.scored(state.params, state.batch_stats)
                display.write_validation(step, score)
                if hosts.is_first():
                    board.show(step, score.outcome)
            keeper.keep_if_best(step, state, score)

        with (
            CacheUse() as cache,
            profiled(
                training.step,
                training.profile_steps if hosts.is_first() else None,
                done=start.step,
                folder=workdir / PROFILE,
            ) as step,
            StopSignals(
                display.plan, without=lambda: lost(keeper.saved_step), raises=False
            ) as signals,
            contextlib.closing(training.batches(start.step)) as batches,
            display.bar,
        ):
            stop = AgreedStop(signals)
            _, done = fit(
                start.state,
                batches,
                step,
                start=start.step,
                stop=training.steps,
                log=Hook(training.log_every, display.write),
                validate=Hook(training.eval_every, validate) if training.scored else None,
                save=Hook(training.checkpoint_every, keeper.save),
                on_first_step=lambda seconds: display.show_first_step(seconds, cache),
                on_step=display.bar.update,
                stop_requested=stop.requested,
                unlogged=start.unlogged,
            )
            # Here a signal is still answered; behind this block it would end the writing.
            keeper.wait()
            if done < training.steps or stop.settled():
                raise stop.interrupted(done)
        if stop.late():
            raise stop.interrupted(done)
    BadVideos(training.dataset).exchange()
    if count := training.dataset.bad_count:
        logging.warning("%d videos of the train split were left out as unusable", count)


def _announce(training: Training, state: TrainState, step: int) -> None:
    logging.info(
        "training %s, %s, with %s parameters from step %d to %d on %d device(s) of %d process(es)",
        training.method.title,
        training.method.backbone,
        f"{count_parameters(state.params):,}",
        step,
        training.steps,
        training.mesh.size,
        hosts.count(),
    )
    logging.info(
        "the first step compiles the network, which takes half a minute to several minutes on a"
        " CPU; nothing is shown until then"
    )


class Display:
    """Shows a training: lines in the log and in `metrics.jsonl`, and a progress bar on a terminal.

    Args:
        training: what is trained.
        metrics: where the numbers go.
        step: finished steps.
    """

    def __init__(self, training: Training, metrics: MetricLog, step: int):
        self._training, self._metrics = training, metrics
        self._compiling, self._validating = True, False
        # As wide as the terminal is at the moment; nothing elsewhere.
        self.bar = tqdm(
            total=training.steps,
            initial=step,
            unit="step",
            disable=without_bars(),
            dynamic_ncols=True,
        )
        self.bar.set_postfix_str("the first step is compiling")

    def show_first_step(self, seconds: float, cache: CacheUse) -> None:
        """Says how long the first step took, and how much of its compilation was done before."""
        logging.info(
            "the first step, with its compilation, took %.0f s (%d programs compiled, %d read from"
            " the cache)",
            seconds,
            cache.compiled,
            cache.read,
        )
        self._compiling = False

    def write(self, step: int, means: Mapping[str, float], steps_per_second: float) -> None:
        """Writes the means over the steps since the last line."""
        values = dict(means)
        values["learning_rate"] = float(self._training.schedule(jnp.int32(step - 1)))
        values["episodes_per_second"] = steps_per_second * self._training.episodes_per_step
        self._metrics.write(step, "train", values)
        if self.bar.disable:
            self._say(step, {name: values[name] for name in self._ordered(values)})
        else:
            shown = {name: values[name] for name in _BESIDE_BAR if name in values}
            self.bar.set_postfix_str(format_metrics(shown))

    def _ordered(self, values: Mapping[str, float]) -> list[str]:
        """Returns the names of all numbers: the loss, its terms, what else there is."""
        first = ("loss", *self._training.method.losses, "accuracy")
        last = ("grad_norm", "learning_rate", "episodes_per_second")
        between = [name for name in values if name not in (*first, *last)]
        return [name for name in (*first, *between, *last) if name in values]

    def write_validation(self, step: int, score: Score) -> None:
        """Writes the result of a validation."""
        values = {"accuracy": score.accuracy, "ci95": score.ci95}
        self._metrics.write(step, "val", values)
        self._say(step, {f"val_{name}": value for name, value in values.items()})

    def _say(self, step: int, values: Mapping[str, float]) -> None:
        logging.info("step %d  %s", step, format_metrics(values))

    @contextlib.contextmanager
    def validating(self) -> Iterator[None]:
        """Notes that a validation is running in its `with` block."""
        self._validating = True
        yield
        self._validating = False

    def plan(self) -> str:
        """Says what follows a signal to stop; may be called by another thread, at any moment."""
        first = ""
        if self._validating:
            first = "; a validation is running, which ends first"
        elif self._compiling:
            first = "; the first step is still compiling, which can take minutes"
        return (
            f"stopping after this step and saving{first}. A second SIGINT (Ctrl-C) stops at once,"
            " without saving"
        )


def lost(saved_step: int | None) -> str:
    """Says what a second SIGINT has left of a training.

    Args:
        saved_step: the step of the last checkpoint; None where there is none.
    """
    last = f"the last checkpoint is that of step {saved_step}"
    kept = last if saved_step else "there is no checkpoint"
    return f"stopped by a second SIGINT without saving; {kept}"
