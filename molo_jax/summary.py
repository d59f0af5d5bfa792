"""The command that says what a training needs before anyone rents a GPU for it.

python -m molo_jax.summary --config=FILE [--memory=24GiB] [--peak=989TFLOPS --utilization=0.35]

It prints the parameters, the floating-point operations, the memory for every precision, and the
time of the whole training. It needs no data and no GPU. --config.KEY=VALUE changes one value.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from molo_jax import cli
from molo_jax.benchmarks import BENCHMARKS
from molo_jax.config_checks import validate
from molo_jax.errors import UsageError
from molo_jax.files import write_json

# Where neither a benchmark's record nor the user says how many classes are trained on.
_CLASSES = 64
_MOST_CLASSES = 1_000_000
_SIZES = {
    "GiB": 2**30,
    "MiB": 2**20,
    "TiB": 2**40,
    "GB": 10**9,
    "MB": 10**6,
    "TB": 10**12,
}
_RATES = {"TFLOPS": 1e12, "GFLOPS": 1e9, "PFLOPS": 1e15}

_CONFIG = cli.define_config()
flags.adopt_module_key_flags(cli)
_NUM_CLASSES = flags.DEFINE_integer(
    "num_classes",
    None,
    f"Number of training classes; default: that of the benchmark, or {_CLASSES}.",
)
_MEMORY = flags.DEFINE_string(
    "memory", None, "Memory of the device, such as 24GiB: shows the largest train.microbatch."
)
_PEAK = flags.DEFINE_string(
    "peak",
    None,
    "Peak rate of the device, such as 989TFLOPS, for the time of the training; needs"
    " --utilization.",
)
_UTILIZATION = flags.DEFINE_float(
    "utilization", None, "The part of the peak rate that the training reaches, such as 0.35."
)
_JSON = flags.DEFINE_string("json", None, "File that everything is written to.")


def main(argv: Sequence[str]) -> None:
    """Runs the command with the parsed flags."""
    del argv
    config = _CONFIG.value
    validate(config, here=False)
    num_classes = training_classes(config, _NUM_CLASSES.value)
    memory = None if _MEMORY.value is None else int(quantity("memory", _MEMORY.value, _SIZES))
    rate, path = sustained_rate(_PEAK.value, _UTILIZATION.value), _checked_path(_JSON.value)
    # Nothing is computed, so a GPU that another program uses is left alone.
    os.environ["JAX_PLATFORMS"] = "cpu"
    # This imports JAX, for which a mistake in the flags should not have to wait.
    from molo_jax.training_cost import Device, format_cost, training_cost

    found = training_cost(config, num_classes, Device(memory=memory, rate=rate))
    if path is not None:
        write_json(path, found)
    print(format_cost(found))


def training_classes(config: ConfigDict, given: int | None) -> int:
    """Returns the number of training classes: the given one, the benchmark's, or a usual one.

    Raises:
        UsageError: the given number is none of classes.
    """
    if given is None:
        known = BENCHMARKS.get(config.dataset.name)
        return known.lists["train"].size.classes if known else _CLASSES
    if not 1 <= given <= _MOST_CLASSES:
        raise UsageError(f"--num_classes={given}: expected 1 to {_MOST_CLASSES:,}")
    return given


def quantity(flag: str, text: str, units: dict[str, float]) -> float:
    """Reads a number with its unit.

    Raises:
        UsageError: the text is no such number, or the number is not above 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", text.strip())
    first = next(iter(units))
    if not found or found[2] not in units or len(found[1]) > 15 or not float(found[1]):
        raise UsageError(
            f"--{flag}={text}: expected a number above 0 with its unit ({', '.join(units)}), for"
            f" example --{flag}=24{first}"
        )
    return float(found[1]) * units[found[2]]


def sustained_rate(peak: str | None, utilization: float | None) -> float | None:
    """Returns the operations that a device does in a second; None where nothing is given.

    Raises:
        UsageError: only one of the two is given, or one of them is wrong.
    """
    if peak is None and utilization is None:
        return None
    if peak is None or utilization is None:
        given, missing = ("peak", "utilization") if utilization is None else ("utilization", "peak")
        raise UsageError(
            f"--{given} needs --{missing}, for example --peak=989TFLOPS --utilization=0.35"
        )
    if not 0 < utilization <= 1:
        raise UsageError(f"--utilization={utilization}: expected a number above 0 and at most 1")
    return quantity("peak", peak, _RATES) * utilization


def _checked_path(text: str | None) -> Path | None:
    """Finds out before the work whether the file can be written."""
    if text is None:
        return None
    path = Path(text).absolute()
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"--json={text}: expected a file in a folder that exists")
    return path


if __name__ == "__main__":
    cli.run(main)
