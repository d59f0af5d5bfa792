"""Creation of networks."""

import dataclasses

import jax
import numpy as np
from thin_backbone import THIN, registered

from molo_jax.engine.state import count_parameters, create_model
from molo_jax.methods.settings import MoLoSettings

CONFIG = MoLoSettings(num_classes=5, backbone="resnet18")


def test_the_seed_alone_fixes_the_initial_parameters():
    config = dataclasses.replace(CONFIG, backbone=THIN.name)
    with registered():
        first, again, other = (create_model(config, seed)[1] for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    kernels = [p["motion_convolution"]["kernel"][...] for p in (first, other)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-3


def test_count_parameters_counts_every_scalar():
    backbone = 11176512
    encoder = 2 * 512 + 3 * 512 * 512 + 512 * 513 + 2048 * 513 + 512 * 2049
    motion = (27 * 512 + 1) * 64 + (9 * 64 + 1) * 64 + 65 * 512
    decoder = 9 * (64 * 128 + 128 * 32 + 32 * 16) + 2 * (128 + 32 + 16) + 3 * 17
    expected = backbone + 2 * encoder + motion + decoder + 5 * 513 + 2 * 512 + 2
    assert count_parameters(create_model(CONFIG, 0)[1]) == expected
