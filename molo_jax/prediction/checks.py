"""Checks of values that were read from JSON; each error names the value and what was expected."""

import math
import re
import unicodedata
from typing import Any

from molo_jax.errors import shortened
from molo_jax.prediction.container import DamagedError

# How many characters a name may have.
_LONGEST_NAME = 4096
_DIGEST = re.compile(r"[0-9a-f]{64}")
_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}


def fields(values: Any, names: set[str], where: str) -> None:
    """Checks that a value is an object with exactly these entries."""
    is_a(values, dict, where)
    for name in sorted(names ^ set(values)):
        fault = "lacks" if name in names else "has the unknown entry"
        raise DamagedError(f"{where} {fault} {shortened(name)}")


def is_a(value: Any, kind: type, where: str) -> None:
    """Checks the type of a value; a truth value is no whole number."""
    if type(value) is not kind:
        raise DamagedError(
            f"{where} is {shortened(str(value))}, expected {_KINDS.get(kind, kind.__name__)}"
        )


def plain(values: Any, where: str) -> None:
    """Checks that a value is an object of numbers, texts and truth values."""
    is_a(values, dict, where)
    for name, value in values.items():
        text(name, f"a name in {where}")
        if not isinstance(value, str | int | float | bool | None) or (
            isinstance(value, float) and not math.isfinite(value)
        ):
            raise DamagedError(
                f"{where} {shortened(name)} is {shortened(str(value))}, expected a finite"
                " number, a text, true, false or null"
            )


def text(value: Any, where: str, least: int = 1) -> str:
    """Returns a value that is a text of at least so many characters, without control characters."""
    is_a(value, str, where)
    # Control characters and halves of characters would spoil a terminal, a table or a page.
    if not least <= len(value) <= _LONGEST_NAME or any(
        unicodedata.category(sign) in ("Cc", "Cs") for sign in value
    ):
        raise DamagedError(
            f"{where} is {shortened(value)}, expected {least} to {_LONGEST_NAME} characters and no"
            " control characters"
        )
    return value


def digest(value: Any, where: str) -> str:
    """Returns a value that is a SHA-256 in hexadecimal digits."""
    is_a(value, str, where)
    if not _DIGEST.fullmatch(value):
        raise DamagedError(f"{where} is {shortened(value)}, expected 64 hexadecimal digits")
    return value


def whole_numbers(value: Any, count: int, least: int, most: int) -> bool:
    """Whether a value is a list of so many whole numbers in these limits."""
    return (
        isinstance(value, list)
        and len(value) == count
        and all(type(number) is int and least <= number <= most for number in value)
    )
