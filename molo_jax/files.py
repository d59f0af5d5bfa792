"""Files that are there as a whole or not at all."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from molo_jax.errors import MoloError, shortened


def read_json(path: Path, remedy: str) -> Any:
    """Reads a JSON file, whatever may be in it.

    Args:
        path: the file.
        remedy: what to do where it is damaged, as the end of a message.

    Raises:
        MoloError: the file cannot be read, or holds no JSON.
    """
    try:
        return parse_json(path.read_bytes())
    except OSError as error:
        raise MoloError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise MoloError(f"{path} is damaged ({error}); {remedy}") from error


def parse_json(text: str | bytes) -> Any:
    """Parses JSON.

    Raises:
        ValueError: it is none, is not UTF-8, or its parts lie too deeply inside one another.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its parts lie too deeply inside one another") from None


def checked_fields(kind: type, values: Any) -> dict[str, Any]:
    """Checks that values, as read from JSON, have the names and types of a dataclass's fields.

    Args:
        kind: a dataclass whose fields are of plain types.
        values: a value for each field that has no default.

    Raises:
        ValueError: naming a field that is unknown or of another type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{shortened(str(values))} is no object")
    types = {field.name: field.type for field in dataclasses.fields(kind)}
    for name, value in values.items():
        if name not in types:
            raise ValueError(f"{shortened(str(name))} is not known")
        # A truth value counts as a whole number in Python.
        if type(value) is not types[name]:
            raise ValueError(f"{name} is {shortened(str(value))}, expected {types[name].__name__}")
    return values


def write_json(path: Path, content: Mapping[str, Any], indent: int | None = 1) -> None:
    """Writes a JSON file under a temporary name first, then renames it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
