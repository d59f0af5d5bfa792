"""The memory of the process that asks, and how it gives back what it does not need."""

import contextlib
import ctypes
import gc
import re
import resource
import sys
from pathlib import Path
from types import ModuleType

# `mallopt` of the C library: parameters M_TRIM_THRESHOLD and M_MMAP_THRESHOLD. Without them, freed
# arrays stay with the process, in pieces that the next large array does not fit into.
_TRIM, _MMAP, _LARGE = -1, -3, 32 * 2**20

# The peaks of the processes that the tests of the file that runs had compute something.
PEAKS_APART: list[int] = []


def peak_bytes() -> int:
    """Returns the most resident memory that this process has had since `begin_peak`, in bytes.

    Linux hands `ru_maxrss` on to a process that is started: a small program that a large test
    starts would be told the memory of the test. `VmHWM` begins anew with each program.
    """
    status = Path("/proc/self/status")
    found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.M) if status.exists() else None
    if found:
        return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def begin_peak() -> None:
    """Has `peak_bytes` count from now on, where the system can: otherwise from the start."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def return_large_arrays() -> None:
    """Has the C library give the memory of large arrays back to the system once they are freed."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            for parameter in (_TRIM, _MMAP):
                ctypes.CDLL(None).mallopt(parameter, _LARGE)


def forget_results(module: ModuleType) -> None:
    """Forgets what the functions of a module remember, such as networks and their outputs."""
    for value in vars(module).values():
        if getattr(value, "__module__", None) == module.__name__ and hasattr(value, "cache_clear"):
            value.cache_clear()


def give_back_memory() -> None:
    """Forgets the compiled programs, and returns free memory to the system.

    JAX keeps every program that it ever compiled, and what was traced for it, as long as the
    process lives; those of one file of tests are of no use to the next. The C library keeps freed
    memory for itself, in pieces that large arrays do not fit into.
    """
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
