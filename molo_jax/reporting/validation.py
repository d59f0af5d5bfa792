"""What TensorBoard shows of a validation: one episode, every class, the margins."""

import io
import logging
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure
from PIL import Image

from molo_jax.analysis.outcome import Outcome
from molo_jax.data.clips.episodes import ClipRequest
from molo_jax.engine.metrics import MetricLog, Picture
from molo_jax.evaluator import EvaluationData
from molo_jax.reporting.episode_picture import MOST_ROWS, ExampleRow, draw_episode
from molo_jax.results import class_keys

# Up to so many classes each has a curve by its name, and a bar.
MOST_NAMED = 32
_QUALITY, _DPI = 75, 72
_BAR, _MOST_LETTERS = "#0b5cad", 40

logger = logging.getLogger(__name__)


class ValidationBoard:
    """Shows validations in TensorBoard.

    It shows the first episode of every validation, so that the same clips are seen to be classified
    better and better; the accuracy of each class; and the histogram of the margins, which are the
    score of the true class minus the highest score of the other classes.

    What cannot be drawn never ends a training: the first failure is a warning, and nothing more is
    drawn from then on.

    Args:
        log: where the pictures go.
        data: the episodes that are validated on.
    """

    def __init__(self, log: MetricLog, data: EvaluationData):
        self._log, self._data, self._failed = log, data, False
        self._clips: dict[tuple[int, int], UInt8[np.ndarray, "t h w c"]] = {}

    def show(self, step: int, outcome: Outcome | None) -> None:
        """Writes what is seen of a validation.

        Args:
            step: the finished steps.
            outcome: what was predicted; None: nothing is shown.
        """
        if outcome is None or self._failed:
            return
        try:
            self._show(step, outcome)
        # Whatever it is: a damaged video, a full disk, a font. The training matters more.
        except Exception as error:
            self._failed = True
            logger.warning(
                "the pictures of the validation at step %d could not be made, and none are made"
                " from here on: %s: %s",
                step,
                type(error).__name__,
                error,
            )

    def _show(self, step: int, outcome: Outcome) -> None:
        names = class_keys(self._data.dataset.split)
        accuracies = {names[c]: value for c, value in class_accuracies(outcome).items()}
        margins = np.asarray(outcome.margins, np.float64).reshape(-1)
        histograms = {
            "val/margin": margins[np.isfinite(margins)],
            "val/accuracy_of_classes": np.array([*accuracies.values()]),
        }
        self._log.show(
            step,
            numbers={f"val_class/{name}": value for name, value in accuracies.items()}
            if len(accuracies) <= MOST_NAMED
            else {},
            pictures={
                "val/episode": encoded(self._episode(outcome, names)),
                "val/classes": encoded(draw_classes(accuracies)),
            },
            histograms={tag: values for tag, values in histograms.items() if values.size},
        )

    def _episode(self, outcome: Outcome, names: Sequence[str]) -> Figure:
        """Draws the first episode."""
        predicted = outcome.predicted_classes[0, :, 0]
        episode = zip(outcome.classes[0], outcome.videos[0], predicted, strict=True)
        rows = [
            ExampleRow(
                name=names[position],
                support=self._pixels(int(position), int(videos[0])),
                query=self._pixels(int(position), int(videos[outcome.n_shot])),
                predicted=names[answer],
            )
            for position, videos, answer in list(episode)[:MOST_ROWS]
        ]
        figure = Figure(figsize=(13, 0.9 + 0.95 * len(rows)), layout="constrained")
        draw_episode(figure, rows, "The first episode of the validation")
        return figure

    def _pixels(self, position: int, video: int) -> UInt8[np.ndarray, "t h w c"]:
        """Reads a clip as the first episode shows it, once."""
        place = position, video
        if place not in self._clips:
            data = self._data
            how = {name: data.reading[name] for name in ("sampling", "resize")}
            request: ClipRequest = next(iter(data.samplers.values())).clip(*place, 0)
            self._clips[place] = data.dataset.read_clip(request, **how)
        return self._clips[place]


def class_accuracies(outcome: Outcome) -> dict[int, float]:
    """Returns the fraction of correct queries of each class that was queried, by its position."""
    classes = np.repeat(outcome.classes[:, :, None], outcome.predicted.shape[2], axis=2)
    count = np.bincount(classes.reshape(-1))
    right = np.bincount(classes.reshape(-1), weights=outcome.correct.reshape(-1))
    return {int(c): float(right[c] / count[c]) for c in np.flatnonzero(count)}


def draw_classes(accuracies: Mapping[str, float]) -> Figure:
    """Draws the accuracy of classes as bars, the best class at the top.

    Of more than :data:`MOST_NAMED` classes, as many of the best and of the worst are drawn.
    """
    ordered = sorted(accuracies.items(), key=lambda pair: (-pair[1], pair[0]))
    half, title = MOST_NAMED // 2, f"Accuracy of the {len(ordered)} classes in %"
    if len(ordered) > MOST_NAMED:
        ordered = [*ordered[:half], *ordered[-half:]]
        title += f": the {half} best and the {half} worst"
    figure = Figure(figsize=(8, 1.0 + 0.24 * len(ordered)), layout="constrained")
    axes = figure.subplots()
    values = [100 * value for _, value in ordered]
    bars = axes.barh(range(len(ordered)), values, color=_BAR)
    axes.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
    names = [
        f"{name[:_MOST_LETTERS]}…" if len(name) > _MOST_LETTERS else name for name, _ in ordered
    ]
    # A class name is no formula, whatever dollar signs are in it.
    axes.set_yticks(range(len(ordered)), names, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 108)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=10, loc="left")
    return figure


def encoded(figure: Figure) -> Picture:
    """Draws a figure into a JPEG file."""
    file = io.BytesIO()
    figure.savefig(file, dpi=_DPI, format="jpeg", pil_kwargs={"quality": _QUALITY})
    with Image.open(file) as image:
        return Picture(file.getvalue(), *image.size)
