"""Programs of the repository, run in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

# `conftest.py` has set how programs are compiled; what is compiled in the same way is shared.
QUICK = {
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(Path(__file__).parents[1]),
}


def run(*command: object) -> subprocess.CompletedProcess:
    """Runs a script or `-m MODULE` with this Python, and returns how it ended and what it said."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        env=os.environ | QUICK,
        check=False,
    )
