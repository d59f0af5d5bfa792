"""The training step with the input pipeline in front of it, as the command that trains does it."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any, TypeVar

import jax
from _workers import processor
from ml_collections import ConfigDict

from molo_jax import build
from molo_jax.config import base_config
from molo_jax.engine.loop import Hook, fit
from molo_jax.engine.mesh import replicated

_Item = TypeVar("_Item")


class Benchmark:
    """Trains one variant of JAX on prepared data.

    Args:
        options: the sizes, `precision` and `remat`, and of the data `prepared` (the folder),
            `dataset`, `resize` and `sampling`.
    """

    def __init__(self, options: dict[str, Any]):
        self._options = options
        self._training = build.training(configuration(options))

    def describe(self) -> dict[str, Any]:
        """Version, platform ("cpu" or "gpu"), device, and how many of them are used."""
        device = jax.devices()[0]
        return {
            "version": jax.__version__,
            "platform": device.platform,
            "device": processor() if device.platform == "cpu" else device.device_kind,
            "count": self._training.mesh.size,
        }

    def measure(self) -> dict[str, float]:
        """See :func:`measured`."""
        training, options = self._training, self._options
        with closing(training.batches(0)) as batches:
            state = jax.device_put(training.initial(), replicated(training.mesh))
            return measured(
                *(state, batches, training.step),
                warmup=options["warmup"],
                steps=options["steps"],
                episodes=options["episodes"],
            )


def configuration(options: dict[str, Any]) -> ConfigDict:
    """The usual configuration of MoLo with the sizes of the benchmark, without validation."""
    config = base_config()
    config.dataset.name = options["dataset"]
    config.model.backbone = options["backbone"]
    config.data.update(
        prepared=options["prepared"],
        resize=options["resize"],
        crop=options["crop"],
        num_frames=options["frames"],
        sampling=options["sampling"],
        workers=options["workers"],
        on_bad_video="skip",
    )
    config.train.update(
        n_way=options["way"],
        n_shot=options["shot"],
        n_query=options["query"],
        episodes_per_step=options["episodes"],
        microbatch=options["microbatch"],
        # Those on arrays take the data of one step.
        steps=1 + options["warmup"] + options["steps"],
        eval_every=0,
        precision=options["precision"],
        remat=options["remat"],
    )
    # No accuracy is measured, so that lists with common classes do no harm.
    config.eval.on_trained_classes = "warn"
    return config


def measured(
    state: Any,
    batches: Iterator[Iterable[Any]],
    step: Callable[[Any, Iterable[Any]], tuple[Any, Any]],
    *,
    warmup: int,
    steps: int,
    episodes: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Trains in the project's loop on the chunks of one step again and again, then on all.

    Args:
        state: what a step changes.
        batches: the chunks of each step; the first one's are those that are used again.
        step: `(state, chunks) -> (state, metrics)`.
        warmup: steps that are not counted, before each of the two.
        steps: counted steps of each.
        episodes: of a step.
        clock: returns seconds.

    Returns:
        Episodes a second on `arrays` and with the `pipeline`; their `ratio`, pipeline to arrays;
        and `waited`, the part of the time that the loop waited for the pipeline's next chunk.
    """
    kept = list(next(batches))
    # The loop would go on behind its last step to see whether there is another one.
    state, on_arrays, _ = _timed(state, itertools.repeat(kept), step, warmup, steps, clock)
    _, with_pipeline, waited = _timed(state, batches, step, warmup, steps, clock)
    return {
        "arrays": steps * episodes / on_arrays,
        "pipeline": steps * episodes / with_pipeline,
        "ratio": on_arrays / with_pipeline,
        "waited": waited / with_pipeline,
    }


def _timed(
    state: Any,
    batches: Iterator[Iterable[Any]],
    step: Callable[[Any, Iterable[Any]], tuple[Any, Any]],
    warmup: int,
    steps: int,
    clock: Callable[[], float],
) -> tuple[Any, float, float]:
    """Returns the state, the seconds of the counted steps, and those of them waited for data."""
    wait = Wait(clock)

    def waiting_step(state: Any, chunks: Iterable[Any]) -> tuple[Any, Any]:
        return step(state, wait.timed(chunks))

    def train(first: int, last: int) -> None:
        nonlocal state
        nothing = Hook(last, lambda *_: None)
        some = wait.timed(itertools.islice(batches, last - first))
        # The hook of the last step waits for that step.
        state, _ = fit(state, some, waiting_step, start=first, stop=last, log=nothing, save=nothing)

    train(0, warmup)
    begun, wait.seconds = clock(), 0.0
    train(warmup, warmup + steps)
    return state, clock() - begun, wait.seconds


class Wait:
    """Sums up the time that was waited for the next item of any iterators."""

    def __init__(self, clock: Callable[[], float]):
        self.seconds = 0.0
        self._clock = clock

    def timed(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """Yields the items."""
        iterator = iter(items)
        while True:
            begun = self._clock()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.seconds += self._clock() - begun
            yield item
