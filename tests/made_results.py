"""Made work folders: results, tables, outcomes and curves as an evaluation leaves them."""

import json

import numpy as np

from molo_jax.analysis.outcome import Outcome
from molo_jax.analysis.outcome_file import write_outcomes
from molo_jax.config import base_config

HOSTILE = '</title><script>alert("x")</script><b>& "bold"'
LONG = "深蹲_" + "a-very-long-name" * 20


def made_outcome(classes, way=5, shot=1, queries=1, episodes=400, videos=12, right=0.7, seed=0):
    """Random episodes; the queries of the first class are right less often than the others."""
    random = np.random.default_rng(seed)
    drawn = np.stack([random.permutation(classes)[:way] for _ in range(episodes)])
    taken = np.stack(
        [
            [random.permutation(videos)[: shot + queries] for _ in range(way)]
            for _ in range(episodes)
        ]
    )
    share = np.where(drawn == 0, right / 2, right)[:, :, None]
    correct = random.random((episodes, way, queries)) < share
    labels = np.broadcast_to(np.arange(way)[:, None], correct.shape)
    other = (labels + random.integers(1, way, correct.shape)) % way
    margins = np.where(correct, 1, -1) * random.random(correct.shape)
    return Outcome(drawn, taken, shot, np.where(correct, labels, other), margins)


def header_of(names, videos=12, **changes):
    """The header of outcomes."""
    return {
        "class_names": list(names),
        "class_sizes": [videos] * len(names),
        "video_names": [[f"{c}/{v}.mp4" for v in range(videos)] for c in range(len(names))],
        "bad_videos": {},
        "checkpoint": "runs/made/best/40",
        "step": 40,
        **changes,
    }


def record_of(outcome, names, **changes):
    """A result file."""
    accuracies = outcome.accuracies
    right = {
        name: float(outcome.correct[outcome.classes == c].mean())
        for c, name in enumerate(names)
        if (outcome.classes == c).any()
    }
    return {
        "dataset": "made",
        "method": "molo",
        "split": "test",
        "variant": "trained",
        "accuracy": float(accuracies.mean()),
        "ci95": float(1.96 * accuracies.std(ddof=1) / np.sqrt(len(accuracies))),
        "episodes": len(accuracies),
        "way": outcome.classes.shape[1],
        "shot": outcome.n_shot,
        "query": outcome.predicted.shape[2],
        "per_class": right,
        "checkpoint": "runs/made/best/40",
        "checkpoint_step": 40,
        "trained_classes_tested": [],
        "validated_classes_tested": [],
        "settings_not_as_in_training": {},
        "bad_videos": {},
        "config": base_config().to_dict(),
        **changes,
    }


def confusion_of(outcome, count):
    """How many queries of a class are taken for each class."""
    counts = np.zeros((count, count), int)
    for episode, classes in enumerate(outcome.classes):
        for label, position in enumerate(classes):
            for answer in outcome.predicted[episode, label]:
                counts[position, classes[answer]] += 1
    return counts


def metrics_lines():
    lines = []
    for step in (10, 20, 30, 40):
        terms = {"match": 20 / step, "loss": 50 / step, "accuracy": step / 60}
        lines.append({"step": step, "kind": "train", **terms})
        lines.append({"step": step, "kind": "val", "accuracy": step / 50, "ci95": 0.02})
    return lines


def write_work_folder(folder, names, *, shots=(1, 5), new=True, outcomes=True, **changes):
    """Writes results, and returns their outcomes by way and shots.

    Args:
        folder: the work folder, which is made.
        names: of the classes.
        shots: numbers of shots.
        new: whether the result files hold what a new evaluation writes.
        outcomes: whether there is a file of them.
        changes: of the result files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for shot in shots:
        outcome = made[5, shot] = made_outcome(len(names), shot=shot, seed=shot)
        record = record_of(outcome, names, **changes)
        if new:
            record |= {
                "ci95_videos": 0.031 + shot / 100,
                "ci95_classes": 0.05,
                "seconds": 2.5,
                "classes": list(names),
                "confusion": confusion_of(outcome, len(names)).tolist(),
            }
        (folder / f"eval_test_5way_{shot}shot.json").write_text(json.dumps(record))
    if outcomes:
        write_outcomes(folder / "eval_test_outcomes.npz", header_of(names), made)
    lines = "".join(json.dumps(line) + "\n" for line in metrics_lines())
    (folder / "metrics.jsonl").write_text(lines)
    return made
