"""Methods on a ResNet of 8 channels with one block a stage, and what JAX traces of them.

The fixture `network` of `nn/conftest.py` makes the backbone known.
"""

import jax
import numpy as np
from jax.extend.core import jaxprs_in_params
from thin_backbone import THIN

from molo_jax.engine import step as steps
from molo_jax.methods.episode import Episode
from molo_jax.methods.settings import METHODS

WAY, FRAMES, SIDE = 2, 3, 64


def settings(method):
    """Those of a method on the thin backbone, with dropout."""
    return METHODS[method](num_classes=4, backbone=THIN.name)


def arrays():
    """Those of a chunk of one episode, without values."""
    clips = jax.ShapeDtypeStruct((1, WAY, FRAMES, SIDE, SIDE, 3), np.float32)
    labels = jax.ShapeDtypeStruct((1, WAY), np.int32)
    names = ("support_labels", "query_labels", "support_classes", "query_classes")
    index = jax.ShapeDtypeStruct((1,), np.int32)
    return (
        dict.fromkeys(("support", "query"), clips) | dict.fromkeys(names, labels) | {"index": index}
    )


def gradient(graphdef, precision, remat="none"):
    """The gradient of one chunk, as a step computes it."""
    return steps._chunk_gradient(
        graphdef,
        lambda arrays, key: Episode(**{k: v for k, v in arrays.items() if k != "index"}),
        jax.random.key,
        WAY,
        precision,
        remat,
    )


def operations(jaxpr):
    """All operations of a program, also those of the functions that it calls."""
    found = []
    for equation in jaxpr.eqns:
        found.append(equation)
        for inner in jaxprs_in_params(equation.params):
            found += operations(inner)
    return found
