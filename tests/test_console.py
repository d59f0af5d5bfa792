import io
import re
import sys
import threading

import pytest
from absl import logging
from tqdm import tqdm

from molo_jax import console
from molo_jax.errors import MoloError, Stopped, UsageError


class Terminal(io.StringIO):
    """Stands in for stderr on a terminal."""

    def isatty(self):
        return True

    def screen(self):
        """Returns the lines that the terminal shows, for what tqdm and a log write."""
        lines, y, x = [[]], 0, 0
        for up, clear, char in re.findall(r"(\x1b\[A)|(\x1b\[K)|([^\x1b])", self.getvalue()):
            if up:
                y -= 1
            elif clear:
                del lines[y][x:]
            elif char == "\r":
                x = 0
            elif char == "\n":
                y += 1
                lines += [[]] * (y == len(lines))
                lines[y] = list(lines[y])
            else:
                lines[y] += " " * (x + 1 - len(lines[y]))
                lines[y][x] = char
                x += 1
        return ["".join(line).rstrip() for line in lines]


def on_terminal(monkeypatch):
    """Called in the test itself: between fixtures and test, pytest sets stderr anew."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def test_log_lines_stand_above_a_bar_that_stays_on_one_line(monkeypatch):
    terminal = on_terminal(monkeypatch)
    stream = console.BesideBars()
    with tqdm(total=3, unit="step", disable=None, ncols=60, bar_format="{n}/{total} {unit}") as bar:
        for number in range(3):
            bar.update()
            bar.refresh()
            stream.write(f"line {number}\n")
        assert terminal.screen() == ["line 0", "line 1", "line 2", "3/3 step"]
        console.show_error("the disk is full")
    shown = ["line 0", "line 1", "line 2", "error: the disk is full", "3/3 step"]
    assert terminal.screen()[:5] == shown


def test_log_lines_leave_the_bars_of_an_evaluation_below_that_of_the_training(monkeypatch):
    terminal = on_terminal(monkeypatch)
    stream = console.BesideBars()
    with (
        tqdm(total=3, unit="step", disable=None, ncols=60, bar_format="{n}/{total} {unit}"),
        console.Progress("val", "clips", 40) as progress,
    ):
        progress.update(10)
        stream.write("a line\n")
        first, second, third = terminal.screen()[:3]
        assert (first, second) == ("a line", "0/3 step")
        assert third.startswith("val:")
        assert "/40 [" in third


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    return clock


def test_without_a_terminal_progress_is_a_log_line_each_minute(clock, monkeypatch):
    said = []
    monkeypatch.setattr(logging, "info", lambda form, *values: said.append(form % values))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with console.Progress("test, trained", "clips") as progress:
        progress.reset(3000)
        for _ in range(20):
            clock.now += 10
            progress.update(100)
    assert said == [
        "test, trained: 600 of 3,000 clips, 10 a second, 4 min left",
        "test, trained: 1,200 of 3,000 clips, 10 a second, 3 min left",
        "test, trained: 1,800 of 3,000 clips, 10 a second, 2 min left",
    ]


def test_on_a_terminal_progress_is_no_log_line(clock, monkeypatch):
    terminal, said = on_terminal(monkeypatch), []
    monkeypatch.setattr(logging, "info", lambda form, *values: said.append(form % values))
    with console.Progress("test", "clips", 100) as progress:
        clock.now += 1000
        progress.update(50)
    assert said == []
    assert "test:" in terminal.getvalue()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MoloError("the video is bad"), ("the video is bad", 1)),
        (UsageError("--x is wrong"), ("--x is wrong", 2)),
        (
            FileNotFoundError(2, "No such file or directory", "a.txt"),
            ("a.txt: No such file or directory", 1),
        ),
        (Stopped(15), ("stopped by SIGTERM", 143)),
        (KeyboardInterrupt(), ("interrupted", 130)),
        (ZeroDivisionError("by nothing"), None),
    ],
)
def test_an_error_that_a_user_can_mend_has_one_line_and_its_code(error, reason):
    assert console.reason_of(error) == reason


def test_a_process_among_several_is_named_in_its_error_line(monkeypatch, capsys):
    monkeypatch.setattr(console, "_NAME", "")
    console.show_error("first")
    console.name_process("process 3")
    console.show_error("then")
    assert capsys.readouterr().err == "error: first\nerror: process 3: then\n"


def test_only_one_thread_ends_the_process_and_may_ask_again(monkeypatch):
    monkeypatch.setattr(console, "_ENDING", threading.RLock())
    console.claim_end()
    console.claim_end()
    other = threading.Thread(target=console.claim_end, daemon=True)
    other.start()
    other.join(0.2)
    assert other.is_alive()
