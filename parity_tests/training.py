"""Trains both implementations from the same weights on the same episodes, and compares them.

    python -m parity_tests.training --steps=40 --out=runs/parity

Real videos of the generated dataset are decoded and cropped once; JAX (`molo_jax`, with its own
training step, optimizer and schedule) and PyTorch (`molo_torch_ref`) train on the very same arrays,
in float32 and in float64, with the official Adam, without dropout. Afterwards each classifies the
same test episodes of unseen classes. OUT gets `curves.png` and `result.json`.

Exit codes: 0 everything is within the bounds of `training_checks.py`, 1 something is not, 2 a flag
is wrong.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from molo_jax.backbones import backbone_info
from molo_jax.console import INTERRUPTED
from molo_jax.errors import MoloError, UsageError

# What takes seconds to import is imported where it is used: processes that generate videos import
# this module, and a wrong flag is answered at once.
if TYPE_CHECKING:
    from parity_tests.training_checks import Comparison
    from parity_tests.training_data import Settings


def compare(
    settings: "Settings",
    data: Path,
    *,
    single: bool = True,
    advance: Callable[[], object] = lambda: None,
) -> "Comparison":
    """Trains and evaluates the runs, step by step side by side.

    Args:
        settings: what is compared.
        data: folder of the generated dataset.
        single: also in float32.
        advance: called after every step.

    Raises:
        MoloError: when the dataset is missing or has too few videos.
    """
    from molo_jax import build
    from parity_tests.training_checks import DOUBLE_RUNS, JAX, RUNS, TORCH, Comparison
    from parity_tests.training_data import make_config, read_test_episodes, training_batches
    from parity_tests.training_runs import make_runs, torch_threads

    config = make_config(settings, data)
    dataset = build.open_split(config, "train")
    # Before the training, so that too few videos are found out at once.
    episodes = read_test_episodes(config)
    names = RUNS if single else DOUBLE_RUNS
    losses, seconds = {name: [] for name in names}, dict.fromkeys(names, 0.0)
    with torch_threads():
        runs = make_runs(config, len(dataset.split.classes), names)
        for batch in training_batches(config, dataset):
            for name, run in runs.items():
                started = time.perf_counter()
                losses[name].append(run.step(batch))
                seconds[name] += time.perf_counter() - started
            advance()
        logits = {name: run.logits(episodes) for name, run in runs.items()}
        same_weights = runs[JAX].logits(episodes, runs[TORCH].tensors()) if single else None
    return Comparison(
        losses={name: _by_term(history) for name, history in losses.items()},
        logits=logits,
        same_weights=same_weights,
        labels=episodes.query_labels,
        seconds=seconds,
    )


def _by_term(history: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    return {term: [values[term] for values in history] for term in history[0]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    try:
        options = _parse(arguments)
        return _run(options)
    except MoloError as error:
        return _fail(str(error), error.exit_code)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", MoloError.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)


def _fail(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr, flush=True)
    return code


class _Parser(argparse.ArgumentParser):
    """Reports a wrong flag in one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m parity_tests.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--steps", type=int, required=True, help="optimizer steps")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument(
        "--data",
        type=Path,
        help="folder of the generated dataset (molo_jax.prepare --dataset=synthetic --out=DIR);"
        " without it, OUT/data is generated",
    )
    parser.add_argument(
        "--episodes_per_step", type=int, default=2, help="episodes that a step averages (2)"
    )
    parser.add_argument("--way", type=int, default=5, help="classes of a training episode (5)")
    parser.add_argument("--frames", type=int, default=8, help="frames of a clip (8)")
    parser.add_argument(
        "--backbone", default="resnet18", help="the network of single frames (resnet18)"
    )
    parser.add_argument("--lr", type=float, default=5e-4, help="highest learning rate (5e-4)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and episodes (0)")
    parser.add_argument("--test_episodes", type=int, default=200, help="of the evaluation (200)")
    parser.add_argument(
        "--precision",
        choices=("both", "float64"),
        default="both",
        help="both: in float32 as well, where PyTorch's float64 tells what rounding does (both)",
    )
    options = parser.parse_args(arguments)
    _check(options)
    return options


def _check(options: argparse.Namespace) -> None:
    least = {"steps": 1, "episodes_per_step": 1, "way": 2, "seed": 0, "test_episodes": 1}
    for name, bound in least.items():
        value = getattr(options, name)
        if value < bound:
            raise UsageError(f"--{name} is {value}; expected at least {bound}")
    if not 2 <= options.frames <= 19:
        raise UsageError(f"--frames is {options.frames}; expected 2 to 19")
    try:
        backbone_info(options.backbone)
    except ValueError as error:
        raise UsageError(f"--backbone: {error}") from None
    if not 0 < options.lr < 1:
        raise UsageError(f"--lr is {options.lr}; expected a number between 0 and 1")
    for folder in ("videos", "splits"):
        if options.data is not None and not (options.data / folder).is_dir():
            raise UsageError(
                f"--data={options.data} has no folder {folder}; make the dataset with"
                f" python -m molo_jax.prepare --dataset=synthetic --out={options.data}"
            )
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out={options.out} cannot be made: {error.strerror}") from None
    if not os.access(options.out, os.W_OK | os.X_OK):
        raise UsageError(f"--out={options.out} cannot be written to")


def _run(options: argparse.Namespace) -> int:
    data = options.data
    if data is None:
        from molo_jax.data import synthetic

        data = options.out / "data"
        synthetic.generate(data)
    from tqdm import tqdm

    from parity_tests.training_data import Settings
    from parity_tests.training_report import summary, write_report

    settings = Settings(
        steps=options.steps,
        episodes_per_step=options.episodes_per_step,
        way=options.way,
        frames=options.frames,
        backbone=options.backbone,
        base_lr=options.lr,
        seed=options.seed,
        test_episodes=options.test_episodes,
    )
    with tqdm(total=settings.steps, unit="step", disable=None) as bar:
        single = options.precision == "both"
        comparison = compare(settings, data, single=single, advance=bar.update)
    found = write_report(options.out, settings, comparison)
    print(summary(settings, comparison, found))
    return 0 if all(check.fine for check in found) else 1


if __name__ == "__main__":
    sys.exit(main())
