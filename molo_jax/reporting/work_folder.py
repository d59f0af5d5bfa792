"""What a work folder holds of a training and of its evaluations, checked while it is read."""

import csv
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from molo_jax.analysis.outcome import Outcome
from molo_jax.analysis.outcome_file import read_outcomes
from molo_jax.engine.metrics import METRICS_FILE, read_metrics
from molo_jax.errors import MoloError, shortened
from molo_jax.files import check_file, parse_json, read_json

# One line for each start of a command: what it was, and the versions that it ran with.
COMMANDS_FILE = "commands.jsonl"
TRAINED = "trained"
_RESULT = re.compile(r"eval_(?P<name>.+)_\d+way_\d+shot(_untrained|_static)?\.json")
# The tables and the outcomes of controls say nothing that their result files do not say.
_OF_CONTROL = r"(?<!_untrained)(?<!_static)"
_TABLE = re.compile(rf"eval_(?P<name>.+){_OF_CONTROL}\.csv")
_OUTCOMES = re.compile(rf"eval_(?P<name>.+){_OF_CONTROL}_outcomes\.npz")
_COLUMNS = ("way", "shot", "episodes", "accuracy", "ci95")
_REMEDY = "evaluate again, or remove the file"
_MOST_CLASSES, _LARGEST = 100_000, 2**31


@dataclasses.dataclass(frozen=True)
class Result:
    """The accuracy for one way and one number of shots.

    Attributes:
        source: name of the file that the numbers are from.
        variant: `trained`, or the name of a control.
        way, shot, episodes: what was evaluated.
        accuracy: mean over the episodes, 0 to 1.
        ci95: half the width of the 95 % interval over episodes.
        ci95_videos, ci95_classes: that of the interval over videos, and over classes; None where
            the file does not tell.
        no_videos: why there is no interval over videos, a sentence without its end; mostly empty.
        seconds: that the evaluation took; None where the file does not tell.
        per_class: accuracy of each class by its name; empty where the file does not tell.
        classes: names of the classes in the order of `confusion`.
        confusion: number of queries by true and by predicted class; None where the file does not
            tell.
        record: everything that the file holds; empty for a row of a table.
    """

    source: str
    variant: str
    way: int
    shot: int
    episodes: int
    accuracy: float
    ci95: float
    ci95_videos: float | None = None
    ci95_classes: float | None = None
    no_videos: str = ""
    seconds: float | None = None
    per_class: Mapping[str, float] = dataclasses.field(default_factory=dict)
    classes: tuple[str, ...] = ()
    confusion: np.ndarray | None = None
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def cell(self) -> tuple[int, int]:
        """The way and the number of shots."""
        return self.way, self.shot


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """All evaluations of one split.

    Attributes:
        name: as in the names of the files, such as `test` or `ucf101_test`.
        results: those of the trained network, in the order of way and shot.
        controls: those of the controls.
        header: what the file of the outcomes says of itself; empty where there is none.
        outcomes: way and shot -> what was predicted.
        outcomes_source: name of that file; empty where there is none.
    """

    name: str
    results: tuple[Result, ...]
    controls: tuple[Result, ...]
    header: Mapping[str, Any]
    outcomes: Mapping[tuple[int, int], Outcome]
    outcomes_source: str

    @property
    def shown(self) -> Result:
        """The result whose details are shown: 5-way 1-shot, or else the first with most details."""
        detailed = [each for each in self.results if each.record] or [*self.results]
        return next((each for each in detailed if each.cell == (5, 1)), detailed[0])


@dataclasses.dataclass(frozen=True)
class WorkFolder:
    """What there is in a work folder.

    Attributes:
        path: the folder.
        metrics: the lines of metrics.jsonl.
        evaluated: the evaluated splits; that of the test list comes first.
        commands: what was run in the folder, the last one at the end.
    """

    path: Path
    metrics: Sequence[Mapping[str, Any]]
    evaluated: Sequence[Evaluated]
    commands: Sequence[Mapping[str, Any]]


def read_work_folder(path: Path) -> WorkFolder:
    """Reads the results, the tables, the outcomes and the curves of a work folder.

    Raises:
        MoloError: the folder is absent or holds nothing to report; or a file is damaged, with its
            name and what is wrong.
    """
    if not path.is_dir():
        raise MoloError(f"{path} is no folder; expected the work folder (--workdir) of a training")
    names = sorted(entry.name for entry in path.iterdir())
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        for kind, pattern in (("json", _RESULT), ("npz", _OUTCOMES), ("csv", _TABLE)):
            if match := pattern.fullmatch(name):
                found.setdefault(match["name"], {}).setdefault(kind, []).append(path / name)
    metrics = read_metrics(path)
    if not found and not metrics:
        raise MoloError(
            f"{path} holds neither {METRICS_FILE} nor results (eval_*.json, eval_*.csv); expected"
            " the work folder (--workdir) of a training or of an evaluation"
        )
    groups = [_evaluated(name, files) for name, files in found.items()]
    groups = [group for group in groups if group.results]
    groups.sort(key=lambda group: (group.name != "test", group.name))
    return WorkFolder(path, metrics, groups, _commands(path / COMMANDS_FILE))


def _evaluated(name: str, files: Mapping[str, Sequence[Path]]) -> Evaluated:
    results = [_result(path) for path in files.get("json", ())]
    by_cell = {each.cell: each for each in results if each.variant == TRAINED}
    for path in files.get("csv", ()):
        for row in _table(path):
            # A result file says more than a row of the table.
            by_cell.setdefault(row.cell, row)
    header, outcomes, source = {}, {}, ""
    for path in files.get("npz", ()):
        header, outcomes = read_outcomes(path)
        _check_header(path, header, outcomes)
        source = path.name
    return Evaluated(
        name=name,
        results=tuple(by_cell[cell] for cell in sorted(by_cell)),
        controls=tuple(
            sorted(
                (each for each in results if each.variant != TRAINED),
                key=lambda each: (each.variant, each.cell),
            )
        ),
        header=header,
        outcomes=outcomes,
        outcomes_source=source,
    )


class _Fields:
    """The fields of a record from disk, each checked when it is asked for."""

    def __init__(self, where: str, record: Mapping[str, Any]):
        self._where, self._record = where, record

    def wrong(self, name: str, expected: str) -> MoloError:
        found = self._record.get(name)
        return MoloError(
            f"{self._where}: {name} is {shortened(str(found))}; expected {expected}. {_capital()}"
        )

    def whole(self, name: str, lowest: int = 1) -> int:
        value = self._record.get(name)
        if type(value) is not int or not lowest <= value < _LARGEST:
            raise self.wrong(name, f"a whole number from {lowest} on")
        return value

    def share(self, name: str) -> float:
        value = self._record.get(name)
        if not _is_number(value) or not 0 <= value <= 1:
            raise self.wrong(name, "a number from 0 to 1")
        return float(value)

    def positive(self, name: str) -> float | None:
        """Returns a number that may be absent or null."""
        value = self._record.get(name)
        if value is not None and (not _is_number(value) or value < 0):
            raise self.wrong(name, "a number from 0 on")
        return None if value is None else float(value)

    def text(self, name: str, default: str) -> str:
        value = self._record.get(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, "a text")
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        value = self._record.get(name)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return value or {}

    def per_class(self) -> dict[str, float]:
        values = self.mapping("per_class")
        if not all(_is_number(value) and 0 <= value <= 1 for value in values.values()):
            raise self.wrong("per_class", "a number from 0 to 1 for each class")
        return {name: float(value) for name, value in values.items()}

    def confusion(self) -> tuple[tuple[str, ...], np.ndarray | None]:
        rows, names = self._record.get("confusion"), self._record.get("classes")
        if rows is None or names is None:
            return (), None
        listed = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not listed or len(names) > _MOST_CLASSES:
            raise self.wrong("classes", "the names of the classes")
        square = isinstance(rows, list) and len(rows) == len(names)
        if not square or not all(isinstance(r, list) and len(r) == len(names) for r in rows):
            raise self.wrong("confusion", f"{len(names)} rows of as many numbers")
        if not all(type(n) is int and 0 <= n < _LARGEST for row in rows for n in row):
            raise self.wrong("confusion", "whole numbers from 0 on")
        return tuple(names), np.array(rows, np.int64)


def _check_header(
    path: Path, header: Mapping[str, Any], outcomes: Mapping[tuple[int, int], Outcome]
) -> None:
    """Checks that the classes and videos of the outcomes have names."""
    names, videos = header.get("class_names"), header.get("video_names")
    sizes = header.get("class_sizes")
    lists = all(isinstance(each, list) for each in (names, videos, sizes))
    if not lists or not len(names) == len(videos) == len(sizes):
        raise MoloError(f"{path} does not name its classes and videos. {_capital()}")
    known = all(isinstance(each, list) for each in videos)
    texts = known and all(isinstance(n, str) for each in (names, *videos) for n in each)
    if not texts or not all(type(size) is int and size > 0 for size in sizes):
        raise MoloError(f"{path} has names that are no texts, or sizes below 1. {_capital()}")
    counts = np.array([len(each) for each in videos])
    for outcome in outcomes.values():
        if (outcome.videos >= counts[outcome.classes][:, :, None]).any():
            raise MoloError(f"{path} has episodes with videos that it does not name. {_capital()}")


def _capital() -> str:
    return f"{_REMEDY[0].upper()}{_REMEDY[1:]}"


def _is_number(value: Any) -> bool:
    if type(value) is int:
        # A larger one is no float.
        return abs(value) < 2**1000
    return type(value) is float and math.isfinite(value)


def _result(path: Path) -> Result:
    check_file(path, "a result file")
    record = read_json(path, _REMEDY)
    if not isinstance(record, dict):
        raise MoloError(f"{path} is no result file: it holds no object. {_capital()}")
    fields = _Fields(str(path), record)
    classes, confusion = fields.confusion()
    fields.mapping("config")
    fields.mapping("bad_videos")
    return Result(
        source=path.name,
        variant=fields.text("variant", TRAINED),
        way=fields.whole("way"),
        shot=fields.whole("shot"),
        episodes=fields.whole("episodes"),
        accuracy=fields.share("accuracy"),
        ci95=fields.positive("ci95") or 0.0,
        ci95_videos=fields.positive("ci95_videos"),
        ci95_classes=fields.positive("ci95_classes"),
        no_videos=fields.text("no_ci95_videos", ""),
        seconds=fields.positive("seconds"),
        per_class=fields.per_class(),
        classes=classes,
        confusion=confusion,
        record=record,
    )


def _table(path: Path) -> list[Result]:
    """Reads the rows of a table; columns that are absent are not known."""
    check_file(path, "the table of an evaluation")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            lacking = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if lacking:
                raise MoloError(f"{path} has no column {', '.join(lacking)}. {_capital()}")
            return [_row(path, reader.line_num, row) for row in reader]
    except OSError as error:
        raise MoloError(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise MoloError(f"{path} is no table: {error}. {_capital()}") from error


def _row(path: Path, line: int, row: Mapping[str, Any]) -> Result:
    values: dict[str, Any] = {}
    for name in (*_COLUMNS, "ci95_videos", "seconds"):
        text = row.get(name) or ""
        kind = int if name in _COLUMNS[:3] else float
        try:
            values[name] = kind(text) if text else None
        except ValueError:
            values[name] = text
    fields = _Fields(f"{path}, line {line}", values)
    return Result(
        source=path.name,
        variant=TRAINED,
        way=fields.whole("way"),
        shot=fields.whole("shot"),
        episodes=fields.whole("episodes"),
        accuracy=fields.share("accuracy"),
        ci95=fields.positive("ci95") or 0.0,
        ci95_videos=fields.positive("ci95_videos"),
        seconds=fields.positive("seconds"),
    )


def _commands(path: Path) -> list[dict[str, Any]]:
    """Reads what was run in the folder; a line that is cut off is left out."""
    if not path.exists():
        return []
    check_file(path, "the list of the commands")
    lines = []
    for text in path.read_bytes().splitlines():
        try:
            line = parse_json(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("command"), str):
            versions = line.get("versions")
            lines.append(line | {"versions": versions if isinstance(versions, dict) else {}})
    return lines
