"""The command that trains and evaluates; everything it does is in `train.py` and `evaluate.py`.

python -m molo_jax.main --config=configs/synthetic.py [--workdir=DIR] [--mode=MODE]
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from molo_jax import cli
from molo_jax.config import validate
from molo_jax.errors import UsageError
from molo_jax.pretrained import check_sources

_CONFIG = cli.define_config()
flags.adopt_module_key_flags(cli)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of checkpoints and results; default: runs/<name of the config file>."
)
_MODE = flags.DEFINE_enum(
    "mode", "train_and_eval", ["train", "eval", "train_and_eval"], "What to do."
)


def main(argv: Sequence[str]) -> None:
    """Runs the command with the parsed flags."""
    del argv
    config = _CONFIG.value
    validate(config)
    workdir = _workdir()
    check_sources(config, workdir, trains=_MODE.value != "eval")
    # These import JAX and TensorFlow, for which a mistake in the flags should not have to wait.
    from molo_jax import evaluate, report, train

    trains = _MODE.value != "eval"
    if _MODE.value != "train":
        evaluate.check_data(config, workdir, trains)
    if trains:
        train.train(config, workdir)
    if _MODE.value != "train":
        evaluate.evaluate(config, workdir, trains)
    if _MODE.value == "train_and_eval":
        report.write_summary(config, workdir)


def _workdir() -> Path:
    config_name = Path(flags.FLAGS["config"].config_filename).stem
    workdir = Path(_WORKDIR.value or f"runs/{config_name}").absolute()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--workdir={workdir} cannot be made: {error.strerror}") from error
    return workdir


if __name__ == "__main__":
    cli.run(main)
