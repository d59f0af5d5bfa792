"""The command that trains and evaluates; everything it does is in `train.py` and `evaluate.py`.

python -m molo_jax.main --config=configs/synthetic.py [--workdir=DIR] [--mode=MODE] [--distributed]

--config.KEY=VALUE changes one value of the configuration, for example --config.train.steps=50. With
--list_keys the command prints every key with its value and its meaning, and does nothing else.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging
from ml_collections import ConfigDict

from molo_jax import cli, distributed, stopping
from molo_jax.config_checks import validate
from molo_jax.config_help import help_of_keys
from molo_jax.console import without_failing
from molo_jax.engine import hosts, runtime
from molo_jax.place import define_flags, place_of
from molo_jax.weights.imagenet import check_sources
from molo_jax.workdir import work_folder

_CONFIG = cli.define_config()
flags.adopt_module_key_flags(cli)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of checkpoints and results; default: runs/<name of the config file>, with _<method>"
    " where one is named.",
)
_LIST_KEYS = flags.DEFINE_bool(
    "list_keys", False, "Only print every key of the configuration, its value and its meaning."
)
_MODE = flags.DEFINE_enum(
    "mode", "train_and_eval", ["train", "eval", "train_and_eval"], "What to do."
)
_ASKED = define_flags()


def main(argv: Sequence[str]) -> None:
    """Runs the command with the parsed flags."""
    del argv
    config = _CONFIG.value
    if _LIST_KEYS.value:
        print(help_of_keys(config))
        return
    validate(config)
    place = place_of(_ASKED())
    workdir = cli.work_folder_of(_WORKDIR.value)
    check_sources(
        workdir,
        trains=_MODE.value != "eval",
        init_from=config.init_from,
        pretrained=config.model.pretrained,
        backbone=config.model.backbone,
    )
    facts = {"config": config.to_dict(), "--mode": _MODE.value, "--workdir": str(workdir)}
    with stopping.ending_at_once():
        _prepare(config)
        with (
            distributed.running(place, facts),
            work_folder(workdir, for_training=_MODE.value != "eval"),
        ):
            distributed.check_shared(workdir)
            _run(config, workdir)


def _prepare(config: ConfigDict) -> None:
    not_kept = runtime.prepare(
        deterministic=config.runtime.deterministic,
        compilation_cache=config.runtime.compilation_cache,
    )
    if not_kept:
        logging.warning("%s", not_kept)


def _run(config: ConfigDict, workdir: Path) -> None:
    # These import JAX and TensorFlow, for which a mistake in the flags should not have to wait.
    from molo_jax import build, evaluate, figure, train
    from molo_jax.reporting.commands import record_command

    trains, evaluates = _MODE.value != "eval", _MODE.value != "train"
    # Before hours of training: whether there will be something to evaluate the network on.
    evaluation = build.evaluation(config) if evaluates else None
    if trains and evaluates:
        evaluate.check_data(evaluation, workdir)
    training = build.training(config) if trains else None
    _say_what_runs_where()
    if trains:
        train.train(training, workdir)
    if evaluates:
        evaluate.evaluate(evaluation, workdir, trains)
    # Process 0 shows what came of it, by its own devices; others wait for its end.
    if hosts.is_first():
        with hosts.alone():
            without_failing("commands.jsonl", lambda: record_command(workdir, _command()))
            if trains and evaluates:
                own = build.on_own_devices(evaluation)
                figure.write_figure(own, workdir, train_way=config.train.n_way)
                _write_report(workdir)


def _write_report(workdir: Path) -> None:
    from molo_jax import report_run

    report = workdir / "report.html"

    def write_report() -> None:
        report_run.write_report(workdir, report)
        logging.info("the report of this run is %s", report)

    without_failing(report.name, write_report)


def _command() -> str:
    return f"python -m molo_jax.main {shlex.join(sys.argv[1:])}"


def _say_what_runs_where() -> None:
    for line in runtime.description():
        logging.info("%s", line)
    if warning := runtime.unused_gpu():
        logging.warning("%s", warning)


if __name__ == "__main__":
    cli.run(main)
