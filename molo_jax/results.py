"""The results of evaluations: how they compare with training, and the files they are kept in."""

import collections
import csv
import dataclasses
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from absl import logging

from molo_jax.analysis.summary import Cell
from molo_jax.data.lists.splits import Split
from molo_jax.errors import MoloError
from molo_jax.files import parse_json, write_json, write_text, written
from molo_jax.provenance import (
    ListRecord,
    Overlap,
    Provenance,
    check_new,
    listed_changes,
    overlap,
)
from molo_jax.stored_config import flattened

# What comes out of an evaluation; everything else in a file says which evaluation it is.
_MEASURED = (
    *("accuracy", "ci95", "ci95_videos", "ci95_classes", "no_ci95_videos", "no_ci95_classes"),
    *("per_class", "per_class_ci95", "per_class_ci95_videos", "seconds"),
    *("confusion", "confused_pairs", "always_wrong", "bad_videos"),
)
# Keys of the configuration on which the numbers do not depend: names, places, and how fast it is.
_NO_MATTER = (
    "dataset.how_to_get",
    "data.prepared",
    "data.root",
    "data.split_dir",
    "data.workers",
    "data.prefetch",
    "train.log_every",
    "train.checkpoint_every",
    "train.remat",
    "eval.shots",
    "eval.n_way",
    "eval.ways",
    "eval.prepared",
    "eval.root",
    "eval.split_dir",
    "eval.controls",
    "eval.clip_batch",
    "eval.episode_batch",
    "eval.cache_mib",
    "eval.on_trained_classes",
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How an evaluation compares with the training of its network.

    Attributes:
        checkpoint: the network's.
        classes: the tested classes that are not new to it.
        settings: what it sees otherwise than in training, with both values; None where its
            checkpoint does not say what it saw.
        list_digest: of the tested list.
    """

    checkpoint: str
    classes: Overlap
    settings: dict[str, dict[str, Any]] | None
    list_digest: str

    @classmethod
    def of(
        cls,
        checkpoint: str,
        origin: Provenance,
        tested: ListRecord,
        split: str,
        *,
        seen: Mapping[str, Any],
        refuse: bool,
    ) -> Self:
        """Compares; says in the log what differs.

        Args:
            checkpoint: the network's.
            origin: what is known of its training.
            tested: the list of the tested split.
            split: its name.
            seen: what the network sees now, see :func:`molo_jax.provenance.settings_seen`.
            refuse: whether classes that it was trained on are refused.

        Raises:
            MoloError: when the network was trained on classes of the split, and they are refused.
        """
        classes = overlap(origin, tested, split)
        check_new(checkpoint, classes, split, refuse=refuse)
        # An untrained network has seen nothing, which is known.
        known = origin.seen or not origin.trained
        settings = origin.other_settings(seen) if known else None
        found = cls(checkpoint, classes, settings, tested.digest)
        for note in found.changes():
            logging.warning("%s", note)
        return found

    def changes(self) -> list[str]:
        """Names the settings that are not as in training, in one sentence or none."""
        changes = (self.settings or {}).items()
        changed = listed_changes(
            *({key: values[side] for key, values in changes} for side in ("training", "now"))
        )
        return [f"not as in training ({self.checkpoint}): {changed}"] if changed else []

    def notes(self, split: str) -> list[str]:
        """Returns the lines that stand below the table."""
        classes = [
            f"warning: the network {sentence}, which the {split} split holds"
            for sentence in self.classes.sentences()
        ]
        return [*classes, *(f"warning: {change}" for change in self.changes())]


def class_keys(split: Split) -> list[str]:
    """Returns what stands for each class in a result file: its name, or else its number.

    Where two classes would have the same key, the number stands behind the name.
    """
    rows = list(zip(split.classes, split.class_names, strict=True))
    keys = [name or str(class_id) for class_id, name in rows]
    count = collections.Counter(keys)
    return [
        f"{name} (class {class_id})" if name and count[name] > 1 else key
        for key, (class_id, name) in zip(keys, rows, strict=True)
    ]


def write_result(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a result file; one of another evaluation that has its name is kept under a new one.

    Args:
        path: the file.
        record: what it shall hold.

    Raises:
        MoloError: when the file that is there cannot be read.
    """
    before = _read(path)
    if before is not None and result_key(before) != result_key(record):
        kept = _free_name(path)
        os.rename(path, kept)
        logging.warning("%s was the result of another evaluation; it is kept as %s", path, kept)
    write_json(path, record)


_COLUMNS = ("way", "shot", "episodes", "accuracy", "ci95", "ci95_videos", "seconds")


def write_csv(path: Path, cells: Sequence[Cell]) -> None:
    """Writes a table of results, a line for each way and number of shots.

    Accuracies and intervals are fractions, not percent; an interval that cannot be said is empty.

    Raises:
        MoloError: it cannot be written.
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(_COLUMNS)
    for cell in cells:
        found = cell.intervals
        videos = "" if found.ci95_videos is None else found.ci95_videos
        seconds = "" if cell.seconds is None else f"{cell.seconds:.3f}"
        measured = (found.mean, found.ci95, videos, seconds)
        lines.writerow((cell.way, cell.shot, cell.episodes, *measured))
    with written(path):
        write_text(path, text.getvalue())


def result_key(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what two results have in common exactly when they are of one evaluation.

    That is all of a record but what was measured, and those keys of the configuration on which the
    numbers do not depend.
    """
    plain = json.loads(json.dumps(record))
    key = {name: value for name, value in plain.items() if name not in (*_MEASURED, "config")}
    values = flattened(plain.get("config", {}))
    return key | {f"config.{k}": value for k, value in values.items() if k not in _NO_MATTER}


def _read(path: Path) -> dict[str, Any] | None:
    """Reads the file; what is no result file is like one of another evaluation."""
    try:
        content = parse_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MoloError(f"cannot read {path}: {error.strerror}") from error
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _free_name(path: Path) -> Path:
    number = 1
    while (kept := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    return kept
