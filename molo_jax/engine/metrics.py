"""Where numbers go while a training runs: `metrics.jsonl`, TensorBoard, and the log."""

import contextlib
import dataclasses
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float

from molo_jax.engine import hosts
from molo_jax.errors import MoloError, shortened
from molo_jax.files import parse_json, write_text, written

# tensorboardX imports PyTorch where it is installed, which nothing here needs: for the time of this
# import PyTorch is not to be found. It would take seconds and 200 MB at each start.
_TORCH = sys.modules.setdefault("torch", None)
from tensorboardX.event_file_writer import EventsWriter  # noqa: E402
from tensorboardX.proto.event_pb2 import Event, SessionLog  # noqa: E402
from tensorboardX.proto.summary_pb2 import Summary  # noqa: E402
from tensorboardX.summary import make_histogram, scalar  # noqa: E402

if _TORCH is None:
    del sys.modules["torch"]

METRICS_FILE = "metrics.jsonl"
# Metrics that cannot be the cause of a non-finite loss, only its consequence, come last.
_CONSEQUENCES = ("loss", "grad_norm")


# Bins of a histogram to each side of zero.
_BINS = 30


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture for TensorBoard.

    Attributes:
        encoded: the bytes of a JPEG or PNG file.
        width: in pixels.
        height: in pixels.
    """

    encoded: bytes
    width: int
    height: int


class MetricLog:
    """Appends lines `{"step": …, "kind": "train" | "val", …}` to `<workdir>/metrics.jsonl`.

    The same numbers go to TensorBoard (`<workdir>/tensorboard`) as `<kind>/<name>`. The files are
    made by the first line, so that a training that fails before it leaves none. Of several
    processes, process 0 alone writes.
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
        self._writes = hosts.is_first()
        if self._writes and self._path.exists():
            kept = [line for line in read_metrics(workdir) if line["step"] <= first_step]
            _rewrite(self._path, kept)

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Writes one line and hands it to the operating system.

        Raises:
            MoloError: naming the file that cannot be written.
        """
        if not self._writes:
            return
        with written(self._path):
            self._file = self._file or self._path.open("a", encoding="utf-8")
            self._file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
            self._file.flush()
        self._to_board(
            step, [scalar(f"{kind}/{name}", value).value[0] for name, value in values.items()]
        )

    def show(
        self,
        step: int,
        *,
        numbers: Mapping[str, float] | None = None,
        pictures: Mapping[str, Picture] | None = None,
        histograms: Mapping[str, Float[np.ndarray, "n"]] | None = None,
    ) -> None:
        """Writes what TensorBoard alone shows; `metrics.jsonl` stays as it is.

        The keys are the tags of TensorBoard. What stands before the first slash names the group of
        a tag. Tags are written as they are, so that two names never become one.

        Args:
            step: the finished steps.
            numbers: values of curves.
            pictures: one picture for each tag.
            histograms: finite values, at least one for each tag. Zero is the border of two bins of
                the histogram, so that no bin mixes negative and positive values.

        Raises:
            MoloError: naming the folder that cannot be written.
        """
        values = [
            *(Summary.Value(tag=tag, simple_value=x) for tag, x in (numbers or {}).items()),
            *(Summary.Value(tag=tag, image=_image(x)) for tag, x in (pictures or {}).items()),
            *(Summary.Value(tag=tag, histo=_histogram(x)) for tag, x in (histograms or {}).items()),
        ]
        self._to_board(step, values)

    def _to_board(self, step: int, values: Sequence[Summary.Value]) -> None:
        if not self._writes:
            return
        folder = self._path.parent / "tensorboard"
        with written(folder):
            self._board = self._board or _Board(folder, self._first_step + 1)
            self._board.write(step, values)

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

    def write(self, step: int, values: Sequence[Summary.Value]) -> None:
        """Writes values with their tags, and hands them to the operating system."""
        for value in values:
            self._add(Event(step=step, summary=Summary(value=[value])))
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)


def _image(picture: Picture) -> Summary.Image:
    # TensorBoard wants to know that there are three colors.
    return Summary.Image(
        width=picture.width,
        height=picture.height,
        colorspace=3,
        encoded_image_string=picture.encoded,
    )


def _histogram(values: Float[np.ndarray, "n"]) -> Any:
    values = np.asarray(values, np.float64).reshape(-1)
    end = np.abs(values).max() or 1.0
    return make_histogram(values, np.linspace(-end, end, 2 * _BINS + 1))


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
