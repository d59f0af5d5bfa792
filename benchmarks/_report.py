"""Rates, utilization and tables of what was measured."""

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

FRAMEWORKS = ("jax", "torch")
NAMES = {"jax": "JAX", "torch": "PyTorch"}
# Dense peak rates in TFLOP/s, by a pattern for the name of the device: float32 without tensor
# cores, TF32 and bf16 with them and sums in float32. From NVIDIA's data sheets of H100, H200, A100
# and L4 (theirs with sparsity are twice as high), and from the tables of peak rates in the white
# papers of the architectures GA102 (RTX 3090) and Ada (RTX 4090).
PEAKS = {
    r"H200(?! NVL)|H100.*HBM3(?! NVL)": {"float32": 67.0, "tf32": 494.5, "bf16": 989.0},
    r"H100 PCIe": {"float32": 51.0, "tf32": 378.0, "bf16": 756.0},
    r"A100": {"float32": 19.5, "tf32": 156.0, "bf16": 312.0},
    r"\bL4\b": {"float32": 30.3, "tf32": 60.0, "bf16": 121.0},
    r"RTX 4090(?! D)": {"float32": 82.6, "tf32": 82.6, "bf16": 165.2},
    r"RTX 3090(?! Ti)": {"float32": 35.6, "tf32": 35.6, "bf16": 71.0},
}
_ABSENT = "-"


def peak_rate(device: str, platform: str, precision: str) -> float | None:
    """Operations a second that a known accelerator does at most; None for any other device."""
    known = [rates for name, rates in PEAKS.items() if re.search(name, device)]
    return known[0][precision] * 1e12 if known and platform == "gpu" else None


def utilization(operations: float, episodes_per_second: float, peak: float | None) -> float | None:
    """The part of the peak rate that the operations of the network take.

    Args:
        operations: of one episode, without those of a recomputation.
        episodes_per_second: how fast they are done.
        peak: operations a second at most; None where that is not known.
    """
    return operations * episodes_per_second / peak if peak else None


def rates(
    seconds: Mapping[str, Sequence[float]], operations: int, peaks: Mapping[str, float | None]
) -> dict[str, Any]:
    """Rates and utilizations from the seconds an episode of each counted step, and the ratio."""
    found: dict[str, Any] = {}
    for name, each in seconds.items():
        rate = 1 / statistics.median(each)
        found[name] = {
            "seconds_per_episode": list(each),
            "episodes_per_second": rate,
            "tflops": operations * rate / 1e12,
            "utilization": utilization(operations, rate, peaks[name]),
        }
    if len(seconds) == 2:
        pairs = [t / j for j, t in zip(seconds["jax"], seconds["torch"], strict=True)]
        ours, theirs = (found[name]["episodes_per_second"] for name in FRAMEWORKS)
        found["ratio"], found["ratio_range"] = ours / theirs, [min(pairs), max(pairs)]
    return found


def table(phase: str, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """The rows that have measured a phase, "training" (with peak memory) or "evaluation".

    Args:
        phase: what was measured.
        rows: what was measured of each variant.
        names: the frameworks that were measured.
    """
    both, with_memory = len(names) == 2, phase == "training"
    head = [f"variant of {NAMES[name]}" for name in names]
    head += [f"{NAMES[name]}, episodes/s" for name in names]
    head += ["ratio", "step by step"] * both
    head += [f"{NAMES[name]}, peak MiB" for name in names] * with_memory
    head += [f"{NAMES[name]}, utilization" for name in names]
    lines = [head]
    for row in rows:
        if phase not in row:
            continue
        found = row[phase]
        cells = [row["variant"][name] for name in names]
        cells += [f"{found[name]['episodes_per_second']:.4g}" for name in names]
        if both:
            low, high = found["ratio_range"]
            cells += [f"{found['ratio']:.3g}", f"{low:.3g} to {high:.3g}"]
        if with_memory:
            cells += [f"{row['peak_memory'][name]['bytes'] / 2**20:.0f}" for name in names]
        cells += [_percent(found[name]["utilization"]) for name in names]
        lines.append(cells)
    return aligned(lines, left=len(names))


def end_to_end_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the input pipeline leaves of the speed of each variant."""
    lines = [
        ["variant of JAX", "on arrays, episodes/s", "with the pipeline", "ratio", "waited for data"]
    ]
    for row in rows:
        found = row["end_to_end"]
        numbers = [f"{found[name]:.4g}" for name in ("arrays", "pipeline")]
        ratio, waited = f"{found['ratio']:.3g}", _percent(found["waited"])
        lines.append([row["variant"]["jax"], *numbers, ratio, waited])
    return aligned(lines, left=1)


def _percent(part: float | None) -> str:
    return _ABSENT if part is None else f"{100 * part:.1f} %"


def aligned(rows: Sequence[Sequence[str]], left: int) -> str:
    """Aligns columns: so many to the left, the others to the right; two spaces between them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
