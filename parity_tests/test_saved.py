"""What a training step keeps for its gradient, against what PyTorch's autograd keeps."""

import dataclasses

import pytest

from molo_jax.nn.remat import REMATS
from parity_tests.case import Case
from parity_tests.saved import kept_by_jax, kept_by_torch

SMALL = Case(way=5, shot=1, query=1, frames=8, size=64)
# The published training.
PAPER = dataclasses.replace(SMALL, backbone="resnet50", query=6, size=224)


@pytest.mark.parametrize("case", [SMALL, PAPER], ids=["resnet18", "resnet50"])
def test_molo_keeps_no_more_than_pytorch(case):
    theirs, ours = kept_by_torch(case), kept_by_jax(case)
    assert 0.5 * theirs < ours < theirs


def test_in_bfloat16_molo_keeps_less_and_episodes_side_by_side_keep_theirs_each():
    one = kept_by_jax(SMALL)
    assert kept_by_jax(SMALL, "bf16") < 0.75 * one
    assert kept_by_jax(SMALL, episodes=3) == pytest.approx(3 * one, rel=0.02)


def test_what_is_computed_again_is_not_kept():
    kept = {name: kept_by_jax(SMALL, remat=name) for name in REMATS}
    assert kept["blocks"] < 0.35 * kept["none"]
    assert kept["full"] < 0.9 * kept["blocks"]
