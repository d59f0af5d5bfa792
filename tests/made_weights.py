"""Official checkpoints with made-up weights, for the tests of conversion."""

import functools

import numpy as np
from flax import nnx

from molo_jax.methods.settings import METHODS
from molo_jax.weights import torch_map
from molo_jax.weights.networks import abstract_network, fixed_buffers


@functools.cache
def variables(backbone="resnet18", num_classes=7, method="molo"):
    """Returns a network's variables with random values; treat them as read-only."""
    rng = np.random.default_rng(3)
    made = {}
    settings = METHODS[method](num_classes=num_classes, backbone=backbone)
    for state in abstract_network(settings)[1:]:
        for path, leaf in nnx.to_flat_state(state):
            if path[-1] == "num_batches_tracked":
                made[path] = np.int32(rng.integers(1, 2**31))
            else:
                made[path] = rng.standard_normal(leaf.shape, np.float32)
            if path[-1] == "var":
                made[path] = np.abs(made[path])
    return made


def official_tensors(backbone="resnet18", num_classes=7, method="molo"):
    """Returns a new dictionary of a network's official tensors, without prefix."""
    fixed = fixed_buffers(METHODS[method](num_classes=num_classes, backbone=backbone))
    return torch_map.export_tensors(variables(backbone, num_classes, method), fixed)


def torchvision_tensors(backbone="resnet18"):
    """Returns the tensors of an ImageNet checkpoint."""
    stem = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
    named = {}
    for name, value in official_tensors(backbone).items():
        if name.startswith("backbone."):
            _, number, rest = name.split(".", 2)
            named[f"{stem[number]}.{rest}"] = value
    classifier = np.zeros((1000, 512), np.float32)
    return named | {"fc.weight": classifier, "fc.bias": np.zeros(1000, np.float32)}
