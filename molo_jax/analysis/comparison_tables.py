"""The tables of a comparison, in the layout of the papers of the field, and its JSON."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from molo_jax.analysis.comparison import COMPARED, Difference, Group, Key, Run
from molo_jax.analysis.intervals import Intervals
from molo_jax.analysis.tables import Number, Table

_ABSENT = "–"
_OVER_VIDEOS = (
    "The 95 % intervals are those for other videos of the same classes; a number without one has"
    " too few videos for it."
)


def tables(groups: Sequence[Group]) -> list[Table]:
    """Makes the tables of a comparison.

    Args:
        groups: one for each tested data set, all with the same baseline.
    """
    found = []
    for group in groups:
        ways = list(dict.fromkeys(way for way, _ in group.cells))
        shots = list(dict.fromkeys(shot for _, shot in group.cells))
        for way in ways:
            keys = [key for key in group.cells if key[0] == way]
            names = [f"{shot}-shot" for _, shot in keys]
            found.append(_accuracies(group, f"{way}-way accuracy in %", keys, names))
        keys = [key for key in group.cells if key[1] == min(shots)]
        if len(ways) > 1:
            names = [f"{way}-way" for way, _ in keys]
            found.append(_accuracies(group, f"{min(shots)}-shot accuracy in %", keys, names))
        found += [_differences(group), _classes(group, group.cells[0])]
    return [*_across(groups), *found]


def _episodes(group: Group) -> str:
    header = group.header
    queries = "1 query" if header["n_query"] == 1 else f"{header['n_query']} queries"
    return (
        f"{header['dataset']}, {header['split']} split, {header['episodes']:,} episodes with"
        f" {queries} a class{_frames(header)}"
    )


def _frames(header: Mapping[str, Any]) -> str:
    """Says how the frames were drawn, where that is not the official rule."""
    if header["frame_draw"] != "video":
        return ""
    draws = header["draws"]
    how = "once for each video" if draws == 1 else f"{draws} times for each video"
    return f", frames drawn {how}"


def _columns(runs: Sequence[Run]) -> list[str]:
    """Returns what of the networks stands in a row: what differs, and is not in the label."""
    keys = [key for key in COMPARED if key not in ("title", "variant")]
    return [key for key in keys if len({str(run.header[key]) for run in runs}) > 1]


def _about(run: Run, columns: Sequence[str]) -> list[str]:
    values = [run.header[key] for key in columns]
    return [run.label, *(_ABSENT if value is None else str(value) for value in values)]


def _accuracies(group: Group, title: str, keys: Sequence[Key], names: Sequence[str]) -> Table:
    columns = _columns(group.runs)
    best = {key: max(group.accuracies[i, key].mean for i in range(len(group.runs))) for key in keys}
    rows = [
        [
            *_about(run, columns),
            *(
                _number(found, best=found.mean == best[key])
                for key in keys
                for found in [group.accuracies[place, key]]
            ),
        ]
        for place, run in enumerate(group.runs)
    ]
    head = ["Method", *(COMPARED[key].capitalize() for key in columns), *names]
    title = f"{title}: {_episodes(group)}"
    return Table(title, head, rows, names=1 + len(columns), notes=[_OVER_VIDEOS])


def _number(found: Intervals, *, signed: bool = False, best: bool = False) -> Number:
    return Number(found.mean, found.ci95_videos, signed=signed, best=best)


def _half(half: float | None) -> str:
    return _ABSENT if half is None else f"± {100 * half:.1f}"


def _differences(group: Group) -> Table:
    rows, reasons = [], {}
    for way, shot in group.cells:
        for place, run in enumerate(group.runs[1:], start=1):
            found = group.differences[place, (way, shot)]
            paired = found.paired
            reasons |= dict.fromkeys(filter(None, (paired.no_videos, paired.no_classes)))
            rows.append(
                [
                    f"{way}-way {shot}-shot",
                    run.label,
                    Number(paired.mean, signed=True),
                    *map(_half, (paired.ci95_videos, paired.ci95_classes, paired.ci95)),
                    found.episodes.text(),
                    found.queries.text(),
                ]
            )
    head = ["Episodes", "Method", "Difference", "over videos", "over classes", "over episodes"]
    head += ["episodes won / tied / lost", "queries won / tied / lost"]
    return Table(
        f"Difference from {group.runs[0].label} in percentage points: {_episodes(group)}",
        head,
        rows,
        names=2,
        notes=[f"Not given: {reason}." for reason in reasons],
    )


def _classes(group: Group, key: Key) -> Table:
    """The table of the classes in one cell, sorted by the first difference."""
    names, others = group.header["class_names"], range(1, len(group.runs))
    differences = [group.differences[place, key].per_class for place in others]
    order = sorted(differences[0], key=lambda c: -differences[0][c].mean)
    rows = [[names[c], *(_number(d[c], signed=True) for d in differences)] for c in order]
    way, shot = key
    return Table(
        f"Difference from {group.runs[0].label} in percentage points, {way}-way {shot}-shot, by"
        f" class: {_episodes(group)}",
        ["Class", *(run.label for run in group.runs[1:])],
        rows,
        notes=[_OVER_VIDEOS],
    )


def _across(groups: Sequence[Group]) -> list[Table]:
    """The table of several tested data sets: rows are networks, columns are data sets."""
    common = [key for key in groups[0].cells if all(key in group.cells for group in groups)]
    if len(groups) < 2 or not common:
        return []
    key = common[0]
    rows = {}
    for column, group in enumerate(groups):
        for place, run in enumerate(group.runs):
            names = run.label, str(run.header["trained_on"] or _ABSENT)
            row = rows.setdefault(names, [_ABSENT] * len(groups))
            row[column] = _number(group.accuracies[place, key])
    for column in range(len(groups)):
        numbers = [row[column] for row in rows.values() if isinstance(row[column], Number)]
        best = max(number.value for number in numbers)
        for row in rows.values():
            cell = row[column]
            if isinstance(cell, Number) and cell.value == best:
                row[column] = dataclasses.replace(cell, best=True)
    head = ["Method", "Trained on", *(f"→ {group.dataset}" for group in groups)]
    title = f"{key[0]}-way {key[1]}-shot accuracy in % by the tested data set"
    body = [[*names, *row] for names, row in rows.items()]
    return [Table(title, head, body, names=2, notes=[_OVER_VIDEOS])]


def as_json(groups: Sequence[Group]) -> dict[str, Any]:
    """Returns everything that was compared, as plain values."""
    return {
        "baseline": groups[0].runs[0].label,
        "groups": [_group_json(group) for group in groups],
    }


def _group_json(group: Group) -> dict[str, Any]:
    header = group.header
    episodes = ("split", "episodes", "n_query", "seed", "frame_draw", "draws", "list_digest")
    return {
        "dataset": group.dataset,
        **{key: header[key] for key in episodes},
        "runs": [
            {"label": run.label, "source": run.source, "file": str(run.path)}
            | {key: run.header[key] for key in ("checkpoint", *COMPARED)}
            for run in group.runs
        ],
        "cells": [_cell_json(group, key) for key in group.cells],
    }


def _cell_json(group: Group, key: Key) -> dict[str, Any]:
    way, shot = key
    names = group.header["class_names"]
    return {
        "way": way,
        "shot": shot,
        "accuracies": {
            run.label: dataclasses.asdict(group.accuracies[place, key])
            for place, run in enumerate(group.runs)
        },
        "differences": {
            run.label: _difference_json(group.differences[place, key], names)
            for place, run in enumerate(group.runs)
            if place
        },
    }


def _difference_json(found: Difference, names: Sequence[str]) -> Mapping[str, Any]:
    return {
        **dataclasses.asdict(found.paired),
        "episodes": dataclasses.asdict(found.episodes),
        "queries": dataclasses.asdict(found.queries),
        "per_class": {names[c]: dataclasses.asdict(one) for c, one in found.per_class.items()},
    }
