"""What a command shows while it works: log lines beside progress bars, and its last line."""

import logging as std_logging
import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn

from absl import logging
from tqdm import tqdm

from molo_jax.engine import hosts
from molo_jax.errors import MoloError, Stopped
from molo_jax.files import failure

# Seconds between two lines of progress where no terminal shows a bar.
LOG_SECONDS = 60


class BesideBars:
    """The stream that log lines go to: stderr, with the progress bars out of the way."""

    def write(self, text: str) -> int:
        """Clears the bars, writes the text, and draws the bars again below it."""
        with tqdm.external_write_mode(file=sys.stderr):
            return sys.stderr.write(text)

    def flush(self) -> None:
        """Hands the text to the operating system."""
        sys.stderr.flush()

    def close(self) -> None:
        """Leaves stderr open; the end of logging asks for it."""


# Of a process interrupted in another way than by `Stopped`.
INTERRUPTED = 130
_ENDING = threading.RLock()
# The name of this process in error lines, where there are several.
_NAME = ""


def name_process(name: str) -> None:
    """Names this process in its error lines, as one of several."""
    global _NAME
    _NAME = f"{name}: "


def reason_of(error: BaseException) -> tuple[str, int] | None:
    """Returns the line and the exit code of an error that needs no trace; None: it needs one."""
    if isinstance(error, MoloError):
        return str(error), error.exit_code
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{failure(error)}", MoloError.exit_code
    if isinstance(error, Stopped):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", INTERRUPTED
    return None


def claim_end() -> None:
    """Returns in the first thread that asks, which ends the process; others wait for that.

    So that a process has one last line, though a signal, another process and an error of its own
    come together.
    """
    _ENDING.acquire()


def show_error(message: str) -> None:
    """Writes the one line that a failed command ends with."""
    with tqdm.external_write_mode(file=sys.stderr):
        print(f"error: {_NAME}{message}", file=sys.stderr, flush=True)


def show_text(text: str) -> None:
    """Writes what was asked for, a help for example, and ends the process where that cannot be.

    A reader that has seen enough, such as `head`, is no error.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        end_process(0)
    except OSError as error:
        show_error(f"the output cannot be written: {error.strerror}")
        end_process(1)


def end_process(code: int) -> NoReturn:
    """Ends the process now.

    Threads of libraries would keep a failed process alive, or write behind its last line.
    """
    std_logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            # The reader of a pipe is gone, the disk is full, or the stream is closed.
            continue
    os._exit(code)


def without_failing(what: str, write: Callable[[], object]) -> None:
    """Writes what a finished training and its results are worth as much without."""
    try:
        write()
    except Exception as error:
        logging.warning(
            "%s could not be written, which changes no result: %s: %s",
            what,
            type(error).__name__,
            error,
        )


def without_bars() -> bool | None:
    """Returns tqdm's `disable`: bars are shown by process 0 alone, and only on a terminal."""
    return None if hosts.is_first() else True


class Progress:
    """How far a piece of work is: a bar on a terminal, elsewhere a log line each minute.

    Args:
        title: what is done.
        unit: what is counted, in the plural.
        total: how many there are, where that is known yet.
    """

    def __init__(self, title: str, unit: str, total: int | None = None):
        self._title, self._unit = title, unit
        self._bar = tqdm(
            desc=title,
            total=total,
            unit=f" {unit}",
            disable=without_bars(),
            leave=False,
            dynamic_ncols=True,
        )
        self._total, self._done = total, 0
        self._began = self._said = time.monotonic()

    def reset(self, total: int | None) -> None:
        """Begins anew, with another total."""
        self._total, self._done = total, 0
        self._began = self._said = time.monotonic()
        self._bar.reset(total=total)

    def update(self, count: int) -> None:
        """Counts what was finished since the last call."""
        self._done += count
        self._bar.update(count)
        now = time.monotonic()
        if self._bar.disable and now - self._said >= LOG_SECONDS:
            self._said = now
            logging.info("%s", self._line(now - self._began))

    def _line(self, seconds: float) -> str:
        rate = self._done / seconds
        if not self._total or not rate:
            return f"{self._title}: {self._done:,} {self._unit}"
        left = (self._total - self._done) / rate / 60
        return (
            f"{self._title}: {self._done:,} of {self._total:,} {self._unit},"
            f" {rate:.3g} a second, {left:.0f} min left"
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
