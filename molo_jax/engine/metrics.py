"""Where numbers go while a training runs: `metrics.jsonl`, TensorBoard, and the log."""

import contextlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from molo_jax.errors import MoloError, shortened
from molo_jax.files import parse_json, write_text, written

METRICS_FILE = "metrics.jsonl"
# Metrics that cannot be the cause of a non-finite loss, only its consequence, come last.
_CONSEQUENCES = ("loss", "grad_norm")


class MetricLog:
    """Appends lines `{"step": …, "kind": "train" | "val", …}` to `<workdir>/metrics.jsonl`.

    The same numbers go to TensorBoard (`<workdir>/tensorboard`) as `<kind>/<name>`. The files are
    made by the first line, so that a training that fails before it leaves none.
    """

    def __init__(self, workdir: Path, first_step: int):
        """Opens the files of `workdir` and forgets what a killed run wrote after `first_step`.

        Args:
            workdir: an existing folder.
            first_step: finished steps of the checkpoint that training goes on from, or 0.

        Raises:
            MoloError: the file cannot be written.
        """
        self._path, self._first_step = workdir / METRICS_FILE, first_step
        self._file: IO[str] | None = None
        self._board: _Board | None = None
        if self._path.exists():
            kept = [line for line in read_metrics(workdir) if line["step"] <= first_step]
            _rewrite(self._path, kept)

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Writes one line and hands it to the operating system.

        Raises:
            MoloError: naming the file that cannot be written.
        """
        with written(self._path):
            self._file = self._file or self._path.open("a", encoding="utf-8")
            self._file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
            self._file.flush()
        folder = self._path.parent / "tensorboard"
        with written(folder):
            self._board = self._board or _Board(folder, self._first_step + 1)
            self._board.write(step, {f"{kind}/{name}": value for name, value in values.items()})

    def close(self) -> None:
        """Closes the files. Every line has been handed on, so nothing is lost if that fails."""
        for file in (self._file, self._board):
            with contextlib.suppress(OSError):
                if file is not None:
                    file.close()

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Board:
    """An event file of TensorBoard.

    tensorboardX's `SummaryWriter` writes in a thread: where the disk is full, that thread ends
    without an error that could be caught, and the process waits for it forever.

    Args:
        folder: where the file will be.
        first_step: TensorBoard forgets what other files of the folder say of this and later steps.
    """

    def __init__(self, folder: Path, first_step: int):
        folder.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        self._add(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))
        self._writer.flush()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes values by their names, and hands them to the operating system."""
        for name, value in values.items():
            self._add(Event(step=step, summary=scalar(name, value)))
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """Returns the complete lines of `<workdir>/metrics.jsonl`, none when there is no file.

    A line that is cut off is left out: a process was killed while it wrote that line.

    Raises:
        MoloError: the file cannot be read, or a line of it was not written by a training; with the
            number of the line.
    """
    path = workdir / METRICS_FILE
    if not path.exists():
        return []
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MoloError(f"cannot read {path}: {error.strerror}") from error
    lines = []
    for number, text in enumerate(content.splitlines(), start=1):
        try:
            line = parse_json(text.decode())
        except UnicodeDecodeError:
            raise _no_metrics(path, number, "is not in UTF-8") from None
        except ValueError:
            continue
        if not isinstance(line, dict):
            raise _no_metrics(path, number, f"is {shortened(str(line))}, no object")
        if type(line.get("step")) is not int or not isinstance(line.get("kind"), str):
            problem = (
                f"is {shortened(str(line))}, without a whole number as step and a text as kind"
            )
            raise _no_metrics(path, number, problem)
        lines.append(line)
    return lines


def _no_metrics(path: Path, number: int, problem: str) -> MoloError:
    return MoloError(
        f"{path}, line {number} {problem}; a training wrote no such line. Remove the line or the"
        " file: only the curves need them"
    )


def _rewrite(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    with written(path):
        write_text(path, text)


def mean_metrics(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Averages metrics over steps; every step has the same names."""
    return {name: math.fsum(step[name] for step in steps) / len(steps) for name in steps[0]}


def check_finite(step: int, metrics: Mapping[str, float]) -> None:
    """Stops at the first number that is not finite.

    Args:
        step: the optimizer step that the metrics belong to, counted from 1.
        metrics: loss terms, their sum and the gradient norm.

    Raises:
        MoloError: naming the step and the loss term.
    """
    names = sorted(metrics, key=_CONSEQUENCES.__contains__)
    for name in names:
        if not math.isfinite(metrics[name]):
            what = "gradient norm" if name == "grad_norm" else f"loss term {name!r}"
            raise MoloError(
                f"step {step}: the {what} is {metrics[name]}; training stops before the parameters"
                " are touched. A lower optimizer.base_lr or a look at the data of this step helps;"
                " the last checkpoint is from before it"
            )


def format_metrics(values: Mapping[str, float]) -> str:
    """Formats metrics for a log line: `loss 1.234  learning_rate 5e-04`."""
    return "  ".join(f"{name} {_format(value)}" for name, value in values.items())


def _format(value: float) -> str:
    small = value != 0 and abs(value) < 1e-3
    return f"{value:.1e}" if small else f"{value:.4g}"
