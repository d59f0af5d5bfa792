"""The file that keeps what an evaluation predicted, episode by episode.

It is an .npz archive of NumPy without pickle. Episodes of one way with several numbers of shots
take the same classes, and their videos from the same order; where they do, both are kept once.
"""

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from molo_jax.analysis.outcome import Outcome
from molo_jax.errors import MoloError
from molo_jax.files import check_file, replacing, written

VERSION = 1
# Larger margins are kept as this one.
_LARGEST = float(np.finfo(np.float16).max)
_KIND = "episodes of an evaluation"
_REMEDY = "evaluate again with python -m molo_jax.main --mode=eval --config=FILE"


def outcome_path(workdir: Path, name: str) -> Path:
    """Returns the place of the file in a work folder.

    Args:
        workdir: the work folder.
        name: `<split>`, or `<dataset>_<split>` for another dataset than the configured one.
    """
    return workdir / f"eval_{name}_outcomes.npz"


def write_outcomes(
    path: Path, header: Mapping[str, Any], outcomes: Mapping[tuple[int, int], Outcome]
) -> None:
    """Writes the file; one that is there is replaced as a whole.

    Args:
        path: the file.
        header: what the episodes and the network are, as plain values of JSON.
        outcomes: by way and number of shots.

    Raises:
        MoloError: it cannot be written.
    """
    arrays: dict[str, np.ndarray] = {}
    cells = []
    for (way, shot), outcome in sorted(
        outcomes.items(), key=lambda item: (item[0][0], -item[0][1])
    ):
        table = f"{way}way"
        shared = f"{table}_classes" in arrays and _is_prefix(outcome, arrays, table)
        if not shared:
            table = table if f"{table}_classes" not in arrays else f"{table}_{shot}shot"
            arrays[f"{table}_classes"] = _small(outcome.classes)
            arrays[f"{table}_videos"] = _small(outcome.videos)
        arrays[f"{way}way_{shot}shot_predicted"] = _small(outcome.predicted)
        margins = np.clip(outcome.margins, -_LARGEST, _LARGEST)
        arrays[f"{way}way_{shot}shot_margins"] = margins.astype(np.float16)
        cells.append({"way": way, "shot": shot, "table": table})
    # In the order of the caller.
    order = list(outcomes)
    cells.sort(key=lambda cell: order.index((cell["way"], cell["shot"])))
    identity = {"kind": _KIND, "version": VERSION, "header": dict(header), "cells": cells}
    text = json.dumps(identity, ensure_ascii=False).encode()
    with written(path), replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, identity=np.frombuffer(text, np.uint8), **arrays)


def read_outcomes(path: Path) -> tuple[dict[str, Any], dict[tuple[int, int], Outcome]]:
    """Reads the file.

    Returns:
        The header, and the outcomes by way and number of shots.

    Raises:
        MoloError: there is no such file, or it is damaged or of another kind or version.
    """
    check_file(path, "a file of evaluated episodes")
    if not zipfile.is_zipfile(path):
        raise MoloError(f"{path} is damaged or no file of episodes (no .npz archive); {_REMEDY}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return _parsed(path, arrays)
    except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError) as error:
        raise MoloError(f"{path} is damaged or no file of episodes ({error}); {_REMEDY}") from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise MoloError(f"{path} is damaged ({error}); {_REMEDY}") from error


def _parsed(
    path: Path, arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any], dict[tuple[int, int], Outcome]]:
    identity = json.loads(arrays["identity"].tobytes())
    if identity["kind"] != _KIND:
        raise ValueError(f"its kind is {identity['kind']!r}")
    if identity["version"] != VERSION:
        raise MoloError(
            f"{path} is of format version {identity['version']}, and this program reads {VERSION};"
            f" {_REMEDY}"
        )
    outcomes = {}
    # An archive reads an array anew at each access.
    tables = {name: arrays[name] for name in arrays if name.endswith(("_classes", "_videos"))}
    for cell in identity["cells"]:
        way, shot, table = cell["way"], cell["shot"], cell["table"]
        predicted = arrays[f"{way}way_{shot}shot_predicted"]
        outcome = Outcome(
            classes=tables[f"{table}_classes"].astype(np.int32),
            videos=tables[f"{table}_videos"][..., : shot + predicted.shape[2]].astype(np.int32),
            n_shot=shot,
            predicted=predicted.astype(np.int32),
            margins=arrays[f"{way}way_{shot}shot_margins"].astype(np.float32),
        )
        _check(outcome, way, len(identity["header"]["class_sizes"]))
        outcomes[way, shot] = outcome
    return identity["header"], outcomes


def _check(outcome: Outcome, way: int, classes: int) -> None:
    episodes, labels, queries = outcome.predicted.shape
    shapes = {
        "classes": (episodes, way),
        "videos": (episodes, way, outcome.n_shot + queries),
        "margins": (episodes, way, queries),
    }
    for name, shape in shapes.items():
        found = getattr(outcome, name).shape
        if found != shape:
            raise ValueError(f"{name} have shape {found}, expected {shape}")
    if labels != way or outcome.predicted.max() >= way or outcome.classes.max() >= classes:
        raise ValueError("it has labels or classes that do not exist")


def _is_prefix(outcome: Outcome, arrays: Mapping[str, np.ndarray], table: str) -> bool:
    classes, videos = arrays[f"{table}_classes"], arrays[f"{table}_videos"]
    return np.array_equal(classes, outcome.classes) and np.array_equal(
        videos[..., : outcome.videos.shape[2]], outcome.videos
    )


def _small(values: np.ndarray) -> np.ndarray:
    """Returns counts in the smallest type that holds them."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))
