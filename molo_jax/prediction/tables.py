"""Predictions as tables: on the console, as CSV and as JSON."""

import csv
import io
import json
import math
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from molo_jax.data.lists.directory import printable
from molo_jax.errors import MoloError
from molo_jax.files import write_text, written
from molo_jax.prediction.classifier import Classifier
from molo_jax.prediction.clips import spelled_time
from molo_jax.prediction.inputs import Query
from molo_jax.prediction.results import UNKNOWN, Failure, Prediction, failure_of
from molo_jax.prediction.timeline import Segment

# What became of a clip.
Result = tuple[Query, Prediction | MoloError]
# Of a longer name the end is shown, which differs from clip to clip.
_LONGEST_NAME = 48
# A larger confusion matrix does not fit a terminal.
_MOST_CLASSES = 12
COLUMNS = ("video", "predicted", "probability", "margin", "runner_up", "truth")
# The column of the distance of a class is called by this and the class.
DISTANCE = "distance_"


def truths(queries: Sequence[Query], classes: Sequence[str]) -> list[str]:
    """Returns the true class of each clip, by its folder; empty where that is not known.

    The folders count as classes if at least one is called like a class. A folder that is called
    otherwise then is a class that the classifier does not know.
    """
    known = set(classes)
    if not any(query.folder in known for query in queries):
        return [""] * len(queries)
    return [query.folder for query in queries]


def is_right(prediction: Prediction, truth: str) -> bool:
    """Whether a clip of a class got it, or a clip of no class was called unknown."""
    return prediction.label == (truth if truth in prediction.distances else UNKNOWN)


def console_table(results: Sequence[Result], classes: Sequence[str]) -> str:
    """Lays out predictions for a terminal; a bad clip has its reason in place of a class."""
    known = truths([query for query, _ in results], classes)
    header = ["clip", "predicted", "probability", "margin", "runner-up"]
    rows = []
    for (query, result), truth in zip(results, known, strict=True):
        if isinstance(result, MoloError):
            rows.append([_short(failure_of(result).name), "(not usable)", "", "", "", ""])
            continue
        label = result.label if result.known else f"{UNKNOWN} (nearest: {result.nearest})"
        verdict = truth and ("✓" if is_right(result, truth) else f"✗ {truth}")
        margin = f"{result.margin:.3f}" if math.isfinite(result.margin) else ""
        name = _short(query.path)
        rows.append([name, label, f"{result.probability:.2f}", margin, result.runner_up, verdict])
    if any(known):
        header.append("truth")
    return _table(header, [row[: len(header)] for row in rows], numbers=(2, 3))


def summary(results: Sequence[Result], classes: Sequence[str]) -> str:
    """Returns accuracy and confusion where the truth is known; else an empty text."""
    known = truths([query for query, _ in results], classes)
    pairs = [
        (truth, result)
        for (_, result), truth in zip(results, known, strict=True)
        if truth and isinstance(result, Prediction)
    ]
    inside = [pair for pair in pairs if pair[0] in classes]
    outside = [pair for pair in pairs if pair[0] not in classes]
    lines = []
    if inside:
        right = sum(is_right(result, truth) for truth, result in inside)
        nearest = sum(result.nearest == truth for truth, result in inside)
        alarms = sum(not result.known for _, result in inside)
        lines.append(
            f"accuracy: {right} of {len(inside)} clips of the classes ({right / len(inside):.1%});"
            f" {alarms} called {UNKNOWN!r}; the nearest class is right for {nearest}"
        )
    if outside:
        found = sum(not result.known for _, result in outside)
        lines.append(f"{found} of {len(outside)} clips of other classes called {UNKNOWN!r}")
    if inside and len(classes) <= _MOST_CLASSES:
        lines += [
            "",
            "true class (rows) and predicted class (columns):",
            _confusion(pairs, classes),
        ]
    return "\n".join(lines)


def _confusion(pairs: Sequence[tuple[str, Prediction]], classes: Sequence[str]) -> str:
    columns = [*classes, UNKNOWN]
    rows = [*classes, *sorted({truth for truth, _ in pairs} - set(classes))]
    counts = np.zeros((len(rows), len(columns)), int)
    for truth, result in pairs:
        counts[rows.index(truth), columns.index(result.label)] += 1
    cells = [
        [name, *(str(count) if count else "·" for count in row)]
        for name, row in zip(rows, counts, strict=True)
    ]
    return _table(["", *columns], cells, numbers=range(1, len(columns) + 1))


def segments_table(name: str, segments: Sequence[Segment]) -> str:
    """Lays out the labels of a long video for a terminal."""
    rows = [
        [
            spelled_time(segment.start, 1),
            spelled_time(segment.end, 1),
            segment.label,
            f"{segment.probability:.2f}" if segment.known else "",
        ]
        for segment in segments
    ]
    table = _table(["from", "to", "label", "probability"], rows, numbers=(0, 1, 3))
    return f"{printable(name)}\n{table}\n"


def write_csv(path: Path, results: Sequence[Result], classes: Sequence[str]) -> None:
    """Writes the predictions as CSV: a line for each clip that could be read.

    The columns are :data:`COLUMNS`, and ``distance_<class>`` for each class.

    Raises:
        MoloError: the file cannot be written.
    """
    known = truths([query for query, _ in results], classes)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *(DISTANCE + name for name in classes)])
    for (_, result), truth in zip(results, known, strict=True):
        if isinstance(result, Prediction):
            margin = _number(result.margin) if math.isfinite(result.margin) else ""
            distances = [_number(result.distances[name]) for name in classes]
            first = [result.name, result.label, _number(result.probability), margin]
            writer.writerow([*first, result.runner_up, truth, *distances])
    with written(path):
        write_text(path, text.getvalue())


def write_json(path: Path, results: Sequence[Result], classifier: Classifier) -> None:
    """Writes the predictions as JSON, with what the classifier is and what could not be read.

    Raises:
        MoloError: the file cannot be written.
    """
    classes = list(classifier.support)
    known = truths([query for query, _ in results], classes)
    network, calibration = classifier.embedder.network, classifier.calibration
    content = {
        "network": {
            "source": network.source,
            "origin": network.origin,
            "digest": network.digest,
            "method": network.settings.method,
            "backbone": network.settings.backbone,
            "precision": network.precision.name,
        },
        "classes": {
            name: [clip.name for clip in clips] for name, clips in classifier.support.items()
        },
        "unknown": {
            "rule": classifier.unknown,
            "threshold": classifier.threshold,
            "scale": calibration.scale,
        },
        "temperature": calibration.temperature,
        "predictions": [
            _as_json(result, truth)
            for (_, result), truth in zip(results, known, strict=True)
            if isinstance(result, Prediction)
        ],
        "not_usable": [
            {
                "video": printable(failure.name),
                "reason": failure.reason,
                "class": failure.label or None,
            }
            for failure in (*classifier.failures_, *failures(results))
        ],
    }
    with written(path):
        write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _as_json(result: Prediction, truth: str) -> Mapping[str, Any]:
    clip = result.clip
    return {
        "video": result.name,
        "predicted": result.label,
        "nearest": result.nearest,
        "probability": result.probability,
        "margin": result.margin if math.isfinite(result.margin) else None,
        "runner_up": result.runner_up or None,
        "truth": truth or None,
        "strangeness": None if math.isnan(result.strangeness) else result.strangeness,
        "distances": result.distances,
        "probabilities": result.probabilities,
        "frames": clip.numbers.tolist(),
        "seconds": None if clip.seconds is None else clip.seconds.tolist(),
    }


def failures(results: Sequence[Result]) -> list[Failure]:
    """Returns the clips that could not be read."""
    return [failure_of(result) for _, result in results if isinstance(result, MoloError)]


def _number(value: float) -> str:
    return f"{value:.6g}"


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= _LONGEST_NAME else "…" + name[-_LONGEST_NAME + 1 :]


def _width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int]) -> str:
    """Lays out a table; the columns of numbers are flush right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(_width(line[column]) for line in lines) for column in range(len(header))]

    def cell(text: str, column: int) -> str:
        space = " " * (widths[column] - _width(text))
        return space + text if column in numbers else text + space

    laid = ["  ".join(cell(t, i) for i, t in enumerate(line)).rstrip() for line in lines]
    return "\n".join([laid[0], "─" * max(map(_width, laid)), *laid[1:]])
