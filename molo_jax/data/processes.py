"""Work on videos in processes of their own, which may crash or hang without harm to the rest."""

import collections
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import TimeoutError as LateError
from typing import Any

import pebble

# Tasks given out ahead of the one whose result is next, for each process.
_AHEAD = 4


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


def cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


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
    context = multiprocessing.get_context("spawn")
    pool = pebble.ProcessPool(workers, context=context, initializer=follow_parent)
    waiting: collections.deque[pebble.ProcessFuture] = collections.deque()
    try:
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


def _result(future: pebble.ProcessFuture, seconds: float) -> Any:
    try:
        return future.result()
    except LateError:
        return Lost(f"decoding it took longer than {seconds:g} s")
    except pebble.ProcessExpired as error:
        return Lost(f"decoding it crashed the process (exit code {error.exitcode})")
