"""The one map between our parameters and the tensors of an official PyTorch checkpoint.

Names are those of the official ``state_dict`` without the prefixes ``head.`` and ``module.``. The
backbone is numbered as a Sequential there: 0 is ``conv1``, 1 is ``bn1``, 4 to 7 are the four
stages. NumPy only.
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

Path = tuple[str | int, ...]

# Our dotted module path -> the official one; applied in order, each at most once.
_MODULES = (
    (r"^backbone\.conv1$", "backbone.0"),
    (r"^backbone\.bn1$", "backbone.1"),
    (r"^backbone\.layer(\d)\.", lambda m: f"backbone.{int(m[1]) + 3}."),
    (r"\.downsample\.conv$", ".downsample.0"),
    (r"\.downsample\.bn$", ".downsample.1"),
    (r"^(temporal_atte_before(?:_motion)?)\.attention\.norm$", r"\1.layers.0.0.norm"),
    (r"^(temporal_atte_before(?:_motion)?)\.attention\.to_qkv$", r"\1.layers.0.0.fn.to_qkv"),
    (r"^(temporal_atte_before(?:_motion)?)\.attention\.to_out$", r"\1.layers.0.0.fn.to_out.0"),
    (r"^(temporal_atte_before(?:_motion)?)\.feedforward\.linear1$", r"\1.layers.0.1.net.0"),
    (r"^(temporal_atte_before(?:_motion)?)\.feedforward\.linear2$", r"\1.layers.0.1.net.3"),
    (r"^(up\d)\.conv$", r"\1.conv.double_conv.0"),
    (r"^(up\d)\.bn$", r"\1.conv.double_conv.1"),
    (r"^outc$", "outc.conv"),
)
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "num_batches_tracked": "num_batches_tracked",
}
# Parameters that belong to no layer and keep their names.
_BARE = ("scale", "scale_motion", "class_token", "class_token_motion")


def official_name(path: Path) -> str:
    """The official ``state_dict`` name of the variable at ``path`` in our module tree.

    Raises:
        KeyError: if no official tensor corresponds to the path.
    """
    *modules, leaf = (str(part) for part in path)
    if not modules and leaf in _BARE:
        return leaf
    name = ".".join(modules)
    for pattern, replacement in _MODULES:
        name = re.sub(pattern, replacement, name, count=1)
    return f"{name}.{_LEAVES[leaf]}"


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


def export_tensors(variables: Mapping[Path, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames and transposes all variables to an official ``state_dict`` (without ``pe.pe``)."""
    return {official_name(p): to_official(p, np.asarray(v)) for p, v in variables.items()}


def import_tensors(
    tensors: Mapping[str, np.ndarray], shapes: Mapping[Path, tuple[int, ...]]
) -> dict[Path, np.ndarray]:
    """Renames and transposes official tensors to our variables; the map must be total.

    Args:
        tensors: official names without prefixes; the fixed buffer ``pe.pe`` may be present.
        shapes: path and shape of every variable of the model.

    Raises:
        ValueError: names every tensor that is missing, left over or of the wrong shape.
    """
    names = {official_name(path): path for path in shapes}
    given = set(tensors) - {"pe.pe"}
    problems = _listed("missing", set(names) - given) + _listed("unexpected", given - set(names))
    imported = {}
    for name in sorted(given & set(names)):
        path = names[name]
        if np.ndim(tensors[name]) == len(shapes[path]):
            imported[path] = from_official(path, np.asarray(tensors[name]))
        if path not in imported or imported[path].shape != tuple(shapes[path]):
            wanted = to_official(path, np.empty(shapes[path], np.bool_)).shape
            problems.append(f"{name} has shape {np.shape(tensors[name])}, expected {wanted}")
    if problems:
        raise ValueError("the tensors do not fit the model: " + "; ".join(problems))
    return imported


def _listed(what: str, names: Iterable[str]) -> list[str]:
    return [f"{what} {', '.join(sorted(names))}"] if names else []
