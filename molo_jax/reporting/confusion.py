"""The confusion matrix as a drawing: where its cells are, how they are colored, what they say."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from molo_jax.reporting.statistics import order_of_classes
from molo_jax.reporting.work_folder import Result

# Up to so many classes the cells hold numbers.
_MOST_NUMBERED = 30
_LETTERS = 26
_RIGHT, _WRONG = (11, 79, 52), (150, 40, 10)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell: its place in pixels, its colors, its number, and what it says on hover."""

    x: float
    y: float
    fill: str
    ink: str
    number: str
    text: str


@dataclasses.dataclass(frozen=True)
class Label:
    """A name along the edge, shortened, and whole on hover; its place in pixels."""

    x: float
    y: float
    short: str
    name: str


@dataclasses.dataclass(frozen=True)
class ConfusionDrawing:
    """A confusion matrix.

    Attributes:
        width, height, side: of the drawing and of a cell, in pixels.
        left, top: where the cells begin.
        font: size of the names in pixels.
        span: how wide all cells together are.
        rows, columns: the names.
        cells: those that are not empty.
        largest: the largest share of a mistake, which has the full color.
        text: what it shows, for those who do not see it.
    """

    width: float
    height: float
    side: float
    left: float
    top: float
    font: float
    span: float
    rows: Sequence[Label]
    columns: Sequence[Label]
    cells: Sequence[Cell]
    largest: float
    text: str


def drawing(result: Result, chosen: np.ndarray | None = None) -> ConfusionDrawing | None:
    """Lays out the confusion of a result; classes that are confused lie side by side.

    Args:
        result: the result.
        chosen: queries by true class and by class of the episode, where that is known: how often
            a mistake was possible at all.

    Returns:
        The drawing, or None without a confusion.
    """
    if result.confusion is None or not result.confusion.any():
        return None
    counts = result.confusion
    asked = [c for c in range(len(counts)) if counts[c].sum() or counts[:, c].sum()]
    within = counts[np.ix_(asked, asked)]
    order = [asked[place] for place in order_of_classes(within)]
    count = len(order)
    side = float(np.clip(680 / count, 15, 44))
    font = 13.0 if side > 17 else 11.0
    names = [result.classes[c] for c in order]
    edge = 14 + 0.62 * font * min(_LETTERS, max(map(len, names)))
    left = top = edge
    totals = np.maximum(counts.sum(axis=1), 1)
    shares = counts / totals[:, None]
    errors = shares.copy()
    np.fill_diagonal(errors, 0)
    largest = float(errors.max())
    cells = []
    for row, c in enumerate(order):
        for column, p in enumerate(order):
            if not counts[c, p]:
                continue
            share = float(shares[c, p])
            level = share if c == p else share / largest
            fill, ink = shade(level, _RIGHT if c == p else _WRONG)
            cells.append(
                Cell(
                    x=left + side * column,
                    y=top + side * row,
                    fill=fill,
                    ink=ink,
                    number=f"{100 * share:.0f}" if count <= _MOST_NUMBERED else "",
                    text=_said(result, c, p, None if chosen is None else int(chosen[c, p])),
                )
            )
    rows = [
        Label(left - 6, top + side * (place + 0.5), _short(name), name)
        for place, name in enumerate(names)
    ]
    columns = [
        Label(left + side * (place + 0.5), top - 6, _short(name), name)
        for place, name in enumerate(names)
    ]
    right = float(np.trace(counts) / counts.sum())
    return ConfusionDrawing(
        width=left + side * count + 4,
        height=top + side * count + 4,
        side=side,
        left=left,
        top=top,
        font=font,
        span=side * count,
        rows=rows,
        columns=columns,
        cells=cells,
        largest=largest,
        text=f"Confusion of {count} classes; {100 * right:.1f} % of the queries are on the"
        " diagonal. The most confused pairs are in the table that follows.",
    )


def _said(result: Result, true: int, predicted: int, chosen: int | None) -> str:
    count, total = int(result.confusion[true, predicted]), int(result.confusion[true].sum())
    names = result.classes
    share = f"{count:,} of {total:,} queries ({100 * count / total:.1f} %)"
    if true == predicted:
        return f"{names[true]}: {share} are classified correctly"
    possible = "" if not chosen else f"; it was among the classes for {chosen:,} of them"
    return f"{names[true]}, taken for {names[predicted]}: {share}{possible}"


def _short(name: str) -> str:
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"


def shade(level: float, color: tuple[int, int, int]) -> tuple[str, str]:
    """Mixes white with a color, and picks the ink for it.

    Args:
        level: 0 for white, 1 for the color.
        color: red, green and blue, 0 to 255.

    Returns:
        The color, and black or white, whichever has more contrast on it; that is at least 4.58
        to 1 on any color.
    """
    # The root makes small shares visible.
    level = 0.06 + 0.94 * float(np.sqrt(np.clip(level, 0, 1)))
    mixed = [round(255 + level * (part - 255)) for part in color]
    light = luminance(mixed)
    ink = "#000" if (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) else "#fff"
    return "#{:02x}{:02x}{:02x}".format(*mixed), ink


def luminance(color: Sequence[int]) -> float:
    """Returns the relative luminance of a color, as WCAG 2 defines it."""
    parts = [
        part / 255 / 12.92 if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4
        for part in color
    ]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
