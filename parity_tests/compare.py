"""Compares both implementations on one episode, in float64 and in float32, and makes a table.

    python -m parity_tests.compare                              all backbones, drawn weights
    python -m parity_tests.compare --checkpoint=FILE            one's own weights
    python -m parity_tests.compare --write=docs/parity.md       and replace the table in a file

Every stage, loss, gradient and statistic is compared. Columns: the worst error of JAX against
PyTorch in float64; the same in float32; and, to judge that by, PyTorch in float32 against itself
in float64. Exit codes: 0 all float64 errors are inside the bounds of `tolerances.py`, 1 some are
not, 2 a flag is wrong.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from molo_jax.errors import MoloError, UsageError

if TYPE_CHECKING:
    from parity_tests.case import Case, Tensors
    from parity_tests.recording import Difference, Recording

BACKBONES = ("resnet18", "resnet34", "resnet50")
MODES = ("eval", "train")
# As `case.MAX_SEED`, whose module takes seconds to import.
_MAX_SEED = 2_000_000
_BEGIN, _END = "<!-- parity table: begin -->", "<!-- parity table: end -->"
_COLUMNS = ("JAX − PyTorch, float64", "JAX − PyTorch, float32", "rounding of PyTorch's float32")


@dataclasses.dataclass(frozen=True)
class Row:
    """The worst errors of one group of quantities: three numbers, and where the first one is."""

    backbone: str
    mode: str
    group: str
    count: int
    double: "Difference"
    single: "Difference"
    rounding: "Difference"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        return _run(options)
    except MoloError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m parity_tests.compare",
        description="Compares JAX and PyTorch stage by stage, in float64 and float32.",
    )
    parser.add_argument("--checkpoint", help="weights: whatever molo_jax.convert reads")
    parser.add_argument("--backbone", choices=BACKBONES, action="append", help="default: all")
    parser.add_argument("--mode", choices=MODES, action="append", help="default: both")
    parser.add_argument("--size", type=int, default=64, help="crop, a multiple of 32 (default 64)")
    parser.add_argument("--frames", type=int, default=3, help="frames of a clip, 2 to 19")
    parser.add_argument("--way", type=int, default=2, help="classes of the episode")
    parser.add_argument("--seed", type=int, default=3, help="of the episode")
    parser.add_argument("--write", metavar="FILE", help="replace the table between its two marks")
    return parser


def _run(options: argparse.Namespace) -> int:
    _check(options)
    rows = []
    for case, tensors in _cases(options):
        for mode in options.mode or MODES:
            print(f"{case.backbone}, {mode} …", file=sys.stderr, flush=True)
            for row in rows_of(case, tensors, mode):
                rows.append(row)
                print(_line(row), flush=True)
    outside = [row for row in rows if not row.double.inside]
    if options.write and not outside:
        _write(Path(options.write), table(rows))
    for row in outside:
        print(
            f"OUTSIDE: {row.backbone}, {row.mode}, {row.double.name}: {row.double.error:.1e} in"
            f" float64, allowed {row.double.bound:.0e}"
        )
    return 1 if outside else 0


def _check(options: argparse.Namespace) -> None:
    if options.size < 32 or options.size % 32:
        raise UsageError(f"--size is {options.size}; expected a multiple of 32")
    if not 2 <= options.frames <= 19:
        raise UsageError(f"--frames is {options.frames}; expected 2 to 19")
    if options.way < 2:
        raise UsageError(f"--way is {options.way}; expected at least 2")
    if not 0 <= options.seed <= _MAX_SEED:
        raise UsageError(f"--seed is {options.seed}; expected 0 to {_MAX_SEED}")
    if options.checkpoint and options.backbone:
        raise UsageError("--backbone is found in the --checkpoint; give one of the two")
    if options.write:
        _marks(Path(options.write))


def _cases(options: argparse.Namespace) -> Iterator[tuple["Case", "Tensors"]]:
    from parity_tests.case import Case

    settings = {"way": options.way, "seed": options.seed}
    settings |= {"size": options.size, "frames": options.frames}
    if options.checkpoint:
        from molo_jax.weights.networks import load_weights
        from molo_jax.weights.torch_map import export_tensors

        weights = load_weights(options.checkpoint)
        found = weights.settings
        if found.method != "molo":
            raise UsageError(f"--checkpoint holds {found.title}; this command compares MoLo")
        case = Case(backbone=found.backbone, num_classes=found.num_classes, **settings)
        if case.num_classes < case.way:
            raise UsageError(f"--way is {case.way}, the checkpoint has {case.num_classes} classes")
        yield case, case.weights(export_tensors(weights.variables))
        return
    for backbone in options.backbone or BACKBONES:
        case = Case(backbone=backbone, **settings)
        yield case, case.weights()


def rows_of(case: "Case", tensors: "Tensors", mode: str) -> list[Row]:
    """Computes an episode in both implementations and both precisions.

    Args:
        case: the settings.
        tensors: the weights, by official names.
        mode: `eval`, or `train` with gradients.

    Returns:
        One row for each group of quantities.
    """
    from parity_tests import jax_backend, torch_backend
    from parity_tests.recording import compare, worst
    from parity_tests.tolerances import DOUBLE

    episode = case.episode()

    def run(backend, double: bool, **options) -> "Recording":
        if mode == "train":
            return backend.gradients(case, tensors, episode, double=double, **options)
        return backend.forward(case, tensors, episode, train=False, double=double, **options)

    exact, rounded = run(torch_backend, True), run(torch_backend, False)
    double = worst(compare(run(jax_backend, True, quick=True), exact, DOUBLE))
    single = worst(compare(run(jax_backend, False, quick=True), rounded, DOUBLE))
    rounding = worst(compare(rounded, exact, DOUBLE))
    return [
        Row(case.backbone, mode, group, len(exact[group]), double[group], single[group], one)
        for group, one in rounding.items()
    ]


def _line(row: Row) -> str:
    errors = (row.double, row.single, row.rounding)
    cells = "  ".join(f"{one.error:.1e} {one.name:42.42s}" for one in errors)
    return f"  {row.group:11s}{row.count:4d}  {cells}".rstrip()


def table(rows: Sequence[Row]) -> str:
    """Formats the rows as a table in Markdown."""
    lines = [f"| | compared | {' | '.join(_COLUMNS)} |", "|---|---|---|---|---|"]
    for row in rows:
        name = row.backbone.replace("resnet", "ResNet-")
        errors = (row.double.error, row.single.error, row.rounding.error)
        cells = " | ".join(f"{error:.0e}" for error in errors)
        lines.append(f"| {name}, {row.mode}: {row.group} | {row.count} | {cells} |")
    return "\n".join(lines)


def _marks(path: Path) -> tuple[str, int, int]:
    """Returns the text of a file and where the table in it begins and ends."""
    if not path.is_file():
        raise UsageError(f"--write={path}: there is no such file")
    text = path.read_text(encoding="utf-8")
    begin, end = text.find(_BEGIN), text.find(_END)
    if begin < 0 or end < begin:
        raise UsageError(f"--write={path}: the marks {_BEGIN} and {_END} are not in the file")
    return text, begin + len(_BEGIN), end


def _write(path: Path, content: str) -> None:
    text, begin, end = _marks(path)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(f"{text[:begin]}\n{content}\n{text[end:]}", encoding="utf-8")
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main())
