"""Draws classifiers, and counts what their unknown rule says."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy import stats

from molo_jax.prediction.classifier import Classifier
from molo_jax.prediction.embedder import EmbeddedClip
from molo_jax.prediction.results import Prediction


@dataclasses.dataclass(frozen=True)
class Draw:
    """What is drawn.

    Attributes:
        known: classes of a classifier; all others are strangers.
        queries: predicted clips of each class.
        draws: classifiers for each number of clips of a class.
    """

    known: int
    queries: int
    draws: int


def table(
    classifier: Classifier, files: Mapping[str, Sequence], shots: Sequence[int], draw: Draw
) -> Iterator[str]:
    """Yields the lines of the table.

    Args:
        classifier: without classes.
        files: the clips of each class.
        shots: numbers of clips of a known class.
        draw: what is drawn.
    """
    clips = {name: list(classifier.fit({name: f}).support[name]) for name, f in files.items()}
    origin = classifier.embedder.network.origin
    yield f"{origin}; {draw.known} of {len(clips)} classes known, {draw.draws} draws"
    yield ""
    yield "| clips of a class | accuracy | mean probability | false alarms | misses | area |"
    yield "|---|---|---|---|---|---|"
    for count in shots:
        rates = [rates_of(classifier, clips, count, draw, seed) for seed in range(draw.draws)]
        *percent, area = np.mean(rates, axis=0)
        shown = " | ".join(f"{100 * value:.1f} %" for value in percent)
        yield f"| {count} | {shown} | {area:.3f} |"


def rates_of(
    classifier: Classifier,
    clips: Mapping[str, Sequence[EmbeddedClip]],
    shots: int,
    draw: Draw,
    seed: int,
) -> list[float]:
    """Draws one classifier; returns accuracy, mean probability, false alarms, misses and area."""
    rng = np.random.default_rng(seed)
    names = rng.permutation(list(clips)).tolist()
    orders = {name: rng.permutation(len(clips[name])) for name in names}
    known, strange = names[: draw.known], names[draw.known :]
    classifier.fit({name: [clips[name][i] for i in orders[name][:shots]] for name in known})

    def predicted(members: Sequence[str]) -> list[tuple[str, Prediction]]:
        asked = [
            (name, clips[name][i])
            for name in members
            for i in orders[name][shots : shots + draw.queries]
        ]
        found = classifier.predict([clip for _, clip in asked])
        return [(name, each) for (name, _), each in zip(asked, found, strict=True)]

    ours, others = predicted(known), predicted(strange)
    near, far = ([each.strangeness for _, each in part] for part in (ours, others))
    return [
        np.mean([each.nearest == name for name, each in ours]),
        np.mean([each.probability for _, each in ours]),
        np.mean([not each.known for _, each in ours]),
        np.mean([each.known for _, each in others]),
        stats.mannwhitneyu(far, near).statistic / (len(far) * len(near)),
    ]
