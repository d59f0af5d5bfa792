"""Reads a file of recorded values; one that lacks fields or has unknown ones is refused.

The file is an .npz. `meta` is JSON: the settings and losses. A file without `meta.method` is one of
MoLo, with clips of 8 frames and 224 pixels, and has no losses if its kind is `eval`. Arrays:

out/<name>              eval, train   a whole output
stage/<module>/<call>   eval, train   probe of a module's output
stats/<buffer>          eval          running statistics to load, whole
grad/<parameter>        train         probe of the gradient of the total loss
param/<parameter>       steps         probe of the parameter after the last step
stat/<buffer>           train, steps  probe of the running statistics afterwards

A probe is the norm of an array and its product with a random direction (`recipe.probe`).
"""

import dataclasses
import json
import numbers
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from molo_torch_ref import Coefficients
from molo_torch_ref.resnet import BACKBONES
from parity_tests.case import DEFAULT_POSITION, MAX_SEED, Case
from parity_tests.methods import METHODS, Method, is_fixed

_COMMON = ("kind", "backbone", "way", "shot", "query", "seed", "num_class", "position")
_META = {
    "eval": _COMMON,
    "train": (*_COMMON, "coef", "losses", "total"),
    "steps": (
        *_COMMON,
        "coef",
        "steps",
        "accum",
        "lrs",
        "weight_decay",
        "no_decay",
        "history",
    ),
}
KINDS = tuple(_META)
# Fields more of a file that names its method; those of `eval` and `train` have losses, too.
_NAMED = ("method", "multi_shot", "frames", "size", "scaled", "coef")
_LOSSES = ("losses", "total")
_TEMPORAL = ("window", "balance", "coefficient")
_STRIDE = 32
# What reading a damaged archive can raise beside the usual.
_DAMAGED = (zipfile.BadZipFile, zlib.error, NotImplementedError)


class RefusedError(Exception):
    """The file is not one of recorded values, lacks fields, or has unknown ones."""


@dataclasses.dataclass(frozen=True)
class GoldenFile:
    """A file of recorded values.

    Attributes:
        path: where it is.
        kind: `eval`, `train` or `steps`.
        case: the settings of the recorded computation.
        meta: the file's JSON.
        arrays: group (`out`, `stage`, …) -> name -> array.
    """

    path: Path
    kind: str
    case: Case
    meta: dict[str, Any]
    arrays: dict[str, dict[str, np.ndarray]]


def read(path: str | Path) -> GoldenFile:
    """Reads and checks a file.

    Raises:
        RefusedError: naming the file, the field and what is wrong with it.
    """
    path = Path(path)
    try:
        meta, arrays = _load(path)
        _check_meta(meta)
        case = _case(meta)
        _check_arrays(meta, case, arrays)
    except RefusedError as error:
        raise RefusedError(f"{path}: {error}") from None
    return GoldenFile(path, meta["kind"], case, meta, arrays)


def _load(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    if not path.is_file():
        raise RefusedError("there is no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            stored = {name: file[name] for name in file.files}
    # A single array (.npy) is returned as such, and cannot be opened: a TypeError.
    except (ValueError, TypeError, OSError, EOFError, KeyError, *_DAMAGED) as error:
        raise RefusedError(f"this is no readable .npz file ({error})") from None
    if "meta" not in stored:
        raise RefusedError("the field meta is missing")
    try:
        meta = json.loads(str(stored.pop("meta")))
    except (json.JSONDecodeError, RecursionError) as error:
        raise RefusedError(f"meta is no JSON ({error})") from None
    if not isinstance(meta, dict):
        raise RefusedError(f"meta is {type(meta).__name__}, expected an object")
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for name, array in stored.items():
        group, _, rest = name.partition("/")
        # Constants that are parameters by name alone.
        if not is_fixed(rest):
            arrays.setdefault(group, {})[rest] = array
    return meta, arrays


def _check_meta(meta: Mapping[str, Any]) -> None:
    kind = meta.get("kind")
    if kind not in KINDS:
        raise RefusedError(f"meta.kind is {kind!r}; expected one of {', '.join(KINDS)}")
    _check_names("meta", meta, _fields(meta))
    method = METHODS[meta.get("method", "molo")]
    if not isinstance(meta["backbone"], str) or meta["backbone"] not in BACKBONES:
        known = ", ".join(BACKBONES)
        raise RefusedError(f"meta.backbone is {meta['backbone']!r}; expected one of {known}")
    for name, least in (("way", 2), ("shot", 1), ("query", 1), ("seed", 0), ("num_class", 2)):
        _check_count(f"meta.{name}", meta[name], least)
    _check_seed(meta)
    if meta["num_class"] < meta["way"]:
        raise RefusedError(f"meta.num_class is {meta['num_class']}, less than way, {meta['way']}")
    if "method" in meta:
        _check_named(meta)
    if "losses" in meta:
        _check_losses("meta.losses", meta["losses"], method.losses)
        _check_number("meta.total", meta["total"])
    if "coef" in meta:
        _check_losses("meta.coef", meta["coef"], method.coefficients)
    if kind == "steps":
        _check_steps(meta, method)


def _fields(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the fields that a file of this kind and method has."""
    fields = _META[meta["kind"]]
    if "method" not in meta:
        return fields
    name = meta["method"]
    if not isinstance(name, str) or name not in METHODS:
        raise RefusedError(f"meta.method is {name!r}; expected one of {', '.join(METHODS)}")
    temporal = ("temporal",) if "temporal" in METHODS[name].coefficients else ()
    losses = () if meta["kind"] == "steps" else _LOSSES
    return (*dict.fromkeys((*fields, *_NAMED, *losses, *temporal)),)


def _check_named(meta: Mapping[str, Any]) -> None:
    """Checks the fields of a file that names its method."""
    _check_count("meta.multi_shot", meta["multi_shot"], 0)
    _check_count("meta.frames", meta["frames"], 2)
    _check_count("meta.size", meta["size"], _STRIDE)
    if meta["size"] % _STRIDE:
        raise RefusedError(f"meta.size is {meta['size']}; expected a multiple of {_STRIDE}")
    if not isinstance(meta["scaled"], dict):
        raise RefusedError("meta.scaled is no object from names to factors")
    for name, factor in meta["scaled"].items():
        _check_number(f"meta.scaled {name}", factor)
    if "temporal" in meta:
        _check_losses("meta.temporal", meta["temporal"], _TEMPORAL)
        if meta["temporal"]["balance"] <= 0:
            raise RefusedError("meta.temporal.balance is not above 0")


def _check_seed(meta: Mapping[str, Any]) -> None:
    """Episodes count up from the seed, and NumPy's generator takes numbers of 32 bits."""
    if meta["seed"] > MAX_SEED:
        raise RefusedError(f"meta.seed is {meta['seed']}; expected at most {MAX_SEED}")


def _check_steps(meta: Mapping[str, Any], method: Method) -> None:
    _check_count("meta.steps", meta["steps"], 1)
    _check_count("meta.accum", meta["accum"], 1)
    _check_number("meta.weight_decay", meta["weight_decay"])
    _check_list("meta.lrs", meta["lrs"], meta["steps"])
    for number, rate in enumerate(meta["lrs"]):
        _check_number(f"meta.lrs[{number}]", rate)
    if not isinstance(meta["no_decay"], list):
        raise RefusedError("meta.no_decay is no list of names")
    _check_list("meta.history", meta["history"], meta["steps"] * meta["accum"])
    for number, entry in enumerate(meta["history"]):
        _check_losses(f"meta.history[{number}]", entry, (*method.losses, "total"))


def _check_losses(where: str, values: Any, expected: Sequence[str] | Mapping[str, str]) -> None:
    if not isinstance(values, dict):
        raise RefusedError(f"{where} is {type(values).__name__}, expected an object")
    _check_names(where, values, tuple(expected))
    for name, value in values.items():
        _check_number(f"{where}.{name}", value)


def _check_list(where: str, values: Any, length: int) -> None:
    if not isinstance(values, list) or len(values) != length:
        size = f"{len(values)} entries" if isinstance(values, list) else type(values).__name__
        raise RefusedError(f"{where} has {size}, expected a list of {length}")


def _check_count(where: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise RefusedError(f"{where} is {value!r}; expected a whole number of at least {least}")


def _check_number(where: str, value: Any) -> None:
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    # A whole number can be larger than any float.
    if not real or not abs(value) <= sys.float_info.max:
        raise RefusedError(f"{where} is {repr(value)[:40]}; expected a finite number")


def _check_names(
    where: str, given: Mapping[str, Any], expected: Sequence[str], optional: Sequence[str] = ()
) -> None:
    missing = set(expected) - set(given) - set(optional)
    unknown = set(given) - set(expected) - set(optional)
    problems = []
    for what, names in (("lacks", missing), ("has unknown", unknown)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            problems.append(f"{what} {', '.join(sorted(names)[:3])}{more}")
    if problems:
        raise RefusedError(f"{where} {'; '.join(problems)}")


def _case(meta: Mapping[str, Any]) -> Case:
    name = meta.get("method", "molo")
    fields = METHODS[name].coefficients
    coefficients = {fields[recorded]: value for recorded, value in meta.get("coef", {}).items()}
    shape = {field: meta[field] for field in ("frames", "size") if field in meta}
    case = Case(
        method=name,
        backbone=meta["backbone"],
        way=meta["way"],
        shot=meta["shot"],
        query=meta["query"],
        seed=meta["seed"],
        num_classes=meta["num_class"],
        position=_position(meta["position"]),
        coefficients=Coefficients(**coefficients),
        accumulation=meta.get("accum", 1),
        options=_options(name, meta),
        scaled=tuple(meta.get("scaled", {}).items()),
        **shape,
    )
    _check_names("meta.scaled", dict(case.scaled), (), tuple(case.shapes()))
    return case


def _options(name: str, meta: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Returns the settings that only some methods have."""
    options: dict[str, Any] = {}
    if name in ("hyrsm", "hyrsm_pp"):
        options["prototypes_first"] = bool(meta["multi_shot"])
    if name == "hyrsm_pp":
        temporal = meta["temporal"]
        options["window"], options["balance"] = temporal["window"], temporal["balance"]
        options["apart_weight"] = temporal["coefficient"]
    return tuple(options.items())


def _position(value: Any) -> tuple[float, float]:
    """A and B of the positional encoding: null, a pair, or an object with two such keys."""
    if value is None:
        return DEFAULT_POSITION
    pair = value
    if isinstance(value, dict) and len(value) == 2:
        # A, POSITION_A, A_scale, …: the letter is what tells the two apart.
        by_letter = {
            letter: number
            for name, number in value.items()
            for letter in name.lower().replace("position", "").replace("scale", "").split("_")
            if letter in ("a", "b")
        }
        pair = [by_letter.get("a"), by_letter.get("b")]
    if not isinstance(pair, list) or len(pair) != 2:
        raise RefusedError(f"meta.position is {value!r}; expected null or the pair [A, B]")
    for name, number in zip("AB", pair, strict=True):
        _check_number(f"meta.position {name}", number)
    if pair[0] <= 0:
        raise RefusedError(f"meta.position A is {pair[0]!r}; expected a number above 0")
    return float(pair[0]), float(pair[1])


def _check_arrays(
    meta: Mapping[str, Any], case: Case, arrays: Mapping[str, Mapping[str, np.ndarray]]
) -> None:
    expected = _expected(meta["kind"], case)
    _check_names("the file", arrays, tuple(expected))
    for group, shapes in expected.items():
        # No loss moves these, so whether they were recorded says nothing.
        unused = tuple(name for name in shapes if name.endswith(case.names.unused or ("/",)))
        _check_names(f"{group}/", arrays[group], tuple(shapes), unused)
        for name, array in arrays[group].items():
            shape = shapes[name]
            if array.shape != shape:
                raise RefusedError(f"{group}/{name} has shape {array.shape}, expected {shape}")
            if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
                raise RefusedError(f"{group}/{name} holds values that are no finite numbers")


def _expected(kind: str, case: Case) -> dict[str, dict[str, tuple[int, ...]]]:
    """Returns the shapes of the arrays of each group that a file of this kind has."""
    shapes = case.shapes()
    buffers = {n: s for n, s in shapes.items() if n.endswith(("running_mean", "running_var"))}
    parameters = dict.fromkeys(n for n in shapes if "running_" not in n and "num_batches" not in n)
    queries = case.way * case.query
    clips = queries + case.way * case.shot
    method = case.names
    outputs = dict.fromkeys(method.outputs, (queries, case.way))
    if method.class_rows:
        rows = clips * (case.frames if method.class_rows == "frame" else 1)
        outputs["class_logits"] = (rows, case.num_classes)
    stages = [
        f"{module}/{call}"
        for module, calls in method.stages.items()
        if module not in method.unrecorded
        for call in range(calls)
    ]
    probes = {"stage": stages, "grad": parameters, "param": parameters, "stat": buffers}
    groups = {group: dict.fromkeys(names, (2,)) for group, names in probes.items()}
    groups |= {"out": outputs, "stats": buffers}
    present = {
        "eval": ("stats", "out", "stage"),
        "train": ("out", "stage", "grad", "stat"),
        "steps": ("param", "stat"),
    }
    return {group: groups[group] for group in present[kind]}
