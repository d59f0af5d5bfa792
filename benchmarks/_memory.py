"""Memory and time of a process and all that it has started, from outside of it."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_SECONDS = 0.2


class PeakMemory:
    """Largest memory of a process tree, sampled while `watching`.

    Counted is the proportional set size: a page that several processes share counts once.

    Attributes:
        bytes: the largest value so far; 0 on a system that does not tell.
    """

    def __init__(self, pid: int):
        self.bytes = 0
        self._pid = pid

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Samples until the block ends."""
        ended = threading.Event()
        thread = threading.Thread(target=self._watch, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _watch(self, ended: threading.Event) -> None:
        last = False
        while not last:
            last = ended.wait(_SECONDS)
            self.bytes = max(self.bytes, sum(map(_proportional_bytes, _tree(self._pid))))


def _tree(pid: int) -> Iterator[int]:
    """The process and those below it."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it has just ended
            for child in task.read_text().split():
                yield from _tree(int(child))


def _proportional_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


class OtherLoad:
    """How busy programs other than this one and those that it has started keep the machine."""

    def __init__(self):
        self._start = self._now()

    def cores(self) -> float:
        """Cores that they have used since this object was made, on average."""
        wall, busy, own = (b - a for a, b in zip(self._start, self._now(), strict=True))
        return max(0.0, busy - own) / wall

    def _now(self) -> tuple[float, float, float]:
        """Seconds on the clock, of all cores in use, and of those the ones of this program."""
        # user, nice, system, idle, waiting, interrupts, soft interrupts, stolen
        times = [int(x) for x in Path("/proc/stat").read_text().split(maxsplit=9)[1:9]]
        busy = sum(times) - times[3] - times[4]
        own = sum(map(_ticks, _tree(os.getpid())))
        second = os.sysconf("SC_CLK_TCK")
        return time.monotonic(), busy / second, own / second


def _ticks(pid: int) -> int:
    try:
        # The name of the program, in front of the last parenthesis, may have spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def touch(paths: list[os.PathLike[str]]) -> None:
    """Reads files, so that the system has them in memory."""
    for path in paths:
        with open(path, "rb") as file:
            while file.read(1 << 20):
                pass
