"""The one map between our parameters and the tensors of an official PyTorch checkpoint.

Names are those of the official ``state_dict`` without the prefixes ``head.`` and ``module.``. The
backbone is numbered as a Sequential there: 0 is ``conv1``, 1 is ``bn1``, 4 to 7 are the four
stages. torchvision's ImageNet files name the same tensors ``conv1``, ``bn1``, ``layer1`` to
``layer4``. NumPy only.
"""

import collections
import graphlib
import itertools
import re
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from molo_jax.backbones import BACKBONES
from molo_jax.methods.settings import METHODS, Settings

Path = tuple[str | int, ...]

# Our dotted path of a module, or of a parameter that belongs to none -> the official one; applied
# in order, each at most once.
_MODULES = (
    (r"^backbone\.conv1$", "backbone.0"),
    (r"^backbone\.bn1$", "backbone.1"),
    (r"^backbone\.layer(\d)\.", lambda m: f"backbone.{int(m[1]) + 3}."),
    (r"\.downsample\.conv$", ".downsample.0"),
    (r"\.downsample\.bn$", ".downsample.1"),
    *(rule for method in METHODS.values() for rule in method.official_modules),
)
# torchvision's name -> the official one; applied in order, each at most once.
_TORCHVISION = (
    (r"^conv1\.", "backbone.0."),
    (r"^bn1\.", "backbone.1."),
    (r"^layer(\d)\.", lambda m: f"backbone.{int(m[1]) + 3}."),
)
_COUNTER = "num_batches_tracked"
# The running variance's name among our variables.
_VARIANCE = "var"
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    _COUNTER: _COUNTER,
}
# Official names of parameters that belong to no module.
_BARE = tuple(dict.fromkeys(name for m in METHODS.values() for name in m.official_bare))
# Module of fixed buffers -> what these hold.
_FIXED = dict(pair for m in METHODS.values() for pair in m.official_fixed.items())
# Largest difference of a fixed buffer: sinusoids are below 1, so this is ten float32 roundings.
_FIXED_TOLERANCE = 1e-6


def _merged(orders: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Returns all names in one order that agrees with each of several."""
    sorter = graphlib.TopologicalSorter()
    for order in orders:
        for before, name in itertools.pairwise(order):
            sorter.add(name, before)
    return tuple(sorter.static_order())


# Order of a PyTorch ``state_dict``: a module's own tensors, then its modules as they are made.
_ORDER = (
    *_BARE,
    "backbone",
    *_merged(method.official_order for method in METHODS.values()),
    *("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "downsample"),
    *("weight", "bias", "running_mean", "running_var", _COUNTER),
)

_RANKS = {name: rank for rank, name in enumerate(_ORDER)}
_PREFIX = re.compile(r"(?:module\.|head\.)*")
# ResNets that are no backbones here, for a message: blocks of the four stages, all of them with
# three convolutions.
_LARGER = {(3, 4, 23, 3): "resnet101", (3, 8, 36, 3): "resnet152"}
# How many names a message shows, and how many characters of one.
_SHOWN = 4
_LONGEST = 160


def official_name(path: Path) -> str:
    """The official ``state_dict`` name of the variable at ``path`` in our module tree.

    A variable of a network that has no official code keeps the names of our modules.
    """
    *modules, leaf = (str(part) for part in path)
    if not modules:
        return _renamed(leaf, _MODULES)
    return f"{_renamed('.'.join(modules), _MODULES)}.{_LEAVES.get(leaf, leaf)}"


def _renamed(name: str, rules: tuple) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name, count=1)
    return name


def decays(path: Path) -> bool:
    """Whether L2 weight decay acts on the parameter at ``path``.

    Quirk kept: the rule looks for ``bn`` or ``norm`` in the official name, so batch normalizations
    that are called otherwise there (``backbone.1``, every ``downsample.1``, the decoder's) decay.
    """
    name = official_name(path)
    return "bn" not in name and "norm" not in name


def to_official(path: Path, value: npt.ArrayLike) -> np.ndarray:
    """Transposes our array at ``path`` to PyTorch's layout."""
    return np.asarray(np.transpose(value, _axes(path, np.ndim(value))))


def from_official(path: Path, value: npt.ArrayLike) -> np.ndarray:
    """Transposes an official tensor to our layout of the variable at ``path``."""
    return np.asarray(np.transpose(value, np.argsort(_axes(path, np.ndim(value)))))


def _axes(path: Path, ndim: int) -> tuple[int, ...]:
    """Kernels end in (in, out) here and start with (out, in) there; the rest keeps its order."""
    if path[-1] != "kernel":
        return tuple(range(ndim))
    return (ndim - 1, ndim - 2, *range(ndim - 2))


def export_tensors(
    variables: Mapping[Path, np.ndarray], fixed: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Renames and transposes all variables to an official ``state_dict``, in its order.

    Args:
        variables: path and value of every variable; counters become int64 as PyTorch has them.
        fixed: buffers to add under their official names.
    """
    tensors = dict(fixed or {})
    for path, value in variables.items():
        tensor = to_official(path, np.asarray(value))
        tensors[official_name(path)] = (
            tensor.astype(np.int64) if path[-1] == _COUNTER else np.array(tensor, order="C")
        )
    return {name: tensors[name] for name in sorted(tensors, key=_place)}


def _place(name: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else _RANKS.get(part, 0) for part in name.split("."))


def import_tensors(
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[Path, tuple[int, ...]],
    fixed: Mapping[str, np.ndarray] | None = None,
) -> dict[Path, np.ndarray]:
    """Renames and transposes official tensors to our variables; the map must be total.

    Args:
        tensors: official names without prefixes.
        shapes: path and shape of every variable of the model.
        fixed: buffers that may be present, and what they must hold then.

    Returns:
        The values by path, in the dtypes they have (see :func:`exact_values`).

    Raises:
        ValueError: names the tensors that are missing, left over or of the wrong shape, and fixed
            buffers with other values.
    """
    names = {official_name(path): path for path in shapes}
    fixed = fixed or {}
    given = set(tensors) - set(fixed)
    imported, misshapen = {}, []
    for name in sorted(given & set(names), key=_place):
        path = names[name]
        if np.ndim(tensors[name]) == len(shapes[path]):
            imported[path] = from_official(path, np.asarray(tensors[name]))
        if path not in imported or imported[path].shape != tuple(shapes[path]):
            # Of no size in memory: a file's classifier may have a billion classes.
            wanted = to_official(path, np.broadcast_to(np.bool_(), shapes[path])).shape
            misshapen.append(f"{name} has shape {np.shape(tensors[name])}, expected {wanted}")
    _refuse(
        {
            "missing in the file": sorted(set(names) - given, key=_place),
            "not part of the network": sorted(given - set(names)),
            "of another shape": misshapen,
            "not the buffer that the network computes": _other_buffers(tensors, fixed),
        }
    )
    return imported


def _other_buffers(tensors: Mapping[str, np.ndarray], fixed: Mapping[str, np.ndarray]) -> list[str]:
    wrong = []
    for name in sorted(fixed.keys() & tensors.keys()):
        found, wanted = np.asarray(tensors[name]), fixed[name]
        if found.shape != wanted.shape:
            wrong.append(f"{name} has shape {found.shape}, expected {wanted.shape}")
        elif not np.all(np.abs(found.astype(np.float64) - wanted) <= _FIXED_TOLERANCE):
            held = _FIXED.get(name.split(".")[-2:][0], "buffer")
            wrong.append(f"{name} has other values than the {held}")
    return wrong


def exact_values(variables: Mapping[Path, np.ndarray]) -> dict[Path, np.ndarray]:
    """Turns values into the dtypes of a network without changing any: float32, int32 counters.

    float16 and bfloat16 widen exactly; float64 passes where every value is a float32.

    Raises:
        ValueError: names (officially) what is not finite, would lose digits, is a negative variance
            or no number of the right kind.
    """
    values, problems = {}, {}
    for path, value in variables.items():
        exact, problem = (_counter if path[-1] == _COUNTER else _float32)(np.asarray(value))
        if not problem and path[-1] == _VARIANCE and np.any(exact < 0):
            problem = f"below 0, which no variance is| ({np.sum(exact < 0)} values)"
        values[path] = exact
        if problem:
            what, _, detail = problem.partition("|")
            problems.setdefault(what, []).append(official_name(path) + detail)
    _refuse(problems)
    return values


def _counter(value: np.ndarray) -> tuple[np.ndarray, str]:
    if value.dtype.kind not in "iu":
        return value, f"no whole numbers| ({value.dtype.name})"
    limit = np.iinfo(np.int32).max
    if np.any(value < 0) or np.any(value > limit):
        return value, f"not between 0 and {limit}| ({value})"
    return value.astype(np.int32), ""


def _float32(value: np.ndarray) -> tuple[np.ndarray, str]:
    # NumPy knows bfloat16 from an extension, as a kind of its own.
    if value.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
        return value, f"no floating-point weights| ({value.dtype.name})"
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = value.astype(np.float32)
    finite = np.isfinite(value.astype(np.float64) if value.dtype.name == "bfloat16" else value)
    if not finite.all():
        return narrow, f"not finite (NaN or infinity)| ({finite.size - finite.sum()} values)"
    if value.dtype.name == "float64" and np.any(narrow != value):
        return narrow, "of float64 values that float32 cannot hold|"
    return narrow, ""


def _refuse(problems: Mapping[str, list[str]]) -> None:
    """Raises a ValueError of one line unless all lists are empty."""
    found = [f"{what}: {listed(names)}" for what, names in problems.items() if names]
    if found:
        raise ValueError("; ".join(found))


def listed(names: Iterable[object]) -> str:
    """Joins names for a message: the first few, and how many more there are."""
    shown = [_on_one_line(str(name)) for name in names]
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more


def _on_one_line(name: str) -> str:
    short = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"
    # A name with a line end in it must not break the line of the message.
    return short if short.isprintable() else repr(short)


def without_prefix(tensors: Mapping[str, np.ndarray]) -> tuple[str, dict[str, np.ndarray]]:
    """Takes the prefix ``head.``, ``module.`` or ``module.head.`` off all names.

    Returns:
        The prefix that all names have, and the tensors under their bare names.

    Raises:
        ValueError: if the names have different prefixes.
    """
    prefixes: dict[str, list[str]] = {}
    for name in tensors:
        prefixes.setdefault(_PREFIX.match(name)[0], []).append(name)
    if len(prefixes) > 1:
        groups = [f"{names[0]} ({len(names)} such)" for _, names in sorted(prefixes.items())]
        raise ValueError(f"the names have different prefixes: {listed(groups)}{_twice(tensors)}")
    prefix = next(iter(prefixes), "")
    return prefix, {name.removeprefix(prefix): value for name, value in tensors.items()}


def _twice(tensors: Mapping[str, np.ndarray]) -> str:
    """Says which names would become the same without their prefixes."""
    bare = collections.Counter(_PREFIX.sub("", name, count=1) for name in tensors)
    twice = sorted(name for name, count in bare.items() if count > 1)
    return f"; given twice: {listed(twice)}" if twice else ""


def is_torchvision(tensors: Iterable[str]) -> bool:
    """Whether names are those of a torchvision ResNet, and not those of a whole network."""
    names = list(tensors)
    # HyRSM has a module called layer2, too.
    whole = any(name.startswith("backbone.") for name in names)
    return not whole and any(re.match(r"layer[1-4]\.\d+\.", name) for name in names)


def from_torchvision(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames a torchvision ResNet to official names; drops its ImageNet classifier ``fc``.

    Files from before PyTorch counted batches have no counters; they get zeros.
    """
    renamed = {
        _renamed(name, _TORCHVISION): value
        for name, value in tensors.items()
        if name not in ("fc.weight", "fc.bias")
    }
    if not any(name.endswith(_COUNTER) for name in renamed):
        means = [name for name in renamed if name.endswith("running_mean")]
        zero = np.zeros((), np.int64)
        renamed |= {f"{name.removesuffix('running_mean')}{_COUNTER}": zero for name in means}
    return renamed


def recognize_backbone(names: Iterable[str]) -> str:
    """Returns which ResNet the official names belong to.

    Raises:
        ValueError: if they are of no ResNet that can be a backbone here.
    """
    blocks: dict[int, set[int]] = {stage: set() for stage in (4, 5, 6, 7)}
    bottleneck = False
    for name in names:
        match = re.match(r"backbone\.([4-7])\.(\d+)\.", name)
        if match:
            blocks[int(match[1])].add(int(match[2]))
            bottleneck = bottleneck or ".conv3." in name
    counts = tuple(len(found) for found in blocks.values())
    for info in BACKBONES.values():
        if info.depths == counts and info.bottleneck == bottleneck:
            return info.name
    found = _LARGER.get(counts) if bottleneck else None
    kind = "bottleneck" if bottleneck else "basic"
    numbers = ", ".join(map(str, counts))
    called = f" ({found})" if found else ""
    raise ValueError(
        f"the backbone has {numbers} {kind} blocks{called}; it must be one of"
        f" {', '.join(BACKBONES)}"
    )


def recognize(tensors: Mapping[str, np.ndarray], method: str = "") -> tuple[str, str, int]:
    """Finds out method, backbone and number of training classes from official names and shapes.

    Args:
        tensors: official names without prefixes.
        method: the one that is meant where the names are those of several methods.

    Raises:
        ValueError: if the tensors are not those of a network with a known backbone.
    """
    if not any(name.startswith("backbone.") for name in tensors):
        raise ValueError(
            f"it holds no network of a method: none of its {len(tensors)} tensors is called"
            f" backbone.…; there is {listed(tensors) or 'nothing'}"
        )
    settings = _recognize_method(tensors, method)
    backbone = recognize_backbone(tensors)
    if not settings.classifier:
        return settings.method, backbone, 1
    for name in ("classification_layer.bias", "classification_layer.weight"):
        if np.ndim(tensors.get(name, 0)) > 0 and np.shape(tensors[name])[0] > 0:
            return settings.method, backbone, int(np.shape(tensors[name])[0])
    raise ValueError(
        "the number of classes cannot be found: classification_layer.weight and"
        " classification_layer.bias are missing in the file, or have no rows"
    )


def _recognize_method(tensors: Iterable[str], wanted: str) -> type[Settings]:
    """Returns the method whose modules are most like those of the tensors."""
    parts = {name.split(".")[0] for name in tensors} - {"backbone"}

    def difference(settings: type[Settings]) -> tuple[int, bool]:
        return len(parts ^ set(settings.official_parts)), settings.method != wanted

    return min(METHODS.values(), key=difference)
