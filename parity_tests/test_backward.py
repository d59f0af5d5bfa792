"""Loss terms, gradients and running statistics of one episode."""

import dataclasses

import numpy as np
import pytest

from parity_tests import torch_backend
from parity_tests.case import SMALL
from parity_tests.narrow import NARROW
from parity_tests.recording import compare
from parity_tests.tolerances import DOUBLE

# To compile a deep network takes most of a gigabyte.
pytestmark = pytest.mark.usefixtures("memory_of_a_test")


@pytest.mark.parametrize("backbone", NARROW.values())
def test_losses_gradients_and_statistics_are_equal(computed, backbone):
    case = dataclasses.replace(SMALL, backbone=backbone)
    ours, _ = computed.training(case)
    reference = torch_backend.gradients(case, case.weights(), case.episode(), double=True)
    differences = compare(ours, reference, DOUBLE)
    assert [d for d in differences if not d.inside] == []
    shapes = case.shapes()
    assert set(ours["losses"]) == {*case.names.losses.values(), "total"}
    assert set(ours["gradients"]) | set(ours["statistics"]) == set(shapes)
    # No gradient is trivially equal.
    assert min(np.linalg.norm(g) for g in ours["gradients"].values()) > 0
    # The backbone saw two batches, the decoder one.
    assert ours["statistics"]["backbone.7.1.bn2.num_batches_tracked"] == 2
    assert ours["statistics"]["up3.conv.double_conv.1.num_batches_tracked"] == 1
