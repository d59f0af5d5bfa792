"""Work on videos in processes of their own, which may crash or hang without harm to the rest."""

import collections
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as LateError
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext
from multiprocessing.synchronize import RLock
from typing import Any, TypeVar

import pebble

# Tasks given out ahead of the one whose result is next, for each process.
_AHEAD = 4

_Result = TypeVar("_Result")


class Lost(str):
    """Why there is no result, where another try may have one."""

    __slots__ = ()


def follow_parent() -> None:
    """Makes a worker process end with its parent, and leave interrupts to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def undisturbed(start: Callable[[], _Result]) -> _Result:
    """Starts processes so that Ctrl-C during the start makes none of them print a trace.

    A started process reads what it has to do from a pipe, and prints a trace if that pipe ends too
    early. Python raises what a signal asks for in the main thread alone, therefore the processes
    are started in another thread, which is waited for. Ctrl-C in a terminal reaches the started
    processes too. The signal is blocked in the thread, and a process begins with what is blocked
    in the thread that starts it.

    Args:
        start: starts the processes.

    Returns:
        What `start` returns.
    """
    with ThreadPoolExecutor(1, initializer=_block_interrupts) as thread:
        return thread.submit(start).result()


def _block_interrupts() -> None:
    # It would be started with the first process, and unblock the signal.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


class _KeepingLocks(SpawnContext):
    """Makes locks whose names last until `release`.

    pebble drops its locks before it ends its processes. A process that is starting then would not
    find them any more, and would print a trace.
    """

    def __init__(self):
        self._locks: list[RLock] = []

    def RLock(self) -> RLock:
        """Makes a lock."""
        lock = super().RLock()
        self._locks.append(lock)
        return lock

    def release(self) -> None:
        """Lets go of the locks: the system forgets those that nobody else holds."""
        self._locks.clear()


def cores() -> int:
    """Number of CPU cores that this process may use; all of the machine where nobody knows more."""
    # From Python 3.13 on; PYTHON_CPU_COUNT counts there too.
    if hasattr(os, "process_cpu_count"):
        return os.process_cpu_count() or 1
    # Linux alone has it.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_order(
    function: Callable[..., Any],
    tasks: Iterable[tuple[Any, ...]],
    *,
    workers: int,
    seconds: float,
) -> Iterator[Any]:
    """Calls `function(*task)` in processes and yields the results in the order of the tasks.

    Args:
        function: a function of a module, which raises nothing that is to be expected.
        tasks: its arguments; read as far ahead as the processes need.
        workers: number of processes; 0 for one per CPU core.
        seconds: time limit of a call.

    Yields:
        The results; a `Lost` for a call that crashed its process or took too long.
    """
    workers = workers or cores()
    # A forked child of a process with threads can deadlock.
    context = _KeepingLocks()
    pool = pebble.ProcessPool(workers, context=context, initializer=follow_parent)
    waiting: collections.deque[pebble.ProcessFuture] = collections.deque()
    try:
        # Otherwise the first task would start the processes.
        undisturbed(lambda: pool.active)
        for task in tasks:
            waiting.append(pool.schedule(function, args=task, timeout=seconds))
            if len(waiting) >= _AHEAD * workers:
                yield _result(waiting.popleft(), seconds)
        while waiting:
            yield _result(waiting.popleft(), seconds)
        pool.close()
    finally:
        # Also where the caller stops early or is interrupted.
        pool.stop()
        pool.join()
        context.release()


def _result(future: pebble.ProcessFuture, seconds: float) -> Any:
    try:
        return future.result()
    except LateError:
        return Lost(f"decoding it took longer than {seconds:g} s")
    except pebble.ProcessExpired as error:
        return Lost(f"decoding it crashed the process (exit code {error.exitcode})")
