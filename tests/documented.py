"""The commands that the documentation names."""

import dataclasses
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
_PROGRAMS = ("python", "python3", "make", "pip", "pytest", "ruff", "molo_jax")
_FENCE = re.compile(r"^(```|~~~).*?\n(.*?)^\1", re.M | re.S)
_INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
# What may stand in front of a program: a prompt, the settings of variables, a folder of programs.
_FRONT = re.compile(r"^(\$ )?(nohup )?([A-Z_]+=\S* )*(\.venv/bin/)?")
# What may stand behind a command: a remark, an ampersand.
_BEHIND = re.compile(r"(\s#\s|\s\s+(?=\S)).*$|\s&$|\s(->|→)\s.*$")


def documents(root: Path = ROOT) -> list[Path]:
    """Every file that tells a user what to type: pages, commands and configurations."""
    pages = [root / "README.md", *root.glob("docs/**/*.md"), *root.glob("parity_tests/**/*.md")]
    folders = ("configs", "molo_jax", "benchmarks", "parity_tests", "parity_tests/golden")
    modules = [path for folder in folders for path in (root / folder).glob("*.py")]
    return sorted([*pages, *modules])


def commands(path: Path) -> list[str]:
    """The commands of a page, or of the docstring of a module, as they stand there."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        docstring = re.match(r'\s*"""(.*?)"""', text, re.S)
        text = docstring[1] if docstring else ""
        blocks = [text]
    else:
        blocks = [block for _, block in _FENCE.findall(text)]
        text = _FENCE.sub("", text)
    lines = [line for block in blocks for line in re.sub(r"\s*\\\n\s*", " ", block).splitlines()]
    inline = [" ".join(span.split()) for span in _INLINE.findall(text)]
    return [found for part in [*lines, *inline] for found in _in_line(part)]


def _in_line(line: str) -> Iterator[str]:
    for part in line.strip().split("&&"):
        command = _BEHIND.sub("", _FRONT.sub("", part.strip())).strip()
        if command.split(" ")[0] in _PROGRAMS and " " in command:
            yield command


@dataclasses.dataclass(frozen=True)
class Shape:
    """A command without the values of its example.

    Attributes:
        program: `molo_jax.prepare`, `benchmarks/data.py`, `make`, `pip`, …
        flags: names of its flags, without dashes.
        values: the values of the flags that decide what is done: `dataset`, `mode`, `backend`,
            `config` (the name of the file). Other values, paths and numbers, are left out.
        keys: keys of the configuration that it changes.
        arguments: what is no flag.
    """

    program: str
    flags: frozenset[str]
    values: tuple[tuple[str, str], ...]
    keys: frozenset[str]
    arguments: tuple[str, ...]


_DECIDE = ("dataset", "mode", "backend", "config")


def shape(command: str) -> Shape:
    """Takes a command apart."""
    words = shlex.split(re.sub(r"[\[\]…](?!\w+\])", " ", command))
    program, *rest = words
    if program in ("python", "python3"):
        takes = 2 if rest[0] == "-m" else 1
        program, rest = rest[takes - 1], rest[takes:]
    given = dict(w.removeprefix("--").partition("=")[::2] for w in rest if w.startswith("--"))
    keys = {name.removeprefix("config.") for name in given if name.startswith("config.")}
    values = {name: Path(given[name]).stem for name in _DECIDE if name in given}
    return Shape(
        program,
        frozenset(name for name in given if not name.startswith("config.")),
        tuple(values.items()),
        frozenset(keys),
        tuple(word for word in rest if not word.startswith("--")),
    )
