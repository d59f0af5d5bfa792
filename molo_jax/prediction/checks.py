"""Checks of values that were read from JSON; each error names the value and what was expected."""

import dataclasses
import math
import re
import unicodedata
from typing import Any

from molo_jax.backbones import BACKBONES
from molo_jax.errors import shortened
from molo_jax.methods.settings import METHODS, TRAINING_ONLY
from molo_jax.prediction.clips import ClipRule
from molo_jax.prediction.container import DamagedError

# How many characters a name may have.
_LONGEST_NAME = 4096
_DIGEST = re.compile(r"[0-9a-f]{64}")
# Training classes, frames of a clip and pixels of a side that a network can have.
_MOST_CLASSES, _MOST_PIXELS = 1_000_000, 4096
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


def network_settings(values: Any) -> None:
    """Checks that a value is the settings of a method, as `Settings.to_json` returns them."""
    is_a(values, dict, "the settings of the network")
    method = values.get("method")
    if not isinstance(method, str) or method not in METHODS:
        raise DamagedError(
            f"the method is {shortened(str(method))}, expected one of {', '.join(METHODS)}"
        )
    known = {field.name: field for field in dataclasses.fields(METHODS[method])}
    for name, value in values.items():
        if name != "method" and name not in known:
            raise DamagedError(f"{shortened(name)} is no setting of {method}")
        if name != "method" and not _fits(known[name], value):
            raise DamagedError(
                f"the setting {name} of {method} is {shortened(str(value))}, expected"
                f" {_expected(known[name])}"
            )
    if "num_classes" not in values:
        raise DamagedError("the settings lack num_classes")


def _fits(field: dataclasses.Field, value: Any) -> bool:
    if field.name == "backbone":
        return isinstance(value, str) and value in BACKBONES
    if type(value) is int and field.type is float:
        value = float(value) if abs(value) < 2**53 else math.inf
    if type(value) is not field.type:
        return False
    if field.type is int and not field.metadata:
        return 1 <= value <= _MOST_CLASSES
    limits = field.metadata
    number = isinstance(value, float) or type(value) is int
    return (
        ("choices" not in limits or value in limits["choices"])
        and (not number or math.isfinite(value))
        and ("above" not in limits or value > limits["above"])
        and ("at_least" not in limits or value >= limits["at_least"])
        and ("below" not in limits or value < limits["below"])
    )


def _expected(field: dataclasses.Field) -> str:
    limits = {key: value for key, value in field.metadata.items() if key != TRAINING_ONLY}
    choices = BACKBONES if field.name == "backbone" else limits.pop("choices", ())
    if choices:
        return f"one of {', '.join(choices)}"
    told = [f"{key.replace('_', ' ')} {value}" for key, value in limits.items()]
    if field.type is int and not field.metadata:
        told = [f"from 1 to {_MOST_CLASSES:,}"]
    return " ".join([field.type.__name__, *told])


def clip_rule(values: Any) -> None:
    """Checks that a value has the fields of a `ClipRule`."""
    fields(values, {field.name for field in dataclasses.fields(ClipRule)}, "the rule")
    try:
        rule = ClipRule(**values)
    except (TypeError, ValueError) as error:
        raise DamagedError(f"the rule of the network cannot be used: {error}") from error
    for name in ("num_frames", "resize", "crop"):
        if getattr(rule, name) > _MOST_PIXELS:
            raise DamagedError(
                f"{name} of the rule is {shortened(str(getattr(rule, name)))}, expected at most"
                f" {_MOST_PIXELS}"
            )
