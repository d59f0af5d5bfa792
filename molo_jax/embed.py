"""The command that embeds every clip of a split once, and keeps or exports the features.

python -m molo_jax.embed --config=FILE [--workdir=DIR] [--split=test] [--draws=K] [--export=FILE]

The features lie in DIR/bank, where evaluations find them. FILE ends in .npz or .parquet;
--export=projector:FOLDER is for TensorBoard. It goes on where an earlier one was stopped.
"""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging

from molo_jax import cli, stopping
from molo_jax.config_checks import validate
from molo_jax.data.lists.splits import STANDARD_SPLITS
from molo_jax.engine import runtime
from molo_jax.errors import MoloError, UsageError
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
_PROJECTOR = "projector:"
_ENDINGS = (".npz", ".parquet")
NO_PYARROW = (
    "to write .parquet, pyarrow is needed; install it with: pip install 'molo-jax[parquet]', or"
    " export a file .npz"
)


def main(argv: Sequence[str]) -> None:
    """Runs the command with the parsed flags."""
    del argv
    config = _CONFIG.value
    validate(config)
    exports = [parse_export(text) for text in _EXPORT.value]
    workdir = cli.work_folder_of(_WORKDIR.value)
    check_sources(
        workdir,
        trains=False,
        init_from=config.init_from,
        pretrained=config.model.pretrained,
        backbone=config.model.backbone,
    )
    with stopping.ending_at_once(), work_folder(workdir, for_training=False):
        not_kept = runtime.prepare(
            deterministic=config.runtime.deterministic,
            compilation_cache=config.runtime.compilation_cache,
        )
        if not_kept:
            logging.warning("%s", not_kept)
        # These import JAX and TensorFlow, for which a mistake in the flags should not have to wait.
        from molo_jax import build, embed_run

        embed_run.check_exports(exports)
        evaluation = build.embedding(config, _SPLIT.value or config.eval.split)
        embed_run.embed(evaluation, workdir, _DRAWS.value, exports)


def parse_export(text: str) -> tuple[str, Path]:
    """Reads where features are exported to, and finds out before the work whether that can be.

    Returns:
        `.npz`, `.parquet` or `projector`, and the file or the folder.

    Raises:
        UsageError: it is neither, or in a folder that does not exist or cannot be written to.
        MoloError: pyarrow is needed and not installed.
    """
    is_projector = text.startswith(_PROJECTOR)
    path = Path(text.removeprefix(_PROJECTOR))
    kind = "projector" if is_projector else path.suffix.lower()
    if not path.name or not (is_projector or kind in _ENDINGS):
        raise UsageError(
            f"--export={text}: expected a file .npz or .parquet, or {_PROJECTOR}FOLDER"
        )
    parent = path.absolute().parent
    if not parent.is_dir() or (path.is_dir() and not is_projector):
        what = "a folder" if is_projector else "a file"
        raise UsageError(f"--export={text}: expected {what} in a folder that exists")
    if not os.access(parent, os.W_OK):
        raise UsageError(f"--export={text}: the folder {parent} cannot be written to")
    if kind == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise MoloError(f"--export={text}: {NO_PYARROW}")
    return kind, path


if __name__ == "__main__":
    cli.run(main)
