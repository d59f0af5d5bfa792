"""The training loop around injected parts: a state that is a number, and batches that it adds."""

import math

import numpy as np
import pytest

from molo_jax.engine.loop import Hook, fit
from molo_jax.errors import MoloError


class Run:
    """Parts of a training of which each notes its calls; a step adds the batch to the state."""

    def __init__(self, spoilt=()):
        self.calls, self.spoilt = [], dict(spoilt)
        self.stop_before = math.inf

    def step(self, state, batch):
        self.calls.append(("step", batch))
        loss = self.spoilt.get(batch, float(batch))
        return state + batch, {"loss": np.float32(loss), "accuracy": np.float32(0.5)}

    def log(self, step, means, rate):
        self.calls.append(("log", step, means["loss"]))

    def validate(self, step, state):
        self.calls.append(("validate", step, state))

    def save(self, step, state, unlogged):
        self.calls.append(("save", step, state, [each["loss"] for each in unlogged]))

    def fit(self, *, start=0, stop=6, every=(2, 3, 4), **options):
        log, validate, save = every
        return fit(
            100,
            range(start + 1, stop + 1),
            self.step,
            start=start,
            stop=stop,
            log=Hook(log, self.log),
            validate=Hook(validate, self.validate),
            save=Hook(save, self.save),
            stop_requested=lambda: self.steps() >= self.stop_before,
            **options,
        )

    def steps(self):
        return sum(call[0] == "step" for call in self.calls)

    def hooks(self):
        return [call for call in self.calls if call[0] != "step"]


def test_every_hook_is_called_at_its_steps_and_at_the_last_in_the_order_log_validate_save():
    run = Run()
    assert run.fit(stop=7) == (100 + 28, 7)
    assert [call[1] for call in run.calls if call[0] == "step"] == [1, 2, 3, 4, 5, 6, 7]
    assert run.hooks() == [
        ("log", 2, 1.5),
        ("validate", 3, 106),
        ("log", 4, 3.5),
        ("save", 4, 110, []),
        ("log", 6, 5.5),
        ("validate", 6, 121),
        ("log", 7, 7.0),
        ("validate", 7, 128),
        ("save", 7, 128, []),
    ]


def test_without_validation_the_other_hooks_stay():
    run = Run()
    result = fit(
        0,
        [5, 6],
        run.step,
        start=0,
        stop=2,
        log=Hook(10, run.log),
        save=Hook(10, run.save),
    )
    assert result == (11, 2)
    assert run.hooks() == [("log", 2, 5.5), ("save", 2, 11, [])]


def test_metrics_that_no_line_covers_are_saved_and_a_resumed_training_covers_them():
    whole, first, second = Run(), Run(), Run()
    whole.fit(stop=6, every=(3, 10, 10))
    unlogged = []
    state, done = fit(
        100,
        range(1, 7),
        first.step,
        start=0,
        stop=6,
        log=Hook(3, first.log),
        save=Hook(10, lambda step, state, metrics: unlogged.extend(metrics)),
        stop_requested=lambda: first.steps() == 4,
    )
    assert (state, done) == (110, 4)
    assert unlogged == [{"loss": 4.0, "accuracy": 0.5}]
    second.fit(start=4, stop=6, every=(3, 10, 10), unlogged=unlogged)
    lines = [call for run in (first, second) for call in run.calls if call[0] == "log"]
    assert (
        lines
        == [call for call in whole.calls if call[0] == "log"]
        == [("log", 3, 2), ("log", 6, 5)]
    )


def test_a_stop_request_saves_the_step_that_is_running_and_ends_behind_it():
    run = Run()
    run.stop_before = 3
    assert run.fit(stop=6) == (106, 3)
    assert run.hooks() == [("log", 2, 1.5), ("validate", 3, 106), ("save", 3, 106, [3.0])]


def test_a_stop_request_at_the_last_step_changes_nothing():
    run = Run()
    run.stop_before = 6
    assert run.fit(stop=6) == (121, 6)
    assert [call[:2] for call in run.hooks()[-3:]] == [("log", 6), ("validate", 6), ("save", 6)]


@pytest.mark.parametrize(
    ("spoilt", "every", "steps", "hooks"),
    [
        # The numbers of a step are looked at while the next one runs,
        (3, (2, 10, 10), 4, [("log", 2, 1.5)]),
        # or before a hook: neither a line nor a validation nor a checkpoint is made of them.
        (4, (2, 10, 10), 4, [("log", 2, 1.5)]),
        (3, (2, 3, 10), 3, [("log", 2, 1.5)]),
        (3, (2, 10, 3), 3, [("log", 2, 1.5)]),
        (6, (10, 10, 10), 6, []),
    ],
)
def test_a_loss_that_is_not_finite_ends_the_training_before_anything_is_made_of_it(
    spoilt, every, steps, hooks
):
    run = Run({spoilt: math.nan})
    with pytest.raises(MoloError, match=f"step {spoilt}: the loss term 'loss' is nan"):
        run.fit(stop=6, every=every)
    assert run.steps() == steps
    assert run.hooks() == hooks


class Clock:
    """A clock that each step and each hook moves on by so many seconds."""

    def __init__(self, first=100.0, step=2.0, validate=50.0, save=7.0):
        self.now, self.rates, self.seconds = 0.0, [], []
        self._first, self._step, self._validate, self._save = first, step, validate, save

    def fit(self, *, stop, every):
        log, validate, save = every

        def step(state, batch):
            self.now += self._step if state else self._first
            return state + 1, {"loss": np.float32(1)}

        def wait(seconds):
            self.now += seconds

        fit(
            0,
            range(stop),
            step,
            start=0,
            stop=stop,
            log=Hook(log, lambda step, means, rate: self.rates.append(rate)),
            validate=Hook(validate, lambda *_: wait(self._validate)),
            save=Hook(save, lambda *_: wait(self._save)),
            on_first_step=self.seconds.append,
            clock=lambda: self.now,
        )
        return self.rates


def test_the_rate_leaves_out_the_compilation_validations_and_checkpoints():
    clock = Clock()
    # Steps 2 to 4 in 6 seconds; then 5 to 8 in 8.
    assert clock.fit(stop=8, every=(4, 3, 2)) == [0.5, 0.5]
    assert clock.seconds == [100.0]


def test_a_line_of_the_first_step_alone_has_its_rate_with_the_compilation():
    assert Clock().fit(stop=3, every=(1, 10, 10)) == [0.01, 0.5, 0.5]


def test_one_step_runs_while_the_numbers_of_the_step_before_are_looked_at():
    seen = []

    class Number:
        """A scalar that notes when it is looked at."""

        def __init__(self, step):
            self._step = step

        def __float__(self):
            seen.append(("look", self._step))
            return 1.0

    def step(state, batch):
        seen.append(("step", batch))
        return state, {"loss": Number(batch)}

    nothing = Hook(4, lambda *_: None)
    fit(0, [1, 2, 3, 4], step, start=0, stop=4, log=nothing, save=nothing)
    assert seen == [
        *(("step", 1), ("step", 2), ("look", 1), ("step", 3), ("look", 2), ("step", 4)),
        *(("look", 3), ("look", 4)),
    ]


def test_the_progress_is_told_after_every_step():
    steps = []
    run = Run()
    run.fit(stop=5, on_step=lambda: steps.append(run.steps()))
    assert steps == [1, 2, 3, 4, 5]
