"""What an evaluation leaves: the contents of its files, and the table that is printed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from molo_jax.analysis.intervals import Intervals
from molo_jax.analysis.summary import Cell
from molo_jax.data.clips.source import ClipSource
from molo_jax.evaluated import Evaluation, Network
from molo_jax.results import Comparison, class_keys

# Pairs of classes that a result names.
_MOST_PAIRS = 20
# The rows of the table; the trained network has no suffix in the names of its files.
TRAINED, UNTRAINED, STATIC = "trained", "untrained", "static"
TITLES = {
    TRAINED: "trained",
    UNTRAINED: "untrained network",
    STATIC: "trained, one repeated frame",
}


def usable_videos(dataset: ClipSource) -> np.ndarray:
    """Returns the number of usable videos of each class."""
    sizes = np.array(dataset.class_sizes)
    for position, _ in dataset.bad_places():
        sizes[position] -= 1
    return sizes


def suffix_of(variant: str) -> str:
    """Returns what the names of a variant's files end with."""
    return "" if variant == TRAINED else f"_{variant}"


def file_name(name: str, record: Mapping[str, Any]) -> str:
    """Returns the name of a result's file.

    Args:
        name: what is evaluated, see :attr:`molo_jax.evaluated.Evaluation.name`.
        record: the content of the file.
    """
    suffix = suffix_of(record["variant"])
    return f"eval_{name}_{record['way']}way_{record['shot']}shot{suffix}.json"


def header_of(evaluation: Evaluation, network: Network, variant: str) -> dict[str, Any]:
    """Returns what the episodes and the network of a file of predictions are."""
    dataset, config = evaluation.data.dataset, evaluation.config
    sampler = next(iter(evaluation.data.samplers.values()))
    return {
        "dataset": evaluation.dataset,
        "split": evaluation.split,
        "list_digest": evaluation.tested.digest,
        "seed": evaluation.seed,
        "n_query": evaluation.n_query,
        "episodes": evaluation.episodes,
        "frame_draw": sampler.frame_draw,
        "draws": sampler.draws,
        "class_names": class_keys(dataset.split),
        "class_sizes": usable_videos(dataset).tolist(),
        "video_names": [[video.name for video in videos] for videos in dataset.split.videos],
        "bad_videos": dataset.bad_videos(),
        "method": network.settings.method,
        "title": network.settings.title,
        "backbone": network.settings.backbone,
        "checkpoint": network.checkpoint,
        "step": network.step,
        "trained_on": next(
            (stage.dataset for stage in reversed(network.origin.trained) if stage), None
        ),
        "variant": variant,
        "precision": evaluation.data.precision.name,
        "num_frames": config["data"]["num_frames"],
        "crop": config["data"]["crop"],
    }


def record_of(
    evaluation: Evaluation,
    network: Network,
    comparison: Comparison,
    variant: str,
    cell: Cell,
) -> dict[str, Any]:
    """Returns the content of the file of one way and number of shots."""
    dataset, found = evaluation.data.dataset, cell.intervals
    names = class_keys(dataset.split)
    return {
        "dataset": evaluation.dataset,
        "method": network.settings.method,
        "split": evaluation.split,
        "variant": variant,
        "accuracy": cell.accuracy,
        "ci95": found.ci95,
        "ci95_videos": found.ci95_videos,
        "ci95_classes": found.ci95_classes,
        "no_ci95_videos": found.no_videos,
        "no_ci95_classes": found.no_classes,
        "episodes": cell.episodes,
        "way": cell.way,
        "shot": cell.shot,
        "query": evaluation.n_query,
        "precision": evaluation.data.precision.name,
        "seconds": cell.seconds,
        "per_class": {names[c]: each.mean for c, each in cell.per_class.items()},
        "per_class_ci95": {names[c]: each.ci95 for c, each in cell.per_class.items()},
        "per_class_ci95_videos": {names[c]: each.ci95_videos for c, each in cell.per_class.items()},
        "classes": names,
        "confusion": cell.confusion.tolist(),
        "confused_pairs": [
            {
                "true": names[pair.true],
                "predicted": names[pair.predicted],
                "count": pair.count,
                "rate": pair.rate,
            }
            for pair in cell.confused_pairs(_MOST_PAIRS)
        ],
        "always_wrong": [
            {
                "class": names[query.class_position],
                "video": dataset.video(query.class_position, query.video_position).name,
                "asked": query.asked,
                "taken_for": names[query.taken_for],
            }
            for query in cell.always_wrong
        ],
        "checkpoint": network.checkpoint,
        "checkpoint_step": network.step,
        "init_from": network.origin.init_from,
        "trained_classes_tested": comparison.classes.trained,
        "validated_classes_tested": comparison.classes.validated,
        "settings_not_as_in_training": comparison.settings,
        "list_digest": comparison.list_digest,
        "bad_videos": dataset.bad_videos(),
        "config": evaluation.config,
    }


def format_table(
    head: str, results: Mapping[tuple[str, int, int], Cell], notes: Sequence[str] = ()
) -> str:
    """Formats all results: a row for each variant and way, a column for each number of shots.

    Args:
        head: the line above.
        results: by variant, way and number of shots.
        notes: what a reader of these numbers must know; lines below the table.
    """
    shots = list(dict.fromkeys(shot for _, _, shot in results))
    several = len({way for _, way, _ in results}) > 1
    rows = [["", *(f"{shot}-shot" for shot in shots)]]
    for variant, way in dict.fromkeys((variant, way) for variant, way, _ in results):
        title = f"{TITLES[variant]}, {way}-way" if several else TITLES[variant]
        rows.append([title, *(_shown(results[variant, way, shot].intervals) for shot in shots)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join([r[0].ljust(widths[0]), *_right(r[1:], widths[1:])]) for r in rows]
    rule = "-" * len(lines[0])
    return "\n".join(["", head, rule, lines[0], rule, *lines[1:], rule, *notes])


def no_intervals(results: Mapping[tuple[str, int, int], Cell]) -> list[str]:
    """Says where there is no interval over videos, and why; a line for each reason."""
    places: dict[str, list[str]] = {}
    for (variant, way, shot), cell in results.items():
        if reason := cell.intervals.no_videos:
            places.setdefault(reason, []).append(f"{TITLES[variant]} {way}-way {shot}-shot")
    return [
        f"no interval over videos: {reason} ({where[0]}"
        f"{f' and {len(where) - 1} more' if len(where) > 1 else ''})"
        for reason, where in places.items()
    ]


def _shown(found: Intervals) -> str:
    videos = "" if found.ci95_videos is None else f" (± {100 * found.ci95_videos:.1f})"
    return f"{100 * found.mean:.1f} ± {100 * found.ci95:.1f}{videos}"


def _right(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
