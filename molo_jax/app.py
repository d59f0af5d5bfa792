"""The command that shows a page to try it: classes, clips and answers in the browser.

python -m molo_jax.app --weights=SRC [--port=7860] [--unknown=off|auto|VALUE]

SRC is a work folder, a checkpoint, an official file or a backbone such as resnet50. The page is for
this machine alone; videos are removed as soon as they are read. It needs the extra `app`.
"""

import importlib.util
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging

from molo_jax import cli, stopping
from molo_jax.errors import MoloError, UsageError
from molo_jax.serve import FIRST_PORT, LOCAL, prepare_environment, private_folder, serving

_WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "The network: a work folder, a checkpoint, an official file, or a backbone such as resnet50.",
)
_METHOD = flags.DEFINE_string(
    "method", "", "Of weights that fit several methods, which one; of a backbone: bi_mhm, otam."
)
_PRECISION = flags.DEFINE_string("precision", "tf32", "float32, tf32 or bf16.")
_UNKNOWN = flags.DEFINE_string(
    "unknown",
    "auto",
    "When a clip is none of the classes: auto, off, or the largest distance, relative to the usual"
    " one within the classes.",
)
_HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "Address to listen at; another one lets other machines in."
)
_PORT = flags.DEFINE_integer(
    "port",
    None,
    f"Port to listen at; default: the first free one from {FIRST_PORT}.",
    lower_bound=1,
    upper_bound=65535,
)
_MEGABYTES = flags.DEFINE_integer(
    "max_megabytes", 200, "Size of one uploaded file at most.", lower_bound=1
)
_SECONDS = flags.DEFINE_float(
    "max_seconds",
    60.0,
    "Length of one clip at most.",
    lower_bound=0.1,
    upper_bound=300.0,
)


def main(argv: Sequence[str]) -> None:
    """Runs the command with the parsed flags."""
    del argv
    if not _WEIGHTS.value:
        raise UsageError("--weights=SRC is required, for example --weights=resnet50")
    if ":" in _HOST.value:
        raise UsageError(
            f"--host={_HOST.value}: expected a name or an address of IPv4, such as 127.0.0.1"
        )
    if _HOST.value not in LOCAL:
        logging.warning(
            "the page listens at %s: whoever reaches this machine can use it, and it has no"
            " password; --host=127.0.0.1 keeps it to this machine",
            _HOST.value,
        )
    try:
        with stopping.ending_at_once(), private_folder() as folder:
            _serve(folder)
    except stopping.Stopped as stopped:
        # Ctrl-C is the usual end of a page.
        if stopped.exit_code != 128 + signal.SIGINT:
            raise
        logging.info("the page has ended; its files are removed")


def _serve(folder: Path) -> None:
    prepare_environment(folder, _HOST.value)
    if importlib.util.find_spec("gradio") is None:
        raise MoloError(
            "the page needs Gradio, which is not installed; install it with"
            " pip install 'molo-jax[app]'"
        )
    # These import JAX, for which a mistake in the flags should not have to wait.
    from molo_jax.prediction.api import keep_compiled_programs
    from molo_jax.prediction.classifier import checked_unknown
    from molo_jax.prediction.embedder import Embedder
    from molo_jax.prediction.page_session import Limits
    from molo_jax.prediction.sources import open_network

    unknown = checked_unknown(_UNKNOWN.value)
    keep_compiled_programs()
    network = open_network(_WEIGHTS.value, method=_METHOD.value, precision=_PRECISION.value)
    # And this imports Gradio, for which mistakes in the files should not have to wait.
    from molo_jax.prediction.page import build_page

    limits = Limits(megabytes=_MEGABYTES.value, seconds=_SECONDS.value)
    blocks = build_page(Embedder(network), folder, limits=limits, unknown=unknown)
    with serving(blocks, host=_HOST.value, port=_PORT.value, megabytes=limits.megabytes) as url:
        logging.info("the page is at %s; Ctrl-C ends it", url)
        threading.Event().wait()


if __name__ == "__main__":
    cli.run(main)
