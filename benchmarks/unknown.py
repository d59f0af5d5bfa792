"""How often predictions call a clip of the classes unknown, and a clip of other classes known.

    python benchmarks/unknown.py --weights=runs/demo --videos=runs/demo/data/videos --names='test_*'

Draws classifiers: some classes are known, with a few clips each, the others are strangers. Printed
for each number of clips are the accuracy on clips of the known classes, the mean probability (equal
to the accuracy where probabilities are calibrated), the part of these clips that is called unknown
(false alarms; the rule aims at 5 %), and the part of the strangers that is not (misses). The area
under the ROC curve says how well the distance tells both apart, whatever the threshold is.
"""

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from scipy import stats

from molo_jax import cli
from molo_jax.errors import UsageError
from molo_jax.prediction.inputs import list_support

_WEIGHTS = flags.DEFINE_string("weights", None, "As that of molo_jax.predict.", required=True)
_VIDEOS = flags.DEFINE_string("videos", None, "Folder with a folder for each class.", required=True)
_NAMES = flags.DEFINE_string("names", "*", "Only clips whose names are like this.")
_KNOWN = flags.DEFINE_integer("known", 5, "Known classes of a classifier.", 2)
_SHOTS = flags.DEFINE_multi_integer("shots", [2, 3, 5, 10], "Clips of a known class.")
_DRAWS = flags.DEFINE_integer("draws", 40, "Classifiers for each number of clips.", 1)
_QUERIES = flags.DEFINE_integer("queries", 5, "Predicted clips of each class.", 1)


def main(argv: Sequence[str]) -> None:
    """Runs the benchmark with the parsed flags."""
    del argv
    files = {
        name: [path for path in paths if fnmatch.fnmatch(Path(path).name, _NAMES.value)]
        for name, paths in list_support(_VIDEOS.value).classes.items()
    }
    needed = max(_SHOTS.value) + _QUERIES.value
    files = {name: paths for name, paths in files.items() if len(paths) >= needed}
    if len(files) <= _KNOWN.value:
        raise UsageError(
            f"--videos={_VIDEOS.value} has {len(files)} classes of {needed} or more clips; expected"
            f" more than --known={_KNOWN.value}"
        )
    from molo_jax.prediction.api import load

    classifier = load(_WEIGHTS.value)
    clips = {
        name: list(classifier.fit({name: paths}).support[name]) for name, paths in files.items()
    }
    network = classifier.embedder.network
    print(f"{network.origin}; {_KNOWN.value} of {len(clips)} classes known, {_DRAWS.value} draws\n")
    print("| clips of a class | accuracy | mean probability | false alarms | misses | area |")
    print("|---|---|---|---|---|---|")
    for shots in _SHOTS.value:
        rates = np.mean(
            [rates_of(classifier, clips, shots, seed) for seed in range(_DRAWS.value)], 0
        )
        *percent, area = rates
        shown = " | ".join(f"{100 * value:.1f} %" for value in percent)
        print(f"| {shots} | {shown} | {area:.3f} |")


def rates_of(classifier, clips: Mapping[str, Sequence], shots: int, seed: int) -> list[float]:
    """Draws one classifier; returns accuracy, mean probability, false alarms, misses and area."""
    rng = np.random.default_rng(seed)
    names = rng.permutation(list(clips)).tolist()
    orders = {name: rng.permutation(len(clips[name])) for name in names}
    known, strange = names[: _KNOWN.value], names[_KNOWN.value :]
    classifier.fit({name: [clips[name][i] for i in orders[name][:shots]] for name in known})

    def predicted(members: Sequence[str]) -> list[tuple[str, object]]:
        asked = [
            (name, clips[name][i])
            for name in members
            for i in orders[name][shots : shots + _QUERIES.value]
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


if __name__ == "__main__":
    cli.run(main)
