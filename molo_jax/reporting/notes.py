"""What a reader must know of the data behind numbers: sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from molo_jax.reporting.work_folder import Evaluated
from molo_jax.stored_config import flattened

_MOST_NAMED = 8


def notes_of(evaluated: Evaluated) -> list[str]:
    """Returns the notes on the results of a split, each one or two sentences."""
    records = [each.record for each in evaluated.results if each.record]
    notes: list[str] = []
    for record in records:
        notes += [note for note in _of_record(record) if note not in notes]
    steps = {str(each["checkpoint"]) for each in records if "checkpoint" in each}
    if len(steps) > 1:
        notes.append(
            f"The results are of different networks: {_listed(sorted(steps))}. Numbers of different"
            " networks in one table are not comparable; evaluate all of them again."
        )
    return notes


def _of_record(record: Mapping[str, Any]) -> list[str]:
    notes = []
    for key, what in (
        ("trained_classes_tested", "trained on"),
        ("validated_classes_tested", "validated on"),
    ):
        classes = record.get(key, ())
        if classes is None:
            notes.append(
                f"Whether the network was {what} classes that are tested here is not known: its"
                " weights do not say it."
            )
        elif isinstance(classes, list) and classes:
            notes.append(
                f"Warning: the network was {what} {len(classes)} of the tested classes, so their"
                f" accuracy is not that of new classes: {_listed(classes)}."
            )
    changes = record.get("settings_not_as_in_training", {})
    if changes is None:
        notes.append("What the network saw in training is not known: its weights do not say it.")
    elif isinstance(changes, dict) and changes:
        told = [_change(name, values) for name, values in changes.items()]
        notes.append(f"Warning: settings are not as in training: {_listed(told)}.")
    bad = record.get("bad_videos") or {}
    if isinstance(bad, dict) and bad:
        told = [f"{path} ({reason})" for path, reason in bad.items()]
        noun = "video was" if len(bad) == 1 else "videos were"
        notes.append(f"{len(bad)} {noun} left out as unusable: {_listed(told)}.")
    if flattened(record.get("config") or {}).get("eval.frame_draw") == "video":
        notes.append(
            "Each video is shown with the same frames in every episode (eval.frame_draw=video); the"
            " official code draws frames anew in every episode."
        )
    return notes


def _change(name: str, values: Any) -> str:
    if isinstance(values, dict) and {"training", "now"} <= set(values):
        return f"{name} was {values['training']!r}, is {values['now']!r}"
    return str(name)


def _listed(names: Sequence[Any]) -> str:
    shown = "; ".join(str(name) for name in names[:_MOST_NAMED])
    more = len(names) - _MOST_NAMED
    return f"{shown}; and {more} more" if more > 0 else shown
