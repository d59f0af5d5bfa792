"""Replays values that were recorded from the official implementation.

    python -m parity_tests.golden FILE.npz … [--backend=jax|torch] [--json=OUT]

Prints the worst relative error of each group, its name and what rounding explains. With
`--precision=float64` the errors are the rounding of the recorded float32 values themselves, by
which the tolerances are set. A gradient in JAX that is outside in float32 may be that of the other
side of a near tie: then float64 decides, see `ties.py`. Exit codes: 0 all errors are inside the
tolerance or explained by near ties, 1 some are not, 2 a file or a flag was refused.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from parity_tests.golden.files import GoldenFile, RefusedError, read

_COLUMNS = (("group", 11), ("error of", 12), ("worst", 9), ("allowed", 9), ("", 3))


def main(argv: Sequence[str] | None = None) -> int:
    """Replays the files named in `argv` and returns the exit code."""
    options = _parser().parse_args(argv)
    if options.json:
        _check_writable(Path(options.json))
    try:
        files = [read(path) for path in options.files]
    except RefusedError as error:
        _refuse(f"refused: {error}")
    try:
        reports = [_report(file, options.backend, options.precision) for file in files]
    except RefusedError as error:
        _refuse(f"refused: {error}")
    faults = [report["file"] for report in reports if report["verdict"] == "fault"]
    if options.json:
        inside = all(report["inside"] for report in reports)
        content = {"inside": inside, "fault": bool(faults), "files": reports}
        try:
            _write_json(Path(options.json), content)
        except OSError as error:
            _refuse(f"--json={options.json} cannot be written: {error.strerror}")
    print(f"\n{len(reports)} file(s) replayed in {options.backend}: {_summary(reports, faults)}")
    return 1 if faults else 0


def _summary(reports: Sequence[dict[str, Any]], faults: Sequence[str]) -> str:
    if faults:
        return f"OUTSIDE the tolerance: {', '.join(faults)}"
    ties = [report["file"] for report in reports if report["verdict"] == "near tie"]
    return f"all inside, but for near ties: {', '.join(ties)}" if ties else "all inside"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m parity_tests.golden",
        description="Replays values that were recorded from the official implementation.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE.npz", help="recorded values")
    parser.add_argument(
        "--backend", choices=("jax", "torch"), default="jax", help="what computes (default: jax)"
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "float64"),
        default="float32",
        help="float64: shows the rounding of what was recorded (default: float32)",
    )
    parser.add_argument("--json", metavar="OUT", help="write all errors to this file")
    return parser


def _report(file: GoldenFile, backend: str, precision: str) -> dict[str, Any]:
    """Replays one file and prints its table."""
    from parity_tests.golden import replay

    case = file.case
    a, b = case.position
    settings = (
        f"{case.method}, {file.kind}, {case.backbone}, {case.way}-way {case.shot}-shot,"
        f" {case.query} queries a class, seed {case.seed}, A={a:g} B={b:g}"
    )
    print(f"\n{file.path}: {settings}, in {backend}, {precision}", flush=True)
    started = time.perf_counter()
    ours = replay.compute(file, backend, double=precision == "float64")
    findings = replay.compare(file, ours, backend)
    seconds = time.perf_counter() - started
    print("  " + "".join(title.ljust(width) for title, width in _COLUMNS) + "name")
    for one in findings:
        cells = (
            one.group,
            one.measure,
            f"{one.error:.1e}",
            f"{one.bound:.0e}",
            "" if one.inside else "!!",
        )
        row = "".join(cell.ljust(width) for cell, (_, width) in zip(cells, _COLUMNS, strict=True))
        print(f"  {row}{one.name}")
    inside = all(one.inside for one in findings)
    print(f"  {'inside' if inside else 'OUTSIDE'} the tolerance; {seconds:.0f} s", flush=True)
    verdict, reason = "inside" if inside else "fault", ""
    if not inside and (backend, precision) == ("jax", "float32"):
        from parity_tests.golden.ties import decide

        print("  near tie or fault? deciding in float64 …", flush=True)
        decision = decide(file, ours)
        verdict, reason = "near tie" if decision.near_tie else "fault", decision.reason
        print(f"  {verdict}: {reason}", flush=True)
    return {
        "file": str(file.path),
        "settings": settings,
        "backend": backend,
        "precision": precision,
        "inside": inside,
        "verdict": verdict,
        "reason": reason,
        "seconds": round(seconds, 1),
        "findings": replay.summary(findings),
    }


def _check_writable(path: Path) -> None:
    """Refuses a result file that could not be written, before minutes of computing."""
    if path.is_dir():
        _refuse(f"--json={path} is a folder; name a file")
    if not path.absolute().parent.is_dir():
        _refuse(f"--json={path}: the folder {path.absolute().parent} does not exist")
    if not os.access(path.absolute().parent, os.W_OK):
        _refuse(f"--json={path}: the folder {path.absolute().parent} cannot be written")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _refuse(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    sys.exit(main())
