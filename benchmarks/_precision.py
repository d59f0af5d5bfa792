"""The evaluation of one network in every precision."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from molo_jax import build
from molo_jax.engine.evaluation import Score
from molo_jax.evaluate import load_network
from molo_jax.evaluator import Evaluator
from molo_jax.nn.precision import FLOAT32, PRECISIONS

# Number of shots -> the score, and the predictions of all queries.
Found = tuple[Mapping[int, Score], Mapping[int, np.ndarray]]


def compared(config: ConfigDict, workdir: Path) -> list[str]:
    """Returns the lines of the table.

    Args:
        config: the configuration of the evaluation; `eval.precision` does not matter.
        workdir: the work folder of the network, unless `init_from` names another source.
    """
    head = (
        f"{config.dataset.name}, {config.eval.split} split: {config.eval.episodes} episodes,"
        f" {config.eval.n_way}-way"
    )
    return [head, "", *table({name: _predicted(config, workdir, name) for name in PRECISIONS})]


def table(results: Mapping[str, Found]) -> list[str]:
    """Returns a line for each precision and number of shots, compared with float32."""
    scores, base = results[FLOAT32.name]
    lines = [
        "| precision | shots | accuracy, % | difference | same predictions, % |",
        "|---|---|---|---|---|",
    ]
    for name, (found, predictions) in results.items():
        for shot, score in found.items():
            same = np.mean(predictions[shot] == base[shot])
            difference = 100 * (score.accuracy - scores[shot].accuracy)
            lines.append(
                f"| {name} | {shot} | {100 * score.accuracy:.2f} ± {100 * score.ci95:.2f}"
                f" | {difference:+.2f} | {100 * same:.2f} |"
            )
    return lines


def _predicted(config: ConfigDict, workdir: Path, precision: str) -> Found:
    """Evaluates in one precision: the score and the predictions by number of shots."""
    config = ConfigDict(config.to_dict())
    config.eval.precision = precision
    evaluation = build.evaluation(config)
    network = load_network(evaluation.init_from, workdir, evaluation.method, evaluation.data.mesh)
    evaluator = Evaluator(evaluation.data, network.graphdef)
    found = evaluator.scores(
        network.params,
        network.batch_stats,
        episodes=evaluation.episodes,
        title=precision,
    )
    scores = {shot: score for (_, shot), score in found.items()}
    return scores, {shot: score.outcome.predicted for shot, score in scores.items()}
