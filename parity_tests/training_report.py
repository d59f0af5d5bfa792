"""What a comparison of trainings leaves behind: `curves.png`, `result.json` and a few lines."""

import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from parity_tests.training_checks import (
    DOUBLE_LOSS,
    DOUBLE_RUNS,
    JAX,
    JAX_DOUBLE,
    TORCH,
    TORCH_DOUBLE,
    Check,
    Comparison,
    checks,
    loss_bound,
    predictions,
    relative_difference,
)
from parity_tests.training_data import Settings

_TERMS = {
    "loss": "black",
    "match": "#0b5cad",
    "classification": "#c62828",
    "reconstruction": "#1a7f37",
}
_DIFFERENCES = {
    (JAX, TORCH): ("#0b5cad", "JAX from PyTorch, float32"),
    (TORCH, TORCH_DOUBLE): ("#e08a00", "PyTorch, float32 from float64"),
    (JAX_DOUBLE, TORCH_DOUBLE): ("#1a7f37", "JAX from PyTorch, float64"),
}
# A logarithmic axis has no place for 0: differences are drawn at least this large.
_SMALLEST = 1e-17
_PACKAGES = ("jax", "flax", "optax", "torch", "numpy")


def summary(settings: Settings, comparison: Comparison, found: Sequence[Check]) -> str:
    """Returns the lines that the command prints."""
    double = comparison.loss_difference(*DOUBLE_RUNS).max()
    lines = [
        f"{settings.steps} steps of {settings.episodes_per_step} episodes",
        f"largest relative difference of the losses, float64: {double:.1e}",
    ]
    if comparison.has_single:
        single = comparison.loss_difference(JAX, TORCH).max()
        yardstick = comparison.loss_difference(TORCH, TORCH_DOUBLE).max()
        lines.append(
            f"largest relative difference of the losses, float32: {single:.1e}; of PyTorch in"
            f" float32 from PyTorch in float64: {yardstick:.1e}"
        )
    shares = (f"{run} {100 * comparison.accuracy(run):.1f}" for run in comparison.losses)
    lines.append(f"accuracy on {settings.test_episodes} episodes in %: {', '.join(shares)}")
    total = comparison.labels.size
    for name, compared in predictions(comparison).items():
        lines.append(
            f"predictions, {name}: {compared.differing} of {total} differ, the widest margin of"
            f" these is {compared.widest:.1e}; largest difference of a logit"
            f" {compared.largest:.1e} of {compared.scale:.2f}"
        )
    beyond = [check for check in found if not check.fine]
    for check in beyond:
        lines.append(f"BEYOND THE BOUND: {check.name} is {check.value:.1e} > {check.bound:.1e}")
    return "\n".join([*lines, *([] if beyond else ["everything is within its bound"])])


def write_report(out: Path, settings: Settings, comparison: Comparison) -> list[Check]:
    """Writes `curves.png` and `result.json`, each as a whole or not at all.

    Returns:
        The checks, which may have failed.
    """
    found = checks(comparison)
    partial = out / ".curves.part.png"
    draw(settings, comparison).savefig(partial, dpi=90)
    os.replace(partial, out / "curves.png")
    partial = out / ".result.part.json"
    partial.write_text(json.dumps(_record(settings, comparison, found), indent=1) + "\n")
    os.replace(partial, out / "result.json")
    return found


def _record(settings: Settings, comparison: Comparison, found: Sequence[Check]) -> dict:
    differences = {
        f"{run} from {other}": {
            term: relative_difference(values, comparison.losses[other][term]).tolist()
            for term, values in comparison.losses[run].items()
        }
        for run, other in _pairs(comparison)
    }
    bounds = loss_bound(comparison).tolist() if comparison.has_single else None
    return {
        "settings": dataclasses.asdict(settings),
        "fine": all(check.fine for check in found),
        "checks": [dataclasses.asdict(check) for check in found],
        "accuracy": {run: comparison.accuracy(run) for run in comparison.losses},
        "comparison_of_predictions": {
            name: dataclasses.asdict(compared) for name, compared in predictions(comparison).items()
        },
        "losses": comparison.losses,
        "relative_differences": differences,
        "float32_loss_bound": bounds,
        "predictions": {
            run: comparison.logits[run].argmax(-1).tolist() for run in comparison.losses
        },
        "labels": comparison.labels.tolist(),
        "seconds": comparison.seconds,
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES}
        | {"python": platform.python_version()},
    }


def _pairs(comparison: Comparison) -> list[tuple[str, str]]:
    """Returns which run is compared with which."""
    single = [(JAX, TORCH), (TORCH, TORCH_DOUBLE)] if comparison.has_single else []
    return [DOUBLE_RUNS, *single]


def draw(settings: Settings, comparison: Comparison) -> Figure:
    """Draws the curves of both implementations above their differences."""
    # The object interface needs no display and leaves pyplot's global state alone.
    figure = Figure(figsize=(10, 8), layout="constrained")
    figure.suptitle(
        f"Training in JAX and in PyTorch: the same weights, the same {settings.steps} ×"
        f" {settings.episodes_per_step} episodes"
    )
    losses, differences = figure.subplots(2, 1, sharex=True, height_ratios=[1, 1.2])
    _draw_losses(losses, comparison)
    _draw_differences(differences, comparison)
    differences.set_xlabel("optimizer step")
    return figure


def _draw_losses(axes: Axes, comparison: Comparison) -> None:
    ours, theirs = (JAX, TORCH) if comparison.has_single else DOUBLE_RUNS
    steps = 1 + np.arange(len(comparison.losses[ours]["loss"]))
    for term, color in _TERMS.items():
        label = term if term == "loss" else f"{term}, unweighted"
        axes.plot(steps, comparison.losses[ours][term], color=color, alpha=0.4, lw=3, label=label)
        axes.plot(steps, comparison.losses[theirs][term], color=color, lw=1, ls="--")
    axes.plot([], [], color="gray", alpha=0.4, lw=3, label=f"wide: {ours}")
    axes.plot([], [], color="gray", lw=1, ls="--", label=f"dashed: {theirs}")
    axes.set_yscale("log")
    axes.set_title("Loss and its largest terms", fontsize=10)
    _finish(axes)


def _draw_differences(axes: Axes, comparison: Comparison) -> None:
    steps = 1 + np.arange(len(comparison.losses[JAX_DOUBLE]["loss"]))
    for pair in _pairs(comparison):
        color, label = _DIFFERENCES[pair]
        difference = np.maximum(comparison.loss_difference(*pair), _SMALLEST)
        axes.plot(steps, difference, color=color, lw=1.2, label=label)
    if comparison.has_single:
        color = _DIFFERENCES[JAX, TORCH][0]
        axes.plot(steps, loss_bound(comparison), color=color, ls=":", label="bound, float32")
    color = _DIFFERENCES[DOUBLE_RUNS][0]
    axes.axhline(DOUBLE_LOSS, color=color, ls=":", label="bound, float64")
    axes.set_yscale("log")
    axes.set_title("Relative difference of the loss", fontsize=10)
    _finish(axes)


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    # Beside the curves, where it hides none of them.
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
