"""The commands that the documentation names."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# A command begins with one of these words, after `$ ` or variables.
_PROGRAMS = ("python", "python3", "make", "pip", ".venv/bin/python")
_FENCE = re.compile(r"^(```|~~~).*?\n(.*?)^\1", re.M | re.S)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
# What stands for the values of flags, and for arguments that are files.
_VALUE = "VALUE"


def documents() -> list[Path]:
    """Every file that tells a user what to type."""
    markdown = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")]
    code = [*ROOT.glob("configs/*.py"), *ROOT.glob("molo_jax/*.py"), *ROOT.glob("benchmarks/*.py")]
    return sorted({*markdown, *ROOT.glob("*/*/README.md"), *code, *ROOT.glob("parity_tests/*.py")})


def commands(path: Path) -> Iterator[str]:
    """Yields the commands of a document, or of the docstrings of a module, as they stand there."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        docstring = re.match(r'\s*"""(.*?)"""', text, re.S)
        text = docstring[1] if docstring else ""
        lines = text.splitlines()
    else:
        lines = [line for _, block in _FENCE.findall(text) for line in _joined(block).splitlines()]
        text = _FENCE.sub("", text)
    for part in [*lines, *_INLINE.findall(text)]:
        for command in part.split("&&"):
            command = re.sub(r"^\$ ", "", command.strip())
            command = re.sub(r"\s\s+(?=\S).*$|\s#\s.*$|\s…$", "", command)
            if command.split(" ")[0] in _PROGRAMS and len(command.split(" ")) > 1:
                yield command


def _joined(block: str) -> str:
    """Lines that a backslash continues become one."""
    return re.sub(r"\\\n\s*", "", block)


def shape(command: str) -> str:
    """The command without its values, so that it stays the same when an example changes."""
    words = [word for word in shlex.split(command.replace("…", "")) if word not in ("[", "]")]
    return " ".join(map(_shape_of_word, words))


def _shape_of_word(word):
    return word
