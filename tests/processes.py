"""Several processes of one run, started as subprocesses of a test."""

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import NamedTuple

from molo_jax.relay import free_port

# Seconds after which a process that should have ended counts as hanging.
HANGS = 300
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(Path(__file__).parents[1]),
    "PYTHONUNBUFFERED": "1",
}


class Ended(NamedTuple):
    """How a process ended: its exit code (-9: killed), what it wrote, the seconds until then."""

    code: int
    output: str
    errors: str
    seconds: float

    @property
    def last(self) -> str:
        """The last line on stderr."""
        return (self.errors.strip().splitlines() or [""])[-1]


class Processes:
    """Processes of one run. A program gets its number, the count and a port as `sys.argv`.

    Args:
        program: the text of a Python program, or a list of arguments for Python in which
            `{process}`, `{count}` and `{port}` are filled in.
        count: how many there are.
        arguments: further arguments of the program.
    """

    def __init__(self, program: str | list[str], count: int, *arguments: object):
        port, self._children, self._files = free_port(), [], []
        for process in range(count):
            if isinstance(program, str):
                line = ["-c", textwrap.dedent(program), process, count, port, *arguments]
            else:
                numbers = {"process": process, "count": count, "port": port}
                line = [part.format(**numbers) for part in program]
            # No pipes: nobody reads from them while the others are looked at.
            said = [_nameless_file(), _nameless_file()]
            self._files.append(said)
            command, environment = [sys.executable, *map(str, line)], os.environ | _ENVIRONMENT
            self._children.append(
                subprocess.Popen(command, stdout=said[0], stderr=said[1], env=environment)
            )

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.kill()
            child.wait()
        for file in itertools.chain.from_iterable(self._files):
            os.close(file)

    def send(self, process: int, number: int) -> None:
        """Sends a signal to one process."""
        self._children[process].send_signal(number)

    def alive(self, process: int) -> bool:
        """Whether a process has not ended."""
        return self._children[process].poll() is None

    def await_line(self, process: int, line: str) -> None:
        """Waits until a process has written a line to stdout."""
        while line not in self._said(process)[0].splitlines():
            if not self.alive(process):
                # It may have written the line just before its end.
                assert line in self._said(process)[0].splitlines(), self._said(process)
            time.sleep(0.02)

    def await_file(self, path: Path) -> None:
        """Waits until there is a file with something in it."""
        while not (path.exists() and path.stat().st_size):
            assert all(map(self.alive, range(len(self._children)))), self.ended()
            time.sleep(0.05)

    def ended(self) -> list[Ended]:
        """Waits until all have ended, and says how; who hangs is killed."""
        began, limit = time.monotonic(), time.monotonic() + HANGS
        seconds: dict[int, float] = {}
        while len(seconds) < len(self._children) and time.monotonic() < limit:
            for process, child in enumerate(self._children):
                if process not in seconds and child.poll() is not None:
                    seconds[process] = time.monotonic() - began
            time.sleep(0.02)
        for child in self._children:
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)
        return [
            Ended(child.wait(), *self._said(process), seconds.get(process, float("inf")))
            for process, child in enumerate(self._children)
        ]

    def _said(self, process: int) -> list[str]:
        """Returns what a process has written so far, on stdout and stderr."""
        # The place in the file is the child's too: it must stay where the child writes.
        files = self._files[process]
        return [os.pread(file, os.fstat(file).st_size, 0).decode() for file in files]


def _nameless_file() -> int:
    """Opens a file that is gone when it is closed."""
    file, path = tempfile.mkstemp()
    os.unlink(path)
    return file


def run(program: str | list[str], count: int, *arguments: object) -> list[Ended]:
    """Runs processes to their end."""
    with Processes(program, count, *arguments) as processes:
        return processes.ended()
