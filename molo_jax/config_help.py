"""The help of `--list_keys`: the keys of a configuration with their values and their meaning.

The meaning is the comment that stands above a key, or above a group of keys, in `config.py`; for a
method's own settings in `methods/settings.py`.
"""

import ast
import dataclasses
import inspect
import shlex
import textwrap
from collections.abc import Iterator

from ml_collections import ConfigDict

from molo_jax import config as definitions
from molo_jax.config import value_of
from molo_jax.methods.settings import DEFAULT_METHOD, own_fields, settings_class

# Stands for the settings of a method among the keys.
_OF_METHOD = "**"


@dataclasses.dataclass(frozen=True)
class Group:
    """Keys that one comment describes.

    Attributes:
        meaning: the comment.
        names: dotted names of the keys.
    """

    meaning: str
    names: tuple[str, ...]


def documented_keys(method: str = DEFAULT_METHOD) -> list[Group]:
    """Returns all keys of `base_config(method)` with their comments, in their order."""
    groups: list[tuple[str, list[str]]] = []
    for name, comment in _keys_of_config(method):
        if comment or not groups:
            groups.append((comment, []))
        groups[-1][1].append(name)
    return [Group(comment, tuple(names)) for comment, names in groups]


def _keys_of_config(method: str) -> Iterator[tuple[str, str]]:
    """Yields the dotted name of every key, and the comment above it or nothing."""
    source = inspect.getsource(definitions)
    lines, tree = source.splitlines(), ast.parse(source)
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for name, line in _keys(functions, "base_config", ""):
        if name.endswith(_OF_METHOD):
            section = name.removesuffix(_OF_METHOD)
            yield from ((f"{section}{field}", text) for field, text in _settings(method))
        else:
            yield name, _comment_above(lines, line)


def _keys(
    functions: dict[str, ast.FunctionDef], function: str, prefix: str
) -> Iterator[tuple[str, int]]:
    """Yields the dotted names of the keys of the dictionary in a function, and their lines.

    A value that is a call of another function of the file is a section. Where another dictionary
    is unpacked into one, the settings of the method, the name ends in `_OF_METHOD`.
    """
    dictionary = next(n for n in ast.walk(functions[function]) if isinstance(n, ast.Dict))
    for key, value in zip(dictionary.keys, dictionary.values, strict=True):
        if key is None:
            yield f"{prefix}{_OF_METHOD}", value.lineno
            continue
        name = f"{prefix}{key.value}"
        if isinstance(value, ast.Call) and value.func.id in functions:
            yield from _keys(functions, value.func.id, f"{name}.")
        else:
            yield name, key.lineno


def _settings(method: str) -> Iterator[tuple[str, str]]:
    """Yields the settings that a method has for itself, and the comment above each or nothing."""
    known, comments = settings_class(method), {}
    for owner in reversed(known.__mro__[:-1]):
        lines = textwrap.dedent(inspect.getsource(owner)).splitlines()
        (definition,) = ast.parse("\n".join(lines)).body
        for node in definition.body:
            if isinstance(node, ast.AnnAssign):
                comments[node.target.id] = _comment_above(lines, node.lineno)
    for field in own_fields(known):
        yield field, comments[field]


def _comment_above(lines: list[str], line: int) -> str:
    """Returns the comment that ends right above a line, which is counted from 1; else nothing."""
    words: list[str] = []
    for text in reversed(lines[: line - 1]):
        if not text.strip().startswith("#"):
            break
        words.insert(0, text.strip().removeprefix("#").strip())
    return " ".join(words)


def help_of_keys(config: ConfigDict) -> str:
    """Formats every key as the flag that sets it, with its value in `config` and its meaning."""
    blocks = []
    for group in documented_keys(config.method.name):
        flags = [flag for name in group.names for flag in _flags(name, value_of(config, name))]
        blocks.append("\n".join([*flags, *_wrapped(group.meaning)]))
    return "\n\n".join(blocks)


def _flags(name: str, value: object) -> list[str]:
    """Writes a value as it is given on the command line; a tuple repeats its flag."""
    if isinstance(value, tuple | list) and value:
        return [" ".join(flag for item in value for flag in _flags(name, item))]
    shown = "" if value == () else str(value).lower() if isinstance(value, bool) else str(value)
    return [f"--config.{name}={shlex.quote(shown) if shown else ''}"]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 96, initial_indent="    ", subsequent_indent="    ")
