"""A table that divides one's own classes or videos into train, val and test."""

import csv
import dataclasses
import difflib
import os
from collections.abc import Iterable

from molo_jax.errors import MoloError, shortened

# How people call the splits.
SPELLINGS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# Longer than any name that somebody mistyped.
_LONGEST_NAME = 200
_DELIMITERS = ",\t;"
_EXPECTED = "the columns class,split or video,class,split"


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        line: its line in the file, from 1.
        split: "train", "val" or "test".
        class_name: the class.
        video: path below the video folder; None in a table of classes.
    """

    line: int
    split: str
    class_name: str
    video: str | None


def read_split_file(path: str | os.PathLike[str]) -> list[Row]:
    """Reads a CSV file with a header.

    Its columns are class,split (a row a class) or video,class,split (a row a video) in any order,
    separated by commas, tabs or semicolons; others are ignored.

    Returns:
        One row or more, either all or none of them with a video.

    Raises:
        MoloError: the file cannot be read or is malformed, names an unknown split, or puts a class
            into two; with the number of the line.
    """
    path = os.fspath(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            columns, delimiter = _columns(path, header)
            reader = csv.reader(file, delimiter=delimiter)
            rows = [
                _row(f"{path}:{reader.line_num + 1}", reader.line_num + 1, columns, values)
                for values in reader
                if any(map(str.strip, values))
            ]
    except OSError as error:
        raise MoloError(f"cannot read the split file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise MoloError(
            f"the split file {path} is not UTF-8 text (byte 0x{error.object[error.start]:02x});"
            " save it as CSV UTF-8"
        ) from error
    except csv.Error as error:
        raise MoloError(f"{path}: {error}; expected {_EXPECTED}") from error
    if not rows:
        raise MoloError(f"the split file {path} has a header only; expected {_EXPECTED}")
    _check_classes(path, rows)
    return rows


def closest(name: str, known: Iterable[str]) -> str:
    """The known name most like another one, as the end of a message; empty if there is none."""
    # The comparison takes time that grows with the square of the length.
    found = difflib.get_close_matches(name[:_LONGEST_NAME], known, n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def _columns(path: str, header: str) -> tuple[dict[str, int], str]:
    """The place of each column, and what separates them."""
    for delimiter in _DELIMITERS:
        names = next(csv.reader([header], delimiter=delimiter), [])
        places = {name.strip().lower(): place for place, name in enumerate(names)}
        if {"class", "split"} <= places.keys():
            known = ("video", "class", "split")
            return {name: places[name] for name in known if name in places}, delimiter
    raise MoloError(f"{path}:1: the header is {shortened(header.strip())}; expected {_EXPECTED}")


def _row(where: str, line: int, columns: dict[str, int], values: list[str]) -> Row:
    if len(values) <= max(columns.values()):
        raise MoloError(
            f"{where}: {len(values)} fields; the header has {max(columns.values()) + 1}"
        )
    fields = {name: values[place].strip() for name, place in columns.items()}
    for name, value in fields.items():
        if not value:
            raise MoloError(f"{where}: the {name} is empty")
    split = SPELLINGS.get(fields["split"].lower())
    if split is None:
        raise MoloError(
            f"{where}: unknown split {shortened(fields['split'])}; expected train, val or test"
            f"{closest(fields['split'].lower(), SPELLINGS)}"
        )
    return Row(line, split, fields["class"], fields.get("video"))


def _check_classes(path: str, rows: Iterable[Row]) -> None:
    first: dict[str, Row] = {}
    for row in rows:
        known = first.setdefault(row.class_name, row)
        if known.split != row.split:
            raise MoloError(
                f"{path}:{row.line}: class {shortened(row.class_name)} is in {row.split}, but line"
                f" {known.line} has it in {known.split}; classes that are tested must not be in"
                " training"
            )
