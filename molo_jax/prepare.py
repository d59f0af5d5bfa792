"""The command that prepares a dataset.

python -m molo_jax.prepare --dataset=synthetic --out=DIR
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags

from molo_jax import cli
from molo_jax.errors import UsageError

_DATASET = flags.DEFINE_string("dataset", None, "Which dataset: synthetic (generated videos).")
_OUT = flags.DEFINE_string("out", None, "Folder to write videos/ and splits/ into.")
_SEED = flags.DEFINE_integer("seed", 0, "Every pixel is a function of this number.", lower_bound=0)
_VIDEOS = {
    split: flags.DEFINE_integer(
        f"{split}_videos", None, f"Videos of each {split} class.", lower_bound=1
    )
    for split in ("train", "val", "test")
}
_WORKERS = flags.DEFINE_integer("workers", 0, "Processes; 0: one for each core.", lower_bound=0)


def main(argv: Sequence[str]) -> None:
    """Runs the command with the parsed flags."""
    del argv
    available = ", ".join(_DATASETS)
    if _DATASET.value is None or _OUT.value is None:
        raise UsageError(f"--dataset=NAME and --out=DIR are required; NAME is one of: {available}")
    if _DATASET.value not in _DATASETS:
        raise UsageError(f"--dataset={_DATASET.value} is not known; choose one of: {available}")
    _DATASETS[_DATASET.value](Path(_OUT.value))


def _synthetic(out: Path) -> None:
    from molo_jax.data import synthetic

    counts = dict(synthetic.VIDEOS_PER_CLASS)
    counts |= {split: flag.value for split, flag in _VIDEOS.items() if flag.value is not None}
    synthetic.generate(
        out, seed=_SEED.value, videos_per_class=counts, workers=_WORKERS.value or None
    )


_DATASETS: dict[str, Callable[[Path], None]] = {"synthetic": _synthetic}


if __name__ == "__main__":
    cli.run(main)
