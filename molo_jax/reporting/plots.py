"""The plots of the report: curves, and the accuracy by way and shots, as SVG pictures."""

import base64
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from molo_jax.reporting.curves import draw_accuracy, draw_losses
from molo_jax.reporting.work_folder import Result

# Colors that are told apart also by those who see few, dark enough for a white ground.
_COLORS = ("#0b5cad", "#b3470a", "#146c34", "#7b3fa0", "#8a6100", "#b3261e", "#00696f", "#4a4f57")
_MARKS = "osD^vP*X"


@dataclasses.dataclass(frozen=True)
class Plot:
    """A picture for a page.

    Attributes:
        address: the picture itself, as a `data:` address.
        width, height: in CSS pixels.
        text: what the picture shows, for those who do not see it.
    """

    address: str
    width: int
    height: int
    text: str


def plot_of(figure: Figure, text: str) -> Plot:
    """Draws a figure into an SVG picture; the same figure gives the same bytes."""
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "molo_jax", "svg.fonttype": "path"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    width, height = (round(96 * side) for side in figure.get_size_inches())
    encoded = base64.b64encode(file.getvalue()).decode("ascii")
    return Plot(f"data:image/svg+xml;base64,{encoded}", width, height, text)


def curves(
    metrics: Sequence[Mapping[str, Any]], terms: Mapping[str, str], chance: float | None
) -> list[Plot]:
    """Draws the loss and the accuracy of a training.

    Args:
        metrics: lines of metrics.jsonl; those without finite numbers are left out.
        terms: name of each term of the loss in the lines, and in the legend.
        chance: accuracy of guessing; None where it is not known.

    Returns:
        A plot for each of the two of which there are lines.
    """
    train = [line for line in metrics if line["kind"] == "train" and _has(line, "loss", *terms)]
    judged = [
        line
        for line in metrics
        if (line["kind"] == "train" and _has(line, "accuracy"))
        or (line["kind"] == "val" and _has(line, "accuracy", "ci95"))
    ]
    plots = []
    if train:
        figure = Figure(figsize=(7.6, 3.4), layout="constrained")
        draw_losses(figure.subplots(), train, terms)
        first, last = train[0], train[-1]
        plots.append(
            plot_of(
                figure,
                f"The loss falls from {first['loss']:.3g} at step {first['step']} to"
                f" {last['loss']:.3g} at step {last['step']}; its terms are drawn beside it."
                if last["loss"] < first["loss"]
                else f"The loss is {first['loss']:.3g} at step {first['step']} and"
                f" {last['loss']:.3g} at step {last['step']}; its terms are drawn beside it.",
            )
        )
    if judged:
        figure = Figure(figsize=(7.6, 3.4), layout="constrained")
        draw_accuracy(figure.subplots(), judged, 0.0 if chance is None else chance)
        validated = [line for line in judged if line["kind"] == "val"]
        text = "The accuracy of the training episodes over the steps."
        if validated:
            best = max(validated, key=lambda line: line["accuracy"])
            text = (
                f"The accuracy over the steps; the best of {len(validated)} validations is"
                f" {100 * best['accuracy']:.1f} % at step {best['step']}."
            )
        plots.append(plot_of(figure, text))
    return plots


def _has(line: Mapping[str, Any], *names: str) -> bool:
    """Whether a line has finite numbers of these names, as far as it has the names."""
    values = [line.get(name, 0.0 if place else None) for place, name in enumerate(names)]
    return all(
        isinstance(x, int | float) and not isinstance(x, bool) and abs(x) < 1e300 for x in values
    ) and not any(math.isnan(x) for x in values)


def ways_and_shots(results: Sequence[Result]) -> Plot | None:
    """Draws the accuracies over the shots, a line for each way; or over the ways.

    The bars are the intervals over videos where all results have them, else those over episodes.

    Returns:
        The plot, or None of fewer than two results.
    """
    ways = sorted({each.way for each in results})
    shots = sorted({each.shot for each in results})
    if len(results) < 2 or (len(ways) < 2 and len(shots) < 2):
        return None
    over_shots = len(shots) > 1
    lines, positions = (ways, shots) if over_shots else (shots, ways)
    by_cell = {each.cell: each for each in results}
    videos = all(each.ci95_videos is not None for each in results)
    figure = Figure(figsize=(7.6, 3.6), layout="constrained")
    axes = figure.subplots()
    for place, line in enumerate(lines):
        cells = [(line, x) if over_shots else (x, line) for x in positions]
        drawn = [by_cell[cell] for cell in cells if cell in by_cell]
        axes.errorbar(
            [each.shot if over_shots else each.way for each in drawn],
            [100 * each.accuracy for each in drawn],
            yerr=[100 * ((each.ci95_videos if videos else each.ci95) or 0) for each in drawn],
            label=f"{line}-way" if over_shots else f"{line}-shot",
            color=_COLORS[place % len(_COLORS)],
            marker=_MARKS[place % len(_MARKS)],
            markersize=5,
            capsize=3,
        )
    axes.set_xticks(positions)
    axes.set_xlabel("shots: clips of each class in the support set" if over_shots else "way")
    axes.set_ylabel("accuracy in %")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9, frameon=False)
    best, worst = (pick(results, key=lambda each: each.accuracy) for pick in (max, min))
    return plot_of(
        figure,
        f"Accuracy by way and shots, from {100 * worst.accuracy:.1f} % ({worst.way}-way"
        f" {worst.shot}-shot) to {100 * best.accuracy:.1f} % ({best.way}-way {best.shot}-shot),"
        f" with 95 % intervals over {'videos' if videos else 'episodes'}."
        " The table holds all numbers.",
    )
