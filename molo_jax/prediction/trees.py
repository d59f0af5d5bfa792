"""Features of a clip as a list of arrays, and what their structure was, in JSON."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from molo_jax.errors import shortened
from molo_jax.methods.frame_outputs import Encoded, Projections
from molo_jax.methods.molo_outputs import Tokens
from molo_jax.prediction.container import DamagedError

# Structures with named parts that methods return. A file names one of them, and can name no other
# class. A method may also return arrays in tuples, lists and dictionaries.
STRUCTURES: dict[str, type] = {kind.__name__: kind for kind in (Tokens, Projections, Encoded)}
_LEAF = "array"
_DEEPEST = 8
_MOST_LEAVES = 100


def describe(features: Any) -> tuple[Any, list[np.ndarray]]:
    """Takes the features of a clip apart.

    Returns:
        The structure, made of what JSON has: `array` for an array, null for a part that is not
        used, and `[kind, parts]`; and the arrays in the order in which the structure names them.

    Raises:
        ValueError: the features have a structure that no file can describe.
    """
    leaves: list[np.ndarray] = []
    return _described(features, leaves), leaves


def leaves_of(structure: Any) -> int:
    """Returns how many arrays a structure has.

    Raises:
        DamagedError: it is no structure.
    """
    leaves = iter([np.zeros(0)] * _MOST_LEAVES)
    _rebuilt(structure, leaves, 0)
    return _MOST_LEAVES - sum(1 for _ in leaves)


def rebuild(structure: Any, leaves: list[np.ndarray]) -> Any:
    """Puts arrays together again, which are as many as the structure has.

    Raises:
        DamagedError: it is no structure.
    """
    return _rebuilt(structure, iter(leaves), 0)


def _described(features: Any, leaves: list[np.ndarray]) -> Any:
    if features is None:
        return None
    kind = type(features)
    if kind in STRUCTURES.values():
        parts = {
            field.name: _described(getattr(features, field.name), leaves)
            for field in dataclasses.fields(features)
        }
        return [kind.__name__, parts]
    if kind in (tuple, list):
        return [kind.__name__, [_described(part, leaves) for part in features]]
    if kind is dict and all(type(name) is str for name in features):
        return ["dict", {name: _described(part, leaves) for name, part in features.items()}]
    if not hasattr(features, "dtype"):
        raise ValueError(f"features of the type {kind.__name__} cannot be kept in a file")
    leaves.append(np.asarray(features))
    return _LEAF


def _rebuilt(structure: Any, leaves: Iterator[np.ndarray], depth: int) -> Any:
    if structure is None:
        return None
    if structure == _LEAF:
        leaf = next(leaves, None)
        if leaf is None:
            raise DamagedError(f"its features have more than {_MOST_LEAVES} arrays")
        return leaf
    kind, parts = structure if isinstance(structure, list) and len(structure) == 2 else (None, None)
    if depth < _DEEPEST:
        if kind in ("tuple", "list") and isinstance(parts, list):
            found = [_rebuilt(part, leaves, depth + 1) for part in parts]
            return tuple(found) if kind == "tuple" else found
        if kind == "dict" and isinstance(parts, dict):
            return {name: _rebuilt(part, leaves, depth + 1) for name, part in parts.items()}
        known = STRUCTURES.get(kind) if isinstance(kind, str) else None
        if known and isinstance(parts, dict):
            names = [field.name for field in dataclasses.fields(known)]
            if list(parts) == names:
                return known(**{n: _rebuilt(p, leaves, depth + 1) for n, p in parts.items()})
    raise DamagedError(f"{shortened(str(structure))} is no structure of features")
