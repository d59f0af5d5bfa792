"""Errors of a checkpoint's writing that are heard of before all processes have finished.

When one of several processes cannot write its part, orbax lets that process wait in one barrier and
the others in another one, for many minutes.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import orbax.checkpoint as ocp

from molo_jax.engine import hosts

# Seconds between two looks.
_LOOK_SECONDS = 0.2


class NotingManager(ocp.CheckpointManager):
    """A manager that notes what fails in the background.

    Its thread goes on from an error to a barrier, to which the other processes do not come. The
    methods that are replaced are orbax's own, which its thread calls before that barrier.

    Args:
        failures: where errors are noted.
        arguments, options: those of the manager.
    """

    def __init__(self, failures: list[Exception], *arguments: Any, **options: Any):
        self._failures = failures
        super().__init__(*arguments, **options)

    def _wait_for_checkpointers(self) -> None:
        with self._noting():
            super()._wait_for_checkpointers()

    def _finalize_checkpoint(self, step: int) -> None:
        with self._noting():
            super()._finalize_checkpoint(step)

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._failures.append(error)
            raise


def noting_handler(failures: list[Exception], **options: Any) -> ocp.StandardCheckpointHandler:
    """Returns a handler that writes trees, and notes what fails in the background.

    Args:
        failures: where errors are noted.
        options: those of the handler.
    """
    # Not a class of its own: orbax looks for what to write with a handler by its class.
    handler = ocp.StandardCheckpointHandler(**options)
    usual = handler.async_save

    async def async_save(*arguments: Any, **named: Any) -> list[Any] | None:
        parts = await usual(*arguments, **named)
        return parts and [_Noted(part, failures) for part in parts]

    handler.async_save = async_save
    return handler


class _Noted:
    """A part that is being written."""

    def __init__(self, part: Any, failures: list[Exception]):
        self._part, self._failures = part, failures

    def result(self, timeout: float | None = None) -> Any:
        try:
            return self._part.result(timeout)
        except Exception as error:
            self._failures.append(error)
            raise


def wait_or_raise(wait: Callable[[], object], failures: list[Exception]) -> None:
    """Waits for a checkpoint; of several processes, one that cannot write its part raises at once.

    Args:
        wait: waits until all processes have written.
        failures: what this one has noted; it is emptied.
    """
    if hosts.count() == 1:
        wait()
        return
    ended: list[BaseException | None] = []

    def run() -> None:
        try:
            wait()
            ended.append(None)
        except BaseException as error:
            ended.append(error)

    waiter = threading.Thread(target=run, name="checkpoint", daemon=True)
    waiter.start()
    while waiter.is_alive() and not failures:
        waiter.join(_LOOK_SECONDS)
    error = failures[0] if failures else ended[0]
    failures.clear()
    if error is not None:
        raise error
