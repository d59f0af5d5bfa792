"""The curves of a training: the terms of its loss, and its accuracy."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

# Up to so many points of a curve each is marked; a single one would be invisible without.
_MARKED_POINTS = 20
_MUTED = "#57606a"


def draw_losses(axes: Axes, lines: Sequence[dict[str, Any]], terms: Mapping[str, str]) -> None:
    """Draws the loss and its unweighted terms over the steps.

    Args:
        axes: where.
        lines: the lines of kind `train` of metrics.jsonl.
        terms: name of each term of the loss in the lines, and in the legend.
    """
    steps = [line["step"] for line in lines]
    # A method may leave terms out, by its settings.
    shown = [term for term in terms if all(term in line for line in lines)]
    for term in ("loss", *shown):
        values = [line[term] for line in lines]
        width, color = (2.4, "black") if term == "loss" else (1.3, None)
        label = "loss: weighted sum of all terms" if term == "loss" else terms[term]
        axes.plot(steps, values, label=label, linewidth=width, color=color, **_marker(steps))
    positive = [line[term] for line in lines for term in shown if line[term] > 0]
    if positive and max(positive) > 30 * min(positive):
        axes.set_yscale("log")
    axes.set_title("Loss and its unweighted terms, training")
    _finish(axes)


def _marker(steps: Sequence[int]) -> dict[str, Any]:
    return {"marker": "o", "markersize": 3} if len(steps) <= _MARKED_POINTS else {}


def draw_accuracy(axes: Axes, metrics: Sequence[dict[str, Any]], chance: float) -> None:
    """Draws the accuracies of training and validation over the steps, in percent.

    Args:
        axes: where.
        metrics: the lines of metrics.jsonl.
        chance: accuracy of guessing.
    """
    for kind, color, label in (("train", "#9ec1e8", "train"), ("val", "#0b5cad", "val, 95 %")):
        lines = [line for line in metrics if line["kind"] == kind]
        steps = [line["step"] for line in lines]
        values = 100 * np.array([line["accuracy"] for line in lines])
        marker = {"marker": "o", "markersize": 4} if kind == "val" else _marker(steps)
        axes.plot(steps, values, color=color, label=label, **marker)
        if kind == "val":
            radius = 100 * np.array([line["ci95"] for line in lines])
            axes.fill_between(steps, values - radius, values + radius, color=color, alpha=0.2)
    axes.axhline(100 * chance, color=_MUTED, linestyle="--", linewidth=1, label="chance")
    axes.set_ylim(0, 100)
    axes.set_title("Accuracy in %")
    _finish(axes)


def _finish(axes: Axes) -> None:
    axes.set_xlabel("step")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    # Beside the curves, where it hides none of them.
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9, frameon=False)
