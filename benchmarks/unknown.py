"""How often predictions call a clip of the classes unknown, and a clip of other classes known.

    python benchmarks/unknown.py --weights=runs/demo --videos=runs/demo/data/videos --names='test_*'

Draws classifiers: some classes are known, with a few clips each, the others are strangers. Printed
for each number of clips are the accuracy on clips of the known classes, the mean probability (equal
to the accuracy where probabilities are calibrated), the part of these clips that is called unknown
(false alarms; the rule aims at 5 %), and the part of the strangers that is not (misses). The area
under the ROC curve says how well the distance tells both apart, whatever the threshold is.
"""

import fnmatch
from collections.abc import Sequence
from pathlib import Path

from absl import flags

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
    # This imports JAX, for which a mistake in the flags should not have to wait.
    from _unknown import Draw, table

    from molo_jax.prediction.api import load

    draw = Draw(known=_KNOWN.value, queries=_QUERIES.value, draws=_DRAWS.value)
    print("\n".join(table(load(_WEIGHTS.value), files, _SHOTS.value, draw)))


if __name__ == "__main__":
    cli.run(main)
