"""A run on several hosts: how its processes find each other, and how all of them end.

The processes meet (:mod:`molo_jax.meeting`), JAX's own service is started, and from then on
:mod:`molo_jax.watch` watches over them.
"""

import contextlib
import logging as std_logging
import os
import socket
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from molo_jax import relay, watch
from molo_jax.console import name_process, reason_of, show_error
from molo_jax.engine import hosts
from molo_jax.errors import MoloError, UsageError
from molo_jax.files import digest_of_sources
from molo_jax.meeting import meet
from molo_jax.place import Place
from molo_jax.stopping import Interrupted
from molo_jax.watch import Watch

# Seconds in which the failure of another process is waited for, when an error may be its
# consequence: the end of a collective, a barrier that nobody else comes to.
_CAUSE_SECONDS = 4.0
# Seconds without any sign after which JAX itself would end the processes: the watch is sooner.
_NEVER = 7 * 24 * 3600
_SHUTDOWN_SECONDS = 30
# Seconds in which a file that one host has written can be seen by the others.
SHARED_SECONDS = 30.0
# Files whose log lines are shown by every process; other lines of information by process 0 alone.
_SPEAK_EVERYWHERE = ("meeting.py", "stopping.py", "watch.py")


@contextlib.contextmanager
def running(place: Place | None, facts: Mapping[str, Any]) -> Iterator[None]:
    """Makes this process one of several in the `with` block, and ends all of them together.

    To be entered before JAX computes anything. An error in the block ends all processes; without
    one, all wait until the last has left the block.

    Args:
        place: which process this is; None or one of one: nothing is done.
        facts: what must be equal in all processes, by name; JSON.

    Raises:
        MoloError: not all processes come in time, or they do not fit together.
    """
    if place is None or place.count == 1:
        yield
        return
    _speak_as(place.process)
    links, service = meet(place, {**facts, **_code()})
    with watch.watching(Watch(place.process, links)):
        with together():
            _start_jax(place, service)
            _say_who(place)
        try:
            with together():
                yield
        except Interrupted:
            # All of them end with it.
            _end_in_order()
            raise
        _end_in_order()


@contextlib.contextmanager
def together(unfinished: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Tells the other processes at once of an error in the `with` block.

    So that nothing which is left on the way out can wait for them. With one process: nothing.

    Args:
        unfinished: whether something is being written, which has some seconds more when another
            process fails; called by another thread.
    """
    watcher = watch.current()
    if watcher is None:
        yield
        return
    with watcher.waiting_for(unfinished):
        try:
            yield
        except Interrupted:
            raise
        except BaseException as error:
            _tell(watcher, error)
            raise


def check_shared(folder: Path) -> None:
    """Checks that all processes see the same folder; with one process: nothing.

    Raises:
        UsageError: naming those that do not.
    """
    if hosts.count() == 1:
        return
    name = hosts.broadcast(f".hosts-{uuid.uuid4().hex}")
    file, end = folder / name, time.monotonic() + SHARED_SECONDS
    if hosts.is_first():
        file.write_text("seen by all hosts?")
    hosts.barrier("a file is written")
    try:
        while not file.exists() and time.monotonic() < end:
            time.sleep(0.2)
        seen = hosts.gather_values([file.exists(), socket.gethostname()])
    finally:
        if hosts.is_first():
            file.unlink(missing_ok=True)
    blind = [f"process {i} ({host})" for i, (there, host) in enumerate(seen) if not there]
    if blind:
        raise UsageError(
            f"--workdir={folder}: {', '.join(blind)} cannot see what process 0 ({seen[0][1]}) wrote"
            " there; all hosts need the same work folder, on a file system that they share"
        )


def _tell(watcher: Watch, error: BaseException) -> None:
    if watcher.fails:
        return
    reason = reason_of(error)
    if _may_follow_from_another(error):
        watcher.await_verdict(_CAUSE_SECONDS)
    line, code = reason or (_in_one_line(error), MoloError.exit_code)
    trace = "".join(traceback.format_exception(error)).rstrip()

    def show() -> None:
        if reason:
            show_error(line)
        else:
            print(trace, file=sys.stderr, flush=True)

    watcher.fail(line, code, show)


def _may_follow_from_another(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, is of a library, which may have lost a process."""
    while error is not None:
        if not isinstance(error, MoloError | OSError | KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _in_one_line(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {text} (its trace is in the output of that process)"


def _speak_as(process: int) -> None:
    """Names the process in its lines; what all would say alike is said by process 0."""
    name_process(f"process {process}")
    if process == 0:
        return
    handler = logging.get_absl_handler()
    handler.setFormatter(
        std_logging.Formatter(f"%(asctime)s process {process}: %(message)s", "%H:%M:%S")
    )
    handler.addFilter(
        lambda record: (
            record.levelno > std_logging.INFO or Path(record.pathname).name in _SPEAK_EVERYWHERE
        )
    )


def _code() -> dict[str, str]:
    """Returns what must be the same code in all processes."""
    from importlib.metadata import version

    return {"code of molo_jax": digest_of_sources(), "version of jax": version("jax")}


def _start_jax(place: Place, service: int) -> None:
    """Starts JAX's own service, in process 0, and connects to it."""
    # It would send what is local through a proxy too.
    os.environ.setdefault("no_grpc_proxy", "127.0.0.1")
    import jax

    # The stop is agreed on in another way, for SIGINT too; see `stopping.AgreedStop`.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_check_proxy_envs", False)
    if place.process == 0:
        address = f"127.0.0.1:{service}"
    else:
        address = relay.open_relay(place.host, service)
    jax.distributed.initialize(
        address,
        place.count,
        place.process,
        local_device_ids=place.devices,
        cluster_detection_method="deactivate",
        initialization_timeout=place.start_seconds,
        coordinator_bind_address=f"[::]:{service}",
        heartbeat_timeout_seconds=_NEVER,
        shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
    )
    hosts.connect_devices(jax.devices())


def _end_in_order() -> None:
    """Waits for all processes, then leaves JAX's service."""
    import jax

    with together():
        watch.current().finish()
    jax.distributed.shutdown()


def _say_who(place: Place) -> None:
    names = hosts.gather_values(socket.gethostname())
    if hosts.is_first():
        logging.info(
            "%d processes on %d host(s): %s",
            place.count,
            len(set(names)),
            ", ".join(dict.fromkeys(names)),
        )
