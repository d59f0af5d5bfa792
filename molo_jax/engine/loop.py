"""The training loop: steps, and what is called between them; it knows no files and no data."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax

from molo_jax.engine.metrics import check_finite, mean_metrics


@dataclasses.dataclass(frozen=True)
class Hook:
    """What the loop calls after every step whose number `every` divides, and after the last."""

    every: int
    call: Callable[..., object]


def fit(
    state: Any,
    batches: Iterable[Any],
    step: Callable[[Any, Any], tuple[Any, Mapping[str, Any]]],
    *,
    start: int,
    stop: int,
    log: Hook,
    save: Hook,
    validate: Hook | None = None,
    on_first_step: Callable[[float], object] = lambda seconds: None,
    on_step: Callable[[], object] = lambda: None,
    stop_requested: Callable[[], bool] = lambda: False,
    unlogged: Sequence[Mapping[str, float]] = (),
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Any, int]:
    """Trains.

    One step is always running: while the devices compute it, the loop looks at the numbers of the
    step before. It waits for the running step only for a hook. After a step the hooks are called in
    the order log, validate, save.

    Args:
        state: what a step changes.
        batches: one for each step, beginning with step `start` + 1.
        step: `(state, batch) -> (state, metrics)`, the metrics as scalars by name.
        start: finished steps.
        stop: the last step.
        log: `(step, means, rate)`: the means of the metrics over the steps since the last call, and
            the steps per second without the time of the other two hooks. The first step, which
            compiles, counts in a rate only where the call covers no other step.
        save: `(step, state, unlogged)`: the metrics of the finished steps that no call of `log` has
            covered. It is also called before an early end.
        validate: `(step, state)`.
        on_first_step: called with the seconds of the first step, when it is finished.
        on_step: called after a step was started.
        stop_requested: whether to end after the step that was started last; asked once a step.
        unlogged: metrics of steps up to `start` that the next call of `log` covers too.
        clock: returns seconds.

    Returns:
        The state, and the number of finished steps: below `stop` after an early end.

    Raises:
        MoloError: a loss or a gradient is not finite; nothing of that step was saved.
    """
    numbers, watch = _Numbers(unlogged), _Stopwatch(clock)
    done = start
    for done, batch in enumerate(batches, start + 1):
        begun = clock()
        state, metrics = step(state, batch)
        if done == start + 1:
            jax.block_until_ready(metrics)
            on_first_step(clock() - begun)
        numbers.add(done, metrics)
        watch.count += 1
        on_step()
        if _is_due(log, done, stop):
            log.call(done, numbers.take_means(), watch.rate())
        elif done == start + 1:
            watch.rate()
        with watch.paused():
            if validate and _is_due(validate, done, stop):
                numbers.settle()
                validate.call(done, state)
            stopping = stop_requested()
            if _is_due(save, done, stop) or stopping:
                numbers.settle()
                save.call(done, state, list(numbers.unlogged))
        if stopping:
            break
    return state, done


def _is_due(hook: Hook, step: int, last: int) -> bool:
    return step % hook.every == 0 or step == last


class _Numbers:
    """The metrics of finished steps that no log line covers yet, and those of the running step."""

    def __init__(self, unlogged: Sequence[Mapping[str, float]]):
        self.unlogged = list(unlogged)
        self._running: tuple[int, Mapping[str, Any]] | None = None

    def add(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Takes the metrics of a step that has just been started."""
        self.settle()
        self._running = step, metrics

    def settle(self) -> None:
        """Waits for the running step, if there is one, and checks its numbers."""
        if self._running is None:
            return
        (step, metrics), self._running = self._running, None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        check_finite(step, values)
        self.unlogged.append(values)

    def take_means(self) -> dict[str, float]:
        """Returns the means over all steps so far, which are covered then."""
        self.settle()
        means, self.unlogged = mean_metrics(self.unlogged), []
        return means


class _Stopwatch:
    """Measures a rate over the time that steps take."""

    def __init__(self, clock: Callable[[], float]):
        self.count = 0
        self._clock, self._since = clock, clock()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out the time in its `with` block."""
        begun = self._clock()
        yield
        self._since += self._clock() - begun

    def rate(self) -> float:
        """Returns the steps per second since the last call, and starts anew."""
        now = self._clock()
        rate = self.count / max(now - self._since, 1e-9)
        self.count, self._since = 0, now
        return rate
