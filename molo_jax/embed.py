"""The command that embeds every clip of a split once, and keeps or exports the features.

python -m molo_jax.embed --config=FILE [--workdir=DIR] [--split=test] [--draws=K] [--export=FILE]

The features lie in DIR/bank, where evaluations find them. FILE ends in .npz or .parquet;
--export=projector:FOLDER is for TensorBoard. It goes on where an earlier one was stopped.
"""

from collections.abc import Sequence

from absl import flags, logging

from molo_jax import cli, distributed, stopping
from molo_jax.bank.targets import parse_export
from molo_jax.config_checks import validate
from molo_jax.data.lists.splits import STANDARD_SPLITS
from molo_jax.engine import hosts, runtime
from molo_jax.place import define_flags, place_of
from molo_jax.weights.imagenet import check_sources
from molo_jax.workdir import work_folder

_CONFIG = cli.define_config()
flags.adopt_module_key_flags(cli)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the checkpoints and of the features; default: runs/<name of the config file>, with"
    " _<method> where one is named.",
)
_SPLIT = flags.DEFINE_enum(
    "split", None, STANDARD_SPLITS, "Which videos; default: config.eval.split."
)
_DRAWS = flags.DEFINE_integer(
    "draws", 1, "So many independent draws of the frames of each video.", lower_bound=1
)
_EXPORT = flags.DEFINE_multi_string(
    "export",
    [],
    "File for the features, .npz or .parquet; or projector:FOLDER for TensorBoard. Can be given"
    " several times.",
)
_ASKED = define_flags()


def main(argv: Sequence[str]) -> None:
    """Runs the command with the parsed flags."""
    del argv
    config = _CONFIG.value
    validate(config)
    exports = [parse_export(text) for text in _EXPORT.value]
    place = place_of(_ASKED())
    workdir = cli.work_folder_of(_WORKDIR.value)
    check_sources(
        workdir,
        trains=False,
        init_from=config.init_from,
        pretrained=config.model.pretrained,
        backbone=config.model.backbone,
    )
    asked = {"--split": _SPLIT.value, "--draws": _DRAWS.value}
    facts = {"config": config.to_dict(), "--workdir": str(workdir), **asked}
    with stopping.ending_at_once():
        not_kept = runtime.prepare(
            deterministic=config.runtime.deterministic,
            compilation_cache=config.runtime.compilation_cache,
        )
        if not_kept:
            logging.warning("%s", not_kept)
        with distributed.running(place, facts), work_folder(workdir, for_training=False):
            distributed.check_shared(workdir)
            # These import JAX and TensorFlow, for which a mistake in the flags should not have to
            # wait.
            from molo_jax import build, embed_run

            if hosts.is_first():
                embed_run.check_exports(exports)
            evaluation = build.embedding(config, _SPLIT.value or config.eval.split)
            embed_run.embed(evaluation, workdir, _DRAWS.value, exports)


if __name__ == "__main__":
    cli.run(main)
