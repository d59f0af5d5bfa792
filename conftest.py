"""What all tests have in common: the memory that they need, and signals that reach them."""

import gc
import os
import signal
from collections.abc import Iterator

import pytest
from browsers import browser_line
from own_memory import (
    PEAKS_APART,
    begin_peak,
    forget_results,
    give_back_memory,
    peak_bytes,
    return_large_arrays,
)
from xla_flags import QUICK

os.environ["XLA_FLAGS"] = f"{' '.join(QUICK)} {os.environ.get('XLA_FLAGS', '')}".strip()

# PyTorch's idle threads would else spin beside the others' work. Read when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# TensorFlow otherwise imports Keras, which nothing here uses. Read when TensorFlow is imported.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

# Memory that a process of the tests may need at most: two of them beside others on a small machine.
MOST_BYTES = 3 * 10**9
return_large_arrays()

# The files that take a minute of CPU time and more, the slowest first.
_SLOWEST = (
    "parity_tests/test_golden_methods.py",
    "tests/test_main.py",
    "tests/test_distributed.py",
    "tests/test_layouts.py",
    "parity_tests/test_golden.py",
    "parity_tests/test_training.py",
    "tests/test_export.py",
    "tests/test_documentation.py",
    "tests/nn/test_precision.py",
    "tests/engine/test_step.py",
    "parity_tests/test_ties.py",
    "parity_tests/test_layers.py",
    "parity_tests/test_faults_methods.py",
)

# Worker (or an empty string) -> its peak memory after each file, in bytes.
_PEAKS: dict[str, dict[str, int]] = {}


def pytest_collection_modifyitems(items) -> None:
    """Puts the slowest files first, so that no process ends minutes after the others."""
    place = {file: number for number, file in enumerate(_SLOWEST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))


def pytest_collection_finish() -> None:
    """Leaves out of every later search for garbage what was imported, which stays.

    That is millions of objects, and each search took half a second.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def memory_of_a_test() -> Iterator[None]:
    """For files whose tests need gigabytes one after the other."""
    yield
    give_back_memory()


@pytest.fixture(scope="module", autouse=True)
def _memory_of_a_file(request) -> Iterator[None]:
    begin_peak()
    yield
    forget_results(request.module)
    give_back_memory()
    # As after the collection: what is still there stays, and need not be searched.
    gc.freeze()
    worker = getattr(request.config, "workerinput", {"workerid": ""})["workerid"]
    _PEAKS.setdefault(worker, {})[request.node.nodeid] = max(peak_bytes(), *PEAKS_APART, 0)
    PEAKS_APART.clear()


@pytest.fixture(autouse=True)
def _interrupts_reach_the_test() -> Iterator[None]:
    """Undoes for a test what `nohup make test &` does: a shell's background job ignores SIGINT.

    A process that ignores a signal hands that on to those that it starts.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pytest_sessionfinish(session) -> None:
    """Hands a worker's numbers to the process that started it."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["peaks"] = _PEAKS


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    """Takes a worker's numbers; one that crashed has none."""
    _PEAKS.update(getattr(node, "workeroutput", {"peaks": {}})["peaks"])


def pytest_terminal_summary(terminalreporter) -> None:
    """Prints the browser of the tests, and the peak memory of every process that ran tests."""
    terminalreporter.write_line(browser_line())
    for worker, files in sorted(_PEAKS.items()):
        terminalreporter.write_line(memory_line(worker, files))


def memory_line(worker: str, files: dict[str, int]) -> str:
    """Says how much memory a process of the tests needed, and for which file."""
    peak = max(files.values())
    file = next(name for name, bytes_then in files.items() if bytes_then == peak)
    verdict = f", more than the {MOST_BYTES / 1e9:.1f} GB allowed" if peak > MOST_BYTES else ""
    return (
        f"peak memory{f' of {worker}' if worker else ''}: {peak / 1e9:.1f} GB, in {file}{verdict}"
    )
