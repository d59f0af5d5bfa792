"""A Dask scheduler and workers in processes of their own, on the loopback address alone."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_ALONE = ("--host=127.0.0.1", "--no-dashboard")
_PATIENCE = 120


class Programs:
    """A scheduler, and workers that may be added.

    Args:
        folder: for its files and the logs.
    """

    def __init__(self, folder: Path):
        self._folder, self._file = folder, folder / "scheduler.json"
        self._started: list[subprocess.Popen] = []
        self._start("scheduler", "--port=0", f"--scheduler-file={self._file}")
        deadline = time.monotonic() + _PATIENCE
        while not self._file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        self.address: str = json.loads(self._file.read_text())["address"]

    @property
    def options(self) -> list[str]:
        """How Beam's runner finds it."""
        return [f"dask_client_address={self.address}"]

    def add_worker(self) -> None:
        """Starts a worker, which a nanny starts again where it is killed."""
        # In a folder of its own: relative paths mean something else there.
        self._start("worker", self.address, "--nthreads=1", "--preload=troubled_decoder")

    def _start(self, kind: str, *arguments: str) -> None:
        log = self._folder / f"{kind}{len(self._started)}.log"
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", kind, *arguments, *_ALONE],
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "tests"), *_given()])},
            )
        self._started.append(process)

    def end(self) -> None:
        """Ends the workers, then the scheduler."""
        for process in reversed(self._started):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()


def _given() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


@contextlib.contextmanager
def programs(folder: Path) -> Iterator[Programs]:
    """A scheduler without workers, which ends with the block."""
    running = Programs(folder)
    try:
        yield running
    finally:
        running.end()
