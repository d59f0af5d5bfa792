"""Trees as nested plain dictionaries named by their paths, in which form they are stored."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Sharding

from molo_jax.old_checkpoints import former_path


def to_plain(tree: Any) -> dict[str, Any]:
    """Turns any tree into nested dictionaries named by the paths of its leaves."""
    nested: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        _put(nested, names_of(path), leaf)
    return nested


def _put(nested: dict[str, Any], path: Sequence[str], leaf: Any) -> None:
    *parents, name = path
    for parent in parents:
        nested = nested.setdefault(parent, {})
    nested[name] = leaf


def _get(nested: Mapping[str, Any], path: Sequence[str]) -> Any:
    return functools.reduce(lambda tree, name: tree[name], path, nested)


def from_plain(target: Any, plain: Mapping[str, Any]) -> Any:
    """Undoes `to_plain`: returns a tree of the structure of `target` with the leaves of `plain`."""
    paths, structure = jax.tree_util.tree_flatten_with_path(target)
    leaves = [_get(plain, names_of(path)) for path, _ in paths]
    return jax.tree_util.tree_unflatten(structure, leaves)


def named_as(stored: Any, expected: dict[str, Any]) -> dict[str, Any]:
    """Returns the expected tree, with its tensors' former names if the stored tree has those."""
    former: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(expected)[0]:
        _put(former, former_path(names_of(path)), leaf)
    found = shapes_of(stored).keys()
    more = len(found & shapes_of(former).keys()) > len(found & shapes_of(expected).keys())
    return former if more else expected


def in_place_of(expected: dict[str, Any], former: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a tree with former names by the names of the expected tree."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: _get(former, former_path(names_of(path))), expected
    )


def names_of(path: tuple) -> list[str]:
    """Names a leaf; the array inside an nnx variable carries the variable's name."""
    names = [jax.tree_util.keystr((key,), simple=True) for key in path]
    is_variable = len(names) > 1 and path[-1] == jax.tree_util.GetAttrKey("value")
    return names[:-1] if is_variable else names


def without_values(tree: Any, sharding: Sharding) -> Any:
    """Returns shapes, types and places in place of arrays."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def shapes_of(tree: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the leaves by their names."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        "/".join(jax.tree_util.keystr((key,), simple=True) for key in path): tuple(leaf.shape)
        for path, leaf in leaves
    }
