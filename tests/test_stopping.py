import gc
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from molo_jax import stopping
from molo_jax.engine import hosts
from molo_jax.stopping import AgreedStop, Stopped, StopSignals


@pytest.fixture(autouse=True)
def interrupts():
    """Interrupts as in the foreground; a job in the background starts with them ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def noting():
    return StopSignals(lambda: "the plan", without=lambda: "the loss", raises=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_answered_by_one_line_with_the_plan(number, caplog):
    caplog.set_level("INFO", logger="absl")
    before = signal.getsignal(number)
    with noting() as signals:
        os.kill(os.getpid(), number)
        assert signals.received == number
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == number
    assert caplog.messages == [f"{signal.Signals(number).name} received: the plan"]
    assert signal.getsignal(number) is before


def test_a_second_interrupt_within_a_second_counts_as_the_first(monkeypatch, caplog):
    caplog.set_level("INFO", logger="absl")
    monkeypatch.setattr(stopping, "SAME_SIGINT", 1e9)
    with noting() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert signals.received == signal.SIGINT
    assert caplog.messages == ["SIGINT received: the plan"]


def test_an_interrupt_that_was_ignored_stays_ignored_and_sigterm_works(caplog):
    caplog.set_level("INFO", logger="absl")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with noting() as signals:
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert caplog.messages == ["SIGTERM received: the plan"]


def test_work_that_has_nothing_to_save_ends_by_an_exception_with_the_exit_code():
    with pytest.raises(Stopped, match="stopped by SIGTERM") as stopped, stopping.ending_at_once():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.exit_code == 143


def _collect_and_wait():
    gc.collect()
    # Short sleeps: a signal just before a sleep begins is answered at its end only.
    for _ in range(1200):
        time.sleep(0.05)


def test_a_signal_whose_exception_python_drops_comes_again():
    """An exception in a callback of the garbage collection goes nowhere."""
    dropped = []

    def callback(phase, _):
        if phase == "start" and not dropped:
            dropped.append(signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            # Python runs the handler here.
            time.sleep(0.01)

    usual = sys.unraisablehook
    gc.callbacks.append(callback)
    try:
        with pytest.raises(Stopped, match="stopped by SIGTERM"), stopping.ending_at_once():
            _collect_and_wait()
    finally:
        gc.callbacks.remove(callback)
    assert dropped
    assert sys.unraisablehook is usual


def test_signals_go_to_the_inner_block_and_then_to_the_outer_again():
    with stopping.ending_at_once() as outer:
        with noting() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
        assert (inner.received, outer.received) == (signal.SIGTERM, 0)
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)


def test_one_process_stops_at_its_own_signal_as_soon_as_it_is_asked():
    with noting() as signals:
        stop = AgreedStop(signals)
        assert not stop.requested()
        assert not stop.settled()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested()
        assert stop.settled()
    error = stop.interrupted(7)
    assert str(error) == (
        "stopped by SIGTERM after step 7, which is saved; the same command goes on from there"
    )
    assert error.exit_code == 143


def test_of_several_processes_the_largest_signal_and_its_process_are_named(monkeypatch):
    """This is process 1 of 3; the others' numbers are heard one question later."""
    heard, given = iter([0, 2 * 3 + 2]), []
    monkeypatch.setattr(hosts, "count", lambda: 3)
    monkeypatch.setattr(hosts, "index", lambda: 1)
    monkeypatch.setattr(
        hosts, "LargestSoFar", lambda: lambda value: (given.append(value), next(heard))[1]
    )
    with noting() as signals:
        stop = AgreedStop(signals)
        assert not stop.requested()
        os.kill(os.getpid(), signal.SIGTERM)
        # What is heard is what all others hear: SIGINT of process 2.
        assert stop.requested()
    assert given == [1, 15 * 3 + 1]
    assert (stop.number, stop.process) == (signal.SIGINT, 2)
    assert "stopped by SIGINT (process 2) after step 9," in str(stop.interrupted(9))
    assert stop.interrupted(9).exit_code == 130


def test_a_signal_behind_the_last_step_stops_all(monkeypatch):
    monkeypatch.setattr(hosts, "count", lambda: 3)
    monkeypatch.setattr(hosts, "largest", lambda value: max(value, 15 * 3 + 2))
    with noting() as signals:
        stop = AgreedStop(signals)
        assert stop.settled()
    assert (stop.number, stop.process) == (signal.SIGTERM, 2)


def test_a_signal_behind_the_last_question_is_not_lost():
    with noting() as signals:
        stop = AgreedStop(signals)
        assert not stop.settled()
        assert not stop.late()
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.late()
    assert str(stop.interrupted(60)).startswith("stopped by SIGTERM after step 60, which is saved")


# The main thread is inside one call of C that lasts for hours, as a compilation does.
BUSY = """
    import hashlib, signal
    from molo_jax import cli, stopping

    def main(argv):
        signals = stopping.StopSignals(
            lambda: "the plan", without=lambda: "without saving", raises=False
        )
        with signals:
            print("ready", flush=True)
            hashlib.pbkdf2_hmac("sha512", b"password", b"salt", 2**31 - 1)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    stopping.SAME_SIGINT = 0
    cli.run(main)
"""


def test_a_process_that_never_comes_to_its_signal_ends_at_last():
    body = textwrap.dedent(BUSY).replace("raises=False", "raises=True")
    body = body.replace("SAME_SIGINT = 0", "AT_LAST = 0.5")
    child = subprocess.Popen(
        [sys.executable, "-c", body], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGTERM)
        _, errors = child.communicate(timeout=60)
    finally:
        child.kill()
    assert errors.endswith("SIGTERM received: the plan\nerror: stopped by SIGTERM\n")
    assert child.returncode == 143


def test_signals_are_answered_while_the_main_thread_is_inside_a_library():
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(BUSY)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGTERM)
        assert child.stderr.readline().endswith("SIGTERM received: the plan\n")
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
    finally:
        child.kill()
    assert errors == "error: without saving\n"
    assert child.returncode == 130
