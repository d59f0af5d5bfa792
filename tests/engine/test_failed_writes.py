import asyncio
import threading

import numpy as np
import orbax.checkpoint as ocp
import pytest

from molo_jax.engine import hosts
from molo_jax.engine.failed_writes import NotingManager, noting_handler, wait_or_raise

FULL = OSError(28, "No space left on device")


@pytest.fixture
def two_processes(monkeypatch):
    monkeypatch.setattr(hosts, "count", lambda: 2)


@pytest.mark.usefixtures("two_processes")
def test_a_process_that_cannot_write_does_not_wait_for_the_others():
    """Its wait, in which all processes meet, would never end."""
    forever, failures = threading.Event(), []
    timer = threading.Timer(0.3, failures.append, [FULL])
    timer.start()
    try:
        with pytest.raises(OSError, match="No space left") as raised:
            wait_or_raise(forever.wait, failures)
    finally:
        forever.set()
        timer.join()
    assert raised.value is FULL
    # The next checkpoint begins without it.
    assert failures == []


@pytest.mark.usefixtures("two_processes")
def test_the_end_of_the_wait_is_the_end_and_its_error_is_raised():
    waited = []
    wait_or_raise(lambda: waited.append(threading.current_thread().name), [])
    assert waited == ["checkpoint"]

    def fail():
        raise ValueError("the other process has failed")

    with pytest.raises(ValueError, match="the other process has failed"):
        wait_or_raise(fail, [])


def test_one_process_waits_for_itself():
    waited = []
    # What it has noted is raised by the wait itself.
    wait_or_raise(lambda: waited.append(threading.current_thread()), [FULL])
    assert waited == [threading.current_thread()]


class Part:
    """A part that is written in the background."""

    def __init__(self, error=None):
        self.error = error

    def result(self, timeout=None):
        if self.error:
            raise self.error
        return f"written within {timeout}"


def test_the_handler_notes_what_fails_in_the_background(monkeypatch):
    parts = [Part(), Part(FULL)]

    async def async_save(self, *arguments, **named):
        return parts if arguments else None

    monkeypatch.setattr(ocp.StandardCheckpointHandler, "async_save", async_save)
    failures = []
    handler = noting_handler(failures)
    assert type(handler) is ocp.StandardCheckpointHandler
    good, bad = asyncio.run(handler.async_save("folder"))
    assert good.result(5) == "written within 5"
    assert failures == []
    with pytest.raises(OSError, match="No space left"):
        bad.result()
    assert failures == [FULL]
    assert asyncio.run(handler.async_save()) is None


@pytest.mark.parametrize("part", ["_wait_for_checkpointers", "_finalize_checkpoint"])
def test_the_manager_notes_what_fails_before_its_barrier(part, monkeypatch, tmp_path):
    def fail(*_):
        raise FULL

    # Of orbax: its thread must call what is replaced.
    monkeypatch.setattr(ocp.CheckpointManager, part, fail)
    failures = []
    manager = NotingManager(failures, tmp_path, item_names=("model",))
    try:
        state = ocp.args.Composite(model=ocp.args.StandardSave({"a": np.ones(3)}))
        manager.save(1, args=state)
        with pytest.raises(OSError, match="No space left"):
            manager.wait_until_finished()
    finally:
        monkeypatch.undo()
        manager.close()
    assert failures == [FULL]
