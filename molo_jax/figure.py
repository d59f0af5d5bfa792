"""The picture of a run, `summary.png`: its curves, and one test episode with its predictions."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from molo_jax.data.clips.episodes import ClipRequest, ResolvedEpisode
from molo_jax.data.clips.source import ClipSource
from molo_jax.engine.evaluation import FeatureStore
from molo_jax.engine.metrics import read_metrics
from molo_jax.evaluate import Evaluation, load_network
from molo_jax.evaluator import EvaluationData, Evaluator
from molo_jax.files import replacing, written

# Up to so many points of a curve each is marked; a single one would be invisible without.
_MARKED_POINTS = 20
_RIGHT, _WRONG, _MUTED = "#1a7f37", "#c62828", "#57606a"
# The picture stays legible up to this many classes and frames.
_MOST_ROWS, _MOST_FRAMES = 8, 8


@dataclasses.dataclass(frozen=True)
class ExampleRow:
    """One class of an episode: a support clip of it, and a query clip with its prediction."""

    name: str
    support: UInt8[np.ndarray, "t h w c"]
    query: UInt8[np.ndarray, "t h w c"]
    predicted: str


def write_figure(evaluation: Evaluation, workdir: Path, *, train_way: int) -> Path:
    """Draws `<workdir>/summary.png` from the metrics and the checkpoint in `workdir`.

    Args:
        evaluation: of its first number of shots, the first episode is drawn.
        workdir: the work folder.
        train_way: classes of an episode in training and validation.

    Returns:
        The path of the picture.

    Raises:
        MoloError: it cannot be written, or there is nothing to draw.
    """
    rows = example_episode(evaluation, workdir)
    method, data = evaluation.method, evaluation.data
    figure = draw_figure(
        read_metrics(workdir),
        rows,
        title=f"{evaluation.dataset}: {method.title}, {method.backbone}",
        terms=method.losses,
        episode_title=(
            "One {}-way {}-shot episode of the {} split".format(
                *next(iter(data.samplers)), evaluation.split
            )
        ),
        chance=1 / train_way,
    )
    path = workdir / "summary.png"
    with written(path), replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    return path


def example_episode(evaluation: Evaluation, workdir: Path) -> list[ExampleRow]:
    """Classifies the queries of the first episode of the evaluated split.

    Returns:
        A row for each class, with its first support clip and its first query clip.
    """
    data = evaluation.data
    network = load_network("", workdir, evaluation.method, data.mesh)
    evaluator = Evaluator(data, network.graphdef)
    weights = network.params, network.batch_stats
    store = FeatureStore(lambda clips: evaluator.embed(*weights, clips), capacity=10**6)
    (way, _), sampler = next(iter(data.samplers.items()))
    episode = sampler.resolve(sampler(0), data.dataset.is_bad)
    while not store.ensure((*episode.support, *episode.query)):
        episode = sampler.resolve(sampler(0), data.dataset.is_bad)
    positions = np.int32(store.rows(episode.support)), np.int32(store.rows(episode.query))
    arrays = (*positions, episode.support_labels)
    logits = evaluator.match(way, *weights, store.table(), *(array[None] for array in arrays))
    return _rows(data, episode, np.asarray(logits)[0].argmax(axis=-1))


def _rows(
    data: EvaluationData, episode: ResolvedEpisode, predicted: np.ndarray
) -> list[ExampleRow]:
    """Picks the first support and query clip of each class, in the order of the labels."""

    def pixels(request: ClipRequest) -> np.ndarray:
        how = {name: data.reading[name] for name in ("sampling", "resize")}
        return data.dataset.read_clip(request, **how)

    names, rows = {}, []
    for label, clip in zip(episode.support_labels, episode.support, strict=True):
        names.setdefault(int(label), class_name(data.dataset, clip.class_position))
    for label in sorted(names)[:_MOST_ROWS]:
        support = list(episode.support_labels).index(label)
        query = list(episode.query_labels).index(label)
        rows.append(
            ExampleRow(
                name=names[label],
                support=pixels(episode.support[support]),
                query=pixels(episode.query[query]),
                predicted=names[int(predicted[query])],
            )
        )
    return rows


def class_name(dataset: ClipSource, class_position: int) -> str:
    """Returns the name of a class, or else its number."""
    name = dataset.split.class_names[class_position]
    return name or f"class {dataset.split.classes[class_position]}"


def draw_figure(
    metrics: Sequence[dict[str, Any]],
    rows: Sequence[ExampleRow],
    *,
    title: str,
    terms: Mapping[str, str],
    episode_title: str,
    chance: float,
) -> Figure:
    """Draws the curves of a run above one episode.

    Args:
        metrics: lines of metrics.jsonl.
        rows: the classes of the episode.
        title: name of the run.
        terms: name of each term of the loss in the metrics, and in the legend.
        episode_title: what the episode is.
        chance: accuracy of guessing.
    """
    # The object interface needs no display and leaves pyplot's global state alone.
    matplotlib.rcParams["font.family"] = "DejaVu Sans"
    curves_height, row_height = 4.2, 0.95
    height = curves_height + 0.9 + row_height * len(rows)
    figure = Figure(figsize=(14, height), layout="constrained")
    figure.suptitle(title, fontsize=14, fontweight="bold")
    above, below = figure.subfigures(2, 1, height_ratios=[curves_height, height - curves_height])
    losses, accuracy = above.subplots(1, 2)
    _draw_losses(losses, [line for line in metrics if line["kind"] == "train"], terms)
    _draw_accuracy(accuracy, metrics, chance)
    _draw_episode(below, rows, episode_title)
    return figure


def _draw_losses(axes: Axes, lines: Sequence[dict[str, Any]], terms: Mapping[str, str]) -> None:
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


def _draw_accuracy(axes: Axes, metrics: Sequence[dict[str, Any]], chance: float) -> None:
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


def _draw_episode(figure: SubFigure, rows: Sequence[ExampleRow], title: str) -> None:
    correct = sum(row.predicted == row.name for row in rows)
    figure.suptitle(f"{title}: {correct} of {len(rows)} queries right", fontsize=12)
    grid = figure.subplots(len(rows), 2, squeeze=False)
    for (support, query), row in zip(grid, rows, strict=True):
        _draw_clip(support, row.support, _MUTED)
        support.set_title(f"support: {row.name}", fontsize=9, loc="left", pad=3)
        right = row.predicted == row.name
        color = _RIGHT if right else _WRONG
        _draw_clip(query, row.query, color)
        verdict = "✓" if right else f"✗  truth: {row.name}"
        query.set_title(
            f"query, predicted: {row.predicted}  {verdict}",
            fontsize=9,
            loc="left",
            pad=3,
            color=color,
        )


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
