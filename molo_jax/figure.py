"""The picture of a run, `summary.png`: its curves, and one test episode with its predictions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from molo_jax.data.clips.episodes import ClipRequest, ResolvedEpisode
from molo_jax.engine.evaluation import FeatureStore
from molo_jax.engine.metrics import read_metrics
from molo_jax.evaluate import Evaluation, load_network
from molo_jax.evaluator import EvaluationData, Evaluator
from molo_jax.files import replacing, written
from molo_jax.reporting.curves import draw_accuracy, draw_losses
from molo_jax.reporting.episode_picture import MOST_ROWS, ExampleRow, class_name, draw_episode


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
    for label in sorted(names)[:MOST_ROWS]:
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
    draw_losses(losses, [line for line in metrics if line["kind"] == "train"], terms)
    draw_accuracy(accuracy, metrics, chance)
    draw_episode(below, rows, episode_title)
    return figure
