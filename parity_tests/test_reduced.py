"""Reduced precision against float32, stage by stage."""

import numpy as np
import pytest

from parity_tests import reduced


@pytest.mark.parametrize("train", [False, True])
def test_every_stage_in_bfloat16_is_within_its_bound_of_float32(train):
    found = reduced.errors(train=train)
    expected = {key for key in reduced.MEASURED if train or key != "statistics"}
    assert found.keys() == expected
    outside = {k: e for k, e in found.items() if not e <= reduced.bound(k, train=train)}
    assert outside == {}
    # Rounding is there at all: the program has not been computed in float32.
    assert all(found[key] > 1e-3 for key in found if key.startswith("stages/"))


def test_tf32_and_float32_are_the_same_bits_on_a_cpu():
    first, second = (reduced.recorded(name, train=True) for name in ("float32", "tf32"))
    for group, values in first.items():
        for name, value in values.items():
            np.testing.assert_array_equal(second[group][name], value, err_msg=f"{group} {name}")
