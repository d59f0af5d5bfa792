"""What the processes of one run tell each other about their lives, beside all computation.

Every process keeps a connection to process 0, and a thread of each process listens. Who fails
says why, and all end with that line. Who is killed loses the connection, which is noticed at once.
Who says nothing for :data:`SILENCE` seconds has vanished with the machine. So no process waits for
another one that will not come, whatever its main thread is doing: a collective of the devices,
a barrier of a checkpoint, or a compilation.
"""

import collections
import contextlib
import dataclasses
import json
import select
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from molo_jax.console import claim_end, end_process, show_error

# Seconds between two signs of life, and without any until a process counts as lost: a process that
# is paused or has a loaded machine is waited for so long.
ALIVE_EVERY, SILENCE = 2.0, 40.0
# Seconds that a checkpoint which is being written has, when a process has failed.
TIME_TO_WRITE = 10.0
# Seconds in which others take note of a failure before this process ends.
TIME_TO_NOTE = 5.0
# Seconds of a failing process to leave what it has opened.
_TIME_TO_LEAVE = 8.0
_LONGEST_LINE = 1 << 24


class Link:
    """A connection to another process: one JSON value a line.

    Args:
        connection: an open connection.
        process: number of the other process.
        host: the name of its machine.
    """

    def __init__(self, connection: socket.socket, process: int = -1, host: str = ""):
        self.process, self.host, self.connection = process, host, connection
        # Seconds since something was heard, in which this process was not suspended itself.
        self.silent, self.closed = 0.0, False
        self._received, self._lines = b"", collections.deque[bytes]()
        self._sending = threading.Lock()
        connection.settimeout(TIME_TO_NOTE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends a message; to a process that is gone, nothing."""
        with self._sending, contextlib.suppress(OSError):
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> None:
        """Takes what has come, and sets `closed` at the end; to be called when there is something.

        Raises:
            ValueError: the other side is no process of a run.
        """
        try:
            content = self.connection.recv(1 << 16)
        except OSError:
            content = b""
        self.silent, self.closed = 0.0, not content
        *lines, self._received = (self._received + content).split(b"\n")
        if len(self._received) > _LONGEST_LINE:
            raise ValueError("too long")
        self._lines.extend(lines)

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yields the messages that were received and not yet looked at.

        Raises:
            ValueError: one is none; the other side is no process of a run.
        """
        while self._lines:
            message = json.loads(self._lines.popleft())
            if not isinstance(message, dict):
                raise ValueError("no message")
            yield message

    def has_more(self, seconds: float) -> bool:
        """Waits so long until there is something to receive; returns whether there is."""
        return bool(select.select([self.connection], [], [], seconds)[0])

    @property
    def name(self) -> str:
        """How the other process is called in messages."""
        return f"process {self.process} ({self.host})"


@dataclasses.dataclass(frozen=True)
class _End:
    """The end of this process, which is decided."""

    since: float
    show: Callable[[], object]
    code: int
    # Whether it fails by itself: then the main thread usually ends it sooner.
    own: bool


class Watch:
    """Ends this process with one line when another one has failed, was killed or has vanished.

    Args:
        process: number of this process.
        links: the connections: of process 0 to all others, of others to process 0.
    """

    def __init__(self, process: int, links: list[Link]):
        self._process, self._links = process, {link.process: link for link in links}
        self._done: set[int] = set()
        # Processes that have taken note of a failure, or are gone.
        self._noted: set[int] = set()
        self._all_done, self._all_noted = threading.Event(), threading.Event()
        self._end: _End | None = None
        self._deciding = threading.Lock()
        self._unfinished: Callable[[], bool] = lambda: False

    def start(self) -> None:
        """Begins to watch."""
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    @contextlib.contextmanager
    def waiting_for(self, unfinished: Callable[[], bool]) -> Iterator[None]:
        """Gives what is being written in the `with` block a few seconds when a process fails.

        Args:
            unfinished: whether something is being written; called by another thread.
        """
        self._unfinished, before = unfinished, self._unfinished
        try:
            yield
        finally:
            self._unfinished = before

    def fail(self, line: str, code: int, show: Callable[[], object]) -> None:
        """Tells the others that this process fails; from now on it has only seconds.

        Where another process has failed before, this one ends with that one's line instead.

        Args:
            line: why, for the others.
            code: the exit code of all.
            show: shows the error here, should the main thread not come to it in time.
        """
        end = self._decide(show, code, own=True)
        if not end.own:
            _wait_for_the_end()
        if end.show is show:
            self._tell({"failed": {"line": line, "code": code, "process": self._process}})
            self._all_noted.wait(TIME_TO_NOTE)

    @property
    def fails(self) -> bool:
        """Whether this process has told the others that it fails."""
        return self._end is not None and self._end.own

    def await_verdict(self, seconds: float) -> None:
        """Waits so long for the failure of another process, which ends this one."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.1)
            if self._end and not self._end.own:
                _wait_for_the_end()

    def finish(self) -> None:
        """Says that this process has done its work, and waits until all have."""
        if self._process:
            self._tell({"done": self._process})
        else:
            self._note_done(0)
        # Another process may write for long; whether it lives is watched.
        while not self._all_done.wait(1.0):
            continue

    def _tell(self, message: Mapping[str, Any], but: int = -1) -> None:
        for process, link in self._links.items():
            if process != but and not link.closed:
                link.send(message)

    def _watch(self) -> None:
        """Runs in a thread of its own."""
        with selectors.DefaultSelector() as selector:
            for link in self._links.values():
                selector.register(link.connection, selectors.EVENT_READ, link)
                # What came together with the end of the meeting.
                self._hear(link)
            sent, before = 0.0, time.monotonic()
            while True:
                ready = selector.select(0.1 if self._end else ALIVE_EVERY / 2)
                now = time.monotonic()
                for link in self._links.values():
                    # Where all processes were suspended for hours, all of them are still there.
                    link.silent += min(now - before, ALIVE_EVERY)
                before = now
                for key, _ in ready:
                    self._listen(key.data, selector)
                if now - sent >= ALIVE_EVERY:
                    sent = now
                    self._tell({"alive": self._process})
                self._look_around(now)

    def _listen(self, link: Link, selector: selectors.BaseSelector) -> None:
        link.receive()
        self._hear(link)
        if link.closed:
            selector.unregister(link.connection)
            self._note(link)
            self._lose(link, "its connection was closed, so it was killed or has crashed")

    def _hear(self, link: Link) -> None:
        for message in link.messages():
            if "failed" in message:
                self._fail_with(link, **message["failed"])
            elif "noted" in message:
                self._note(link)
            elif "done" in message:
                self._note_done(message["done"])
            elif "all_done" in message:
                self._all_done.set()

    def _look_around(self, now: float) -> None:
        """Ends the process when it is time to; and looks for processes that say nothing."""
        if self._end:
            self._end_in_time(self._end, now)
            return
        for link in self._links.values():
            if link.silent > SILENCE:
                self._note(link)
                self._lose(
                    link,
                    f"nothing was heard of it for {SILENCE:.0f} s, so its machine or the network"
                    " has failed, or it is suspended",
                )

    def _lose(self, link: Link, how: str) -> None:
        if self._end or self._all_done.is_set():
            return
        line = (
            f"{link.name} is lost: {how}; the same command goes on from the last checkpoint, if"
            " there is one"
        )
        self._tell({"failed": {"line": line, "code": 1, "process": -1}}, but=link.process)
        self._decide(lambda: show_error(line), 1, own=False)

    def _fail_with(self, link: Link, line: str, code: int, process: int) -> None:
        """Ends with another process; of process 0 all others hear it."""
        link.send({"noted": self._process})
        self._note(link)
        line = f"{link.name} ended with: {line}" if process >= 0 else line
        if not self._process:
            self._tell({"failed": {"line": line, "code": code, "process": -1}}, but=link.process)
        self._decide(lambda: show_error(line), code, own=False)

    def _decide(self, show: Callable[[], object], code: int, *, own: bool) -> _End:
        """Decides how this process ends, unless that is decided; returns how."""
        with self._deciding:
            self._end = self._end or _End(time.monotonic(), show, code, own)
            return self._end

    def _end_in_time(self, end: _End, now: float) -> None:
        """Ends the process as soon as nothing is to be waited for any more."""
        passed = now - end.since
        # Process 0 passes on what has happened.
        tells = end.own or not self._process
        if tells and not self._all_noted.is_set() and passed < TIME_TO_NOTE:
            return
        if self._unfinished() and passed < TIME_TO_WRITE:
            return
        if end.own and passed < _TIME_TO_LEAVE + (TIME_TO_WRITE if self._unfinished() else 0):
            return
        claim_end()
        end.show()
        end_process(end.code)

    def _note(self, link: Link) -> None:
        self._noted.add(link.process)
        if self._noted >= self._links.keys():
            self._all_noted.set()

    def _note_done(self, process: int) -> None:
        self._done.add(process)
        if self._done >= {0, *self._links.keys()}:
            self._tell({"all_done": 0})
            self._all_done.set()


def _wait_for_the_end() -> NoReturn:
    """Waits until another thread has ended the process."""
    while True:
        time.sleep(1.0)


_CURRENT: list[Watch] = []


def current() -> Watch | None:
    """Returns the watch of this process; None where it is the only one."""
    return _CURRENT[-1] if _CURRENT else None


@contextlib.contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Watches; afterwards too, but then nothing is told any more."""
    watch.start()
    _CURRENT.append(watch)
    try:
        yield
    finally:
        _CURRENT.remove(watch)


def tell_others(line: str, code: int) -> None:
    """Says to the others why this process ends now; nothing where there are none."""
    if watch := current():
        watch.fail(line, code, lambda: show_error(line))
