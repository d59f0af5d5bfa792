import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from own_memory import peak_bytes

PROGRAM = "from own_memory import peak_bytes; print(peak_bytes())"


def test_a_program_is_not_told_the_memory_of_the_process_that_starts_it():
    large = np.ones(300 * 2**20, np.uint8)
    assert peak_bytes() > large.nbytes
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", PROGRAM]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert 5 * 2**20 < int(printed.stdout) < 60 * 2**20
