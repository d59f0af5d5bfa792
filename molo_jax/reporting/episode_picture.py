"""The picture of one episode: a support clip and a query clip of each class, with predictions."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from molo_jax.data.clips.source import ClipSource

# The picture stays legible up to this many classes and frames.
MOST_ROWS, _MOST_FRAMES = 8, 8
_RIGHT, _WRONG, _MUTED = "#1a7f37", "#c62828", "#57606a"


@dataclasses.dataclass(frozen=True)
class ExampleRow:
    """One class of an episode: a support clip of it, and a query clip with its prediction."""

    name: str
    support: UInt8[np.ndarray, "t h w c"]
    query: UInt8[np.ndarray, "t h w c"]
    predicted: str


def class_name(dataset: ClipSource, class_position: int) -> str:
    """Returns the name of a class, or else its number."""
    name = dataset.split.class_names[class_position]
    return name or f"class {dataset.split.classes[class_position]}"


def draw_episode(figure: Figure | SubFigure, rows: Sequence[ExampleRow], title: str) -> None:
    """Draws one row for each class; the frame of a query is green or red, as it is right or wrong.

    Args:
        figure: what the clips are drawn into.
        rows: the classes.
        title: what the episode is; behind it stands how many queries are right.
    """
    correct = sum(row.predicted == row.name for row in rows)
    figure.suptitle(f"{title}: {correct} of {len(rows)} queries right", fontsize=12)
    grid = figure.subplots(len(rows), 2, squeeze=False)
    for (support, query), row in zip(grid, rows, strict=True):
        _draw_clip(support, row.support, _MUTED)
        # A class name is no formula, whatever dollar signs are in it.
        style = {"fontsize": 9, "loc": "left", "pad": 3, "parse_math": False}
        support.set_title(f"support: {row.name}", **style)
        right = row.predicted == row.name
        color = _RIGHT if right else _WRONG
        _draw_clip(query, row.query, color)
        verdict = "✓" if right else f"✗  truth: {row.name}"
        query.set_title(f"query, predicted: {row.predicted}  {verdict}", color=color, **style)


def _draw_clip(axes: Axes, clip: UInt8[np.ndarray, "t h w c"], color: str) -> None:
    """Shows the frames of a clip side by side in a frame of the given color."""
    chosen = np.linspace(0, len(clip) - 1, min(len(clip), _MOST_FRAMES)).round().astype(int)
    gap = np.full((clip.shape[1], max(1, clip.shape[2] // 24), 3), 255, np.uint8)
    pieces = [piece for index in chosen for piece in (clip[index], gap)][:-1]
    axes.imshow(np.concatenate(pieces, axis=1), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(color)
        spine.set_linewidth(2)
