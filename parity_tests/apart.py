"""Replays of recorded values for the tests, in a process that has imported little.

A process of the tests has imported all that any test needs, which is more than a gigabyte. A replay
of frames of 224 pixels takes two to three more.
"""

import concurrent.futures
import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path

from own_memory import PEAKS_APART, give_back_memory, peak_bytes, return_large_arrays

from molo_jax.nn import remat
from parity_tests.golden.files import read
from parity_tests.golden.replay import Finding, replay

# Path of the file, `jax` or `torch` -> what is found.
Replay = Callable[[Path, str], list[Finding]]


@contextlib.contextmanager
def replaying() -> Iterator[Replay]:
    """Gives a function that replays a file as `replay` does, one after the other."""
    with concurrent.futures.ProcessPoolExecutor(
        1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=return_large_arrays,
        # Some hundred megabytes stay with a process after each; to start one takes two seconds.
        max_tasks_per_child=2,
    ) as pool:
        yield lambda path, backend: _taken(pool.submit(_replayed, path, backend))


def _taken(task: concurrent.futures.Future) -> list[Finding]:
    found, peak = task.result()
    PEAKS_APART.append(peak)
    return found


def _replayed(path: Path, backend: str) -> tuple[list[Finding], int]:
    file = read(path)
    # The compiler of the tests does not optimize, but the steps run four large episodes.
    quick = contextlib.nullcontext()
    if (file.kind, backend) == ("steps", "jax"):
        from parity_tests.jax_backend import optimized

        quick = optimized()
    # What is computed again need not be kept: a replay of gradients takes 0.7 GB less.
    with quick, remat.using("blocks" if file.kind == "train" else "none"):
        found = replay(file, backend)
    del file
    give_back_memory()
    return found, peak_bytes()
