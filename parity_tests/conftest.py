import dataclasses
import functools
import os
import tempfile
from typing import ClassVar

import pytest

from molo_torch_ref import Schedule, learning_rate
from parity_tests import narrow
from parity_tests.case import KINETICS_POSITION, UPDATE

# Compiled programs are shared by all tests and by the commands that they start. Set before any
# test imports JAX; a folder that is already set is used.
_COMPILED = tempfile.TemporaryDirectory(prefix="molo-jax-parity-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _COMPILED.name)
os.environ.setdefault("JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

# An official schedule so short that three steps pass its warm-up and a boundary.
_SCHEDULE = Schedule(1e-3, 2e-4, steps_iter=4, steps=(0, 2), factors=(1.0, 0.1))
_LAST = UPDATE.accumulation - 1
_RATES = [learning_rate(_SCHEDULE, step * UPDATE.accumulation + _LAST) for step in range(3)]


class Computed:
    """What the tests of a file compare with, in JAX and float64; each result is computed once."""

    settings: ClassVar = {"rates": _RATES, "weight_decay": 1e-3}

    @functools.cache  # noqa: B019 (it ends with the file)
    def training(self, case):
        """An episode in training mode with its gradients; and without, the other encoding."""
        from parity_tests import jax_backend

        other = dataclasses.replace(case, position=KINETICS_POSITION)
        return jax_backend.gradients_and_forwards(
            [case, other], case.weights(), case.episode(), double=True, quick=True
        )

    @functools.cached_property
    def batches(self):
        """The episodes of each optimizer step."""
        count = UPDATE.accumulation
        steps = range(len(self.settings["rates"]))
        return [[UPDATE.episode(step * count + i) for i in range(count)] for step in steps]

    @functools.cache  # noqa: B019 (it ends with the file)
    def steps(self):
        """The optimizer steps of these episodes."""
        from parity_tests import jax_backend

        return jax_backend.steps(
            UPDATE, UPDATE.weights(), self.batches, double=True, **self.settings
        )


@pytest.fixture(scope="module", autouse=True)
def _narrow_backbones():
    with narrow.registered():
        yield


@pytest.fixture(scope="module")
def computed():
    yield Computed()
    # Those of ResNet-50 are a gigabyte.
    Computed.training.cache_clear()
    Computed.steps.cache_clear()
