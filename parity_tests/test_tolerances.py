"""The table of tolerances: bounds follow from what was measured, and the README shows them."""

import pathlib

import pytest

from parity_tests import tolerances
from parity_tests.tolerances import FACTOR, FORWARD, FORWARD_ROUNDING, GOLDEN, LEAST, SINGLE


def test_the_readme_holds_the_tables():
    text = (pathlib.Path(__file__).parent / "README.md").read_text()
    assert tolerances.tables() in text, "replace them by `python -m parity_tests.tolerances`"


def test_a_bound_is_a_few_times_what_was_measured():
    for one in SINGLE:
        assert one.measured < one.bound
    for key, measured in FORWARD_ROUNDING.items():
        for group, value in measured.items():
            assert FORWARD[key][group] == pytest.approx(max(FACTOR * value, LEAST[group]))


def test_losses_and_stages_of_the_small_network_are_held_to_1e_5():
    for kind in ("eval", "train"):
        assert GOLDEN[kind, "resnet18"].stages.norm == 1e-5
    assert GOLDEN["train", "resnet18"].losses == (1e-5,)


def test_losses_of_late_steps_have_the_bound_of_the_last_measured_one():
    bounds = GOLDEN["steps", "resnet50"]
    assert bounds.loss(0) < bounds.loss(1) < bounds.loss(2) == bounds.loss(7)


def test_the_tables_have_a_row_for_every_bound():
    single, by_backbone = tolerances.tables().split("\n\n")
    assert len(single.splitlines()) == 2 + len(SINGLE)
    row = next(r for r in by_backbone.splitlines() if r.startswith("| recorded, train: losses"))
    assert row == "| recorded, train: losses | 6e-07, 1e-05 | 6e-07, 1e-05 | 9e-06, 4e-05 |"
