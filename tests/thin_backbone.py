"""A ResNet of 8 channels with one block a stage, by the code of ResNet-18.

Run as a program, this runs the module of the first argument, with the others as its arguments; the
module knows the network by the name `thin`.
"""

import contextlib
import dataclasses
import runpy
import sys
from collections.abc import Iterator

from molo_jax.backbones import BACKBONES

# What Python runs a module with, in the place of `-m`.
PROGRAM = __file__

# More blocks would be traced and compiled again and again; more channels only take time.
THIN = dataclasses.replace(
    BACKBONES["resnet18"], name="thin", width=64, stem=8, depths=(1, 1, 1, 1)
)


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """Has the thin ResNet in the table of backbones in its `with` block."""
    BACKBONES[THIN.name] = THIN
    yield
    del BACKBONES[THIN.name]


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    with registered():
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
