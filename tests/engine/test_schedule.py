import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from molo_jax.engine.schedule import cosine_schedule, official_rate, official_schedule

GOLDEN = json.loads(
    (Path(__file__).parents[2] / "parity_tests/golden/learning_rate.json").read_text()
)
RECIPES = {
    "ssv2": (1e-4, 2e-5, 6000, (0, 6, 9), (1, 0.1, 0.01)),
    "ssv2_small": (1e-4, 2e-5, 1500, (0, 4, 8), (1, 0.1, 0.01)),
    "kinetics100": (2e-5, 5e-6, 350, (0, 4, 6), (1, 0.1, 0.01)),
    "ucf101": (5e-5, 1e-5, 2000, (0, 3, 6), (1, 0.1, 0.01)),
    "hmdb51": (5e-5, 1e-5, 500, (0, 3, 5, 7), (1, 0.5, 0.1, 0.01)),
}


def recipe(name):
    names = ("base_lr", "warmup_start_lr", "steps_iter", "boundaries", "factors")
    return dict(zip(names, RECIPES[name], strict=True))


@pytest.mark.parametrize("name", RECIPES)
def test_official_rate_equals_every_recorded_rate_to_the_last_bit(name):
    computed = {i: official_rate(int(i), **recipe(name)) for i in GOLDEN[name]}
    assert computed == GOLDEN[name]


@pytest.mark.parametrize("name", RECIPES)
def test_official_schedule_has_at_step_s_the_recorded_rate_of_iteration_4s_plus_3(name):
    schedule = jax.jit(official_schedule(**recipe(name), accumulation=4))
    recorded = {int(i): rate for i, rate in GOLDEN[name].items() if int(i) % 4 == 3}
    assert len(recorded) >= 3
    for iteration, rate in recorded.items():
        assert schedule(jnp.int32(iteration // 4)) == np.float32(rate)


@pytest.mark.parametrize("name", RECIPES)
def test_official_schedule_with_accumulation_1_equals_every_recorded_rate(name):
    schedule = jax.jit(official_schedule(**recipe(name), accumulation=1))
    steps = jnp.array([int(i) for i in GOLDEN[name]])
    rates = np.float32(list(GOLDEN[name].values()))
    np.testing.assert_array_equal(jax.vmap(schedule)(steps), rates)


def test_official_schedule_drops_at_the_first_step_whose_last_iteration_is_past_the_boundary():
    # ssv2 falls to a tenth at iteration 18000, which is the first of the four of step 4500.
    schedule = jax.jit(official_schedule(**recipe("ssv2")))
    assert schedule(4499) == np.float32(1e-4)
    assert schedule(4500) == np.float32(1e-5)


def test_official_schedule_works_when_the_warmup_is_shorter_than_one_step():
    schedule = official_schedule(
        base_lr=0.5, warmup_start_lr=0.1, steps_iter=3, boundaries=(0,), factors=(1.0,)
    )
    assert schedule(jnp.int32(0)) == np.float32(0.5)


def test_cosine_schedule_has_the_hand_worked_values():
    schedule = jax.jit(cosine_schedule(0.8, warmup_steps=4, steps=10))
    rising = [0.2, 0.4, 0.6, 0.8]
    falling = [0.8, 0.4 * (1 + math.cos(math.pi / 3)), 0.4]
    rates = [float(schedule(step)) for step in (0, 1, 2, 3, 4, 6, 7)]
    np.testing.assert_allclose(rates, rising + falling, rtol=1e-6)
    np.testing.assert_allclose([schedule(10), schedule(12)], 0.0, atol=1e-8)


def test_cosine_schedule_without_warmup_starts_at_the_base_rate():
    assert cosine_schedule(0.3, warmup_steps=0, steps=7)(jnp.int32(0)) == np.float32(0.3)


@pytest.mark.parametrize("steps", [3, 5])
def test_cosine_schedule_of_a_training_no_longer_than_its_warmup_only_rises(steps):
    schedule = jax.vmap(cosine_schedule(0.5, warmup_steps=5, steps=steps))
    np.testing.assert_allclose(schedule(jnp.arange(5)), [0.1, 0.2, 0.3, 0.4, 0.5], rtol=1e-6)
