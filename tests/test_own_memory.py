import functools
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from own_memory import begin_peak, forget_results, peak_bytes

PROGRAM = "from own_memory import peak_bytes; print(peak_bytes())"


def test_a_program_is_not_told_the_memory_of_the_process_that_starts_it():
    large = np.ones(300 * 2**20, np.uint8)
    assert peak_bytes() > large.nbytes
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", PROGRAM]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert 5 * 2**20 < int(printed.stdout) < 60 * 2**20


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="of Linux")
def test_a_peak_begins_anew():
    large = np.ones(300 * 2**20, np.uint8)
    before, size = peak_bytes(), large.nbytes
    del large
    begin_peak()
    assert before - peak_bytes() > 0.9 * size


def test_what_the_functions_of_a_module_remember_is_forgotten_and_that_of_others_stays():
    made = []

    def remembering(module):
        function = functools.cache(lambda: made.append(module))
        function.__module__ = module
        return function

    own, foreign = remembering("test_some"), remembering("made_weights")
    module = ModuleType("test_some")
    module.own, module.foreign, module.number = own, foreign, 3
    for _ in range(2):
        own()
        foreign()
        forget_results(module)
    assert made == ["test_some", "made_weights", "test_some"]
