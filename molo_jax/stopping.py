"""How a command answers SIGINT (Ctrl-C) and SIGTERM: at once, whatever the main thread does.

Python runs a signal's handler in the main thread, between two steps of the interpreter; while XLA
compiles, that is minutes later. The number of a signal is therefore also written to a socket
(`signal.set_wakeup_fd`), and a thread that waits there answers.
"""

import contextlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from absl import logging

from molo_jax.console import claim_end, end_process, show_error
from molo_jax.engine import hosts
from molo_jax.errors import MoloError, Stopped
from molo_jax.watch import tell_others

_ANSWERED = (signal.SIGINT, signal.SIGTERM)
# Some launchers pass on the Ctrl-C that the terminal has sent to this process already. Within so
# many seconds a second SIGINT is taken for the same one.
SAME_SIGINT = 1.0
# Seconds after which a signal that was raised is raised once more, where Python has lost it; and
# after which a process ends without the main thread, which is compiling, for example.
AGAIN, AT_LAST = 0.1, 30.0


class Interrupted(MoloError):
    """The process was asked to stop; its work is saved. Of several, all end with it."""


class StopSignals:
    """Answers SIGINT and SIGTERM while its `with` block runs.

    The first signal is answered by a line at once, and is noted in `received` or raised in the
    main thread. A second SIGINT ends the process without waiting for anything; further SIGTERMs
    change nothing. A signal that was ignored before stays ignored, as `nohup` and the background
    jobs of scripts want it.

    Where the signal is raised, it cannot get lost: an exception that comes up in a callback, of the
    garbage collection for example, is dropped by Python, and is raised again then. `AT_LAST`
    seconds after the signal the process ends in any case, if the block has not been left.

    Args:
        plan: returns what will happen, for the line behind "SIGTERM received: ".
        without: the error line of the second SIGINT, which says what is lost.
        raises: whether the first signal raises `Stopped` instead of being noted.
    """

    def __init__(self, plan: Callable[[], str], *, without: Callable[[], str], raises: bool):
        self.received, self._first = 0, 0
        # Whether the exception of the signal was dropped by Python.
        self._lost, self._left = False, threading.Event()
        self._plan, self._without, self._raises = plan, without, raises
        self._usual: dict[int, Any] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "StopSignals":
        reader, writer = map(self._stack.enter_context, socket.socketpair())
        writer.setblocking(False)
        watcher = threading.Thread(target=self._watch, args=(reader,), name="signals", daemon=True)
        watcher.start()
        # Left in the opposite order: the watcher ends when the writer is closed.
        self._stack.callback(watcher.join)
        self._stack.callback(writer.close)
        if self._raises:
            self._stack.callback(setattr, sys, "unraisablehook", sys.unraisablehook)
            sys.unraisablehook = self._noticing_loss(sys.unraisablehook)
        usual = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._stack.callback(signal.set_wakeup_fd, usual)
        for number in _ANSWERED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._usual[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        for number, handler in self._usual.items():
            signal.signal(number, handler)
        self._stack.close()

    def _note(self, number: int, _: FrameType | None) -> None:
        """Runs in the main thread, as soon as that comes to it."""
        if self.received and not self._lost:
            return
        self.received, self._lost = self.received or number, False
        if self._raises:
            raise Stopped(self.received)

    def _noticing_loss(self, usual: Callable[[Any], object]) -> Callable[[Any], object]:
        """Returns the answer to an exception that cannot be raised: the signal comes again."""

        def answer(unraisable: Any) -> None:
            if not isinstance(unraisable.exc_value, Stopped):
                usual(unraisable)
                return
            self._lost = True
            again = threading.Timer(AGAIN, self._raise_again)
            again.daemon = True
            again.start()

        return answer

    def _raise_again(self) -> None:
        # Behind the block, the signal means something else.
        if self._lost and not self._left.is_set():
            signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)

    def _end_at_last(self) -> None:
        """Runs in a thread of its own; ends the process if the block is not left in time."""
        if not self._left.wait(AT_LAST):
            stopped = Stopped(self.received or self._first)
            self._end_at_once(str(stopped), stopped.exit_code)

    def _watch(self, reader: socket.socket) -> None:
        """Runs in a thread of its own, at once."""
        first = None
        while numbers := reader.recv(16):
            for number in numbers:
                if number not in self._usual:
                    continue
                if first is None:
                    first = time.monotonic()
                    self._answer(number)
                elif number == signal.SIGINT and time.monotonic() - first >= SAME_SIGINT:
                    self._end_at_once(self._without(), 128 + number)

    def _end_at_once(self, line: str, code: int) -> None:
        tell_others(line, code)
        claim_end()
        show_error(line)
        end_process(code)

    def _answer(self, number: int) -> None:
        self._first = number
        logging.info("%s received: %s", signal.Signals(number).name, self._plan())
        if self._raises:
            threading.Thread(target=self._end_at_last, name="at last", daemon=True).start()


class AgreedStop:
    """The step after which a training stops: that of the first signal, the same in all processes.

    Each process gives the number of its signal with every step, and hears the largest one with
    the next step: so none waits for another, and all stop behind the same step.

    Args:
        signals: those of this process.
    """

    def __init__(self, signals: StopSignals):
        self._signals = signals
        self._largest = hosts.LargestSoFar()
        # The number of the signal, and the process that received it.
        self.number, self.process = 0, 0

    def requested(self) -> bool:
        """Whether to stop; to be asked once a step, by all processes."""
        return self._hear(self._largest(self._own()))

    def settled(self) -> bool:
        """Whether to stop, at the end of the steps; waits for all processes."""
        return self._hear(hosts.largest(self._own())) or bool(self.number)

    def late(self) -> bool:
        """Whether this process was asked to stop after the last question.

        It ends alone then, and what ends the others is that they are told of it.
        """
        return bool(self._signals.received) and self._hear(self._own())

    def _own(self) -> int:
        return self._signals.received * hosts.count() + hosts.index()

    def _hear(self, largest: int) -> bool:
        number, process = divmod(largest, hosts.count())
        if number:
            self.number, self.process = number, process
        return bool(number)

    def interrupted(self, step: int) -> Interrupted:
        """Returns the error of a training that has stopped behind a step, which is saved."""
        where = f" (process {self.process})" if hosts.count() > 1 else ""
        error = Interrupted(
            f"stopped by {signal.Signals(self.number).name}{where} after step {step}, which is"
            " saved; the same command goes on from there"
        )
        error.exit_code = 128 + self.number
        return error


def ending_at_once() -> StopSignals:
    """The answer of work that has nothing to save: the first signal raises `Stopped`."""
    return StopSignals(
        lambda: "stopping", without=lambda: "stopped by a second SIGINT", raises=True
    )
