"""Optimizer steps over accumulated episodes, and the learning rates."""

import json
import pathlib

import jax
import numpy as np
import pytest

from molo_jax.engine.schedule import official_schedule
from molo_torch_ref import Schedule, learning_rate
from parity_tests import jax_backend, torch_backend
from parity_tests.case import UPDATE, Case
from parity_tests.recording import compare
from parity_tests.tolerances import DOUBLE_STEPS

# P, boundaries, factors, base rate, start of the warm-up of the five official settings.
OFFICIAL = {
    "ssv2": (6000, (0, 6, 9), (1.0, 0.1, 0.01), 1e-4, 2e-5),
    "ssv2_small": (1500, (0, 4, 8), (1.0, 0.1, 0.01), 1e-4, 2e-5),
    "kinetics100": (350, (0, 4, 6), (1.0, 0.1, 0.01), 2e-5, 5e-6),
    "ucf101": (2000, (0, 3, 6), (1.0, 0.1, 0.01), 5e-5, 1e-5),
    "hmdb51": (500, (0, 3, 5, 7), (1.0, 0.5, 0.1, 0.01), 5e-5, 1e-5),
}


def test_parameters_and_statistics_are_equal_after_accumulated_steps(computed):
    assert len(set(computed.settings["rates"])) == 3
    ours = computed.steps()
    reference = torch_backend.steps(
        UPDATE, UPDATE.weights(), computed.batches, double=True, **computed.settings
    )
    differences = compare(ours, reference, DOUBLE_STEPS)
    assert [d for d in differences if not d.inside] == []
    tensors = UPDATE.weights()
    moved = {n: np.abs(a - tensors[n]).max() for n, a in ours["parameters"].items()}
    assert min(moved.values()) > 1e-5


def test_the_same_parameters_are_spared_weight_decay():
    for backbone in ("resnet18", "resnet34", "resnet50"):
        case = Case(backbone=backbone)
        assert jax_backend.spared(case) == torch_backend.spared(case) != set()


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_official_rates_are_equal_at_every_step(name):
    steps_iter, boundaries, factors, base, start = OFFICIAL[name]
    steps = np.arange(0, 12 * steps_iter // 4, max(steps_iter // 500, 1))
    ours = jax.vmap(
        official_schedule(
            base_lr=base,
            warmup_start_lr=start,
            steps_iter=steps_iter,
            boundaries=boundaries,
            factors=factors,
        )
    )(steps)
    schedule = Schedule(base, start, steps_iter, boundaries, factors)
    reference = [learning_rate(schedule, int(4 * step + 3)) for step in steps]
    np.testing.assert_allclose(ours, reference, rtol=1e-6)


def test_the_reference_gives_the_recorded_rates():
    recorded = json.loads(
        (pathlib.Path(__file__).parent / "golden" / "learning_rate.json").read_text()
    )
    assert recorded
    for name, entry in recorded.items():
        steps_iter, boundaries, factors, base, start = OFFICIAL[name]
        schedule = Schedule(base, start, steps_iter, boundaries, factors)
        for iteration, rate in entry.items():
            assert learning_rate(schedule, int(iteration)) == pytest.approx(rate, rel=1e-12)
