"""The command that shows a page to try it: classes, clips and answers in the browser.

python -m molo_jax.app --weights=SRC [--port=7860] [--unknown=off|auto|VALUE]

SRC is a work folder, a checkpoint, an official file or a backbone such as resnet50. The page is for
this machine alone; videos are removed as soon as they are read. It needs the extra `app`.
"""

import contextlib
import importlib.util
import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging

from molo_jax import cli, stopping
from molo_jax.errors import MoloError, UsageError

_LOCAL = ("127.0.0.1", "localhost")
_PREFIX = "molo_jax-app-"
_FIRST_PORT = 7860
# Of further visitors the one whose visit is the longest ago is forgotten: each may take 400 MB.
_MOST_VISITORS = 16

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
    f"Port to listen at; default: the first free one from {_FIRST_PORT}.",
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
    if _HOST.value not in _LOCAL:
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


async def _fetch_nothing(url: str, cache_dir: str) -> str:
    del cache_dir
    raise ValueError(f"{url} is no upload")


@contextlib.contextmanager
def serving(blocks: Any, *, host: str, port: int | None, megabytes: int) -> Iterator[str]:
    """Serves a page while the block runs, and gives its address.

    Args:
        blocks: the page, of `molo_jax.prediction.page.build_page`.
        host: the address to listen at.
        port: the port; None: the first free one from 7860.
        megabytes: size of one uploaded file at most.

    Raises:
        MoloError: the port is in use, or the address is not one of this machine.
    """
    from gradio import processing_utils
    from starlette.middleware import Middleware

    from molo_jax.prediction.page import theme
    from molo_jax.prediction.page_guard import OwnContentOnly
    from molo_jax.prediction.page_html import STYLE

    # A request may name an address in place of an upload, which Gradio would fetch.
    processing_utils.async_ssrf_protected_download = _fetch_nothing
    try:
        _, url, _ = blocks.queue(max_size=64).launch(
            server_name=host,
            server_port=port,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            inbrowser=False,
            show_error=False,
            state_session_capacity=_MOST_VISITORS,
            max_file_size=megabytes * 10**6,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            allowed_paths=[],
            theme=theme(),
            css=STYLE,
            app_kwargs={
                "middleware": [Middleware(OwnContentOnly, hosts=_LOCAL if host in _LOCAL else ())],
                "docs_url": None,
            },
        )
    except OSError as error:
        where = f"{host}:{port}" if port else host
        raise MoloError(
            f"the page cannot listen at {where}: the port is in use, or the address is none of this"
            " machine; choose another --port or --host"
        ) from error
    try:
        yield url
    finally:
        blocks.close(verbose=False)


def prepare_environment(folder: Path, host: str = "") -> None:
    """Sets what Gradio reads from the environment when it is imported.

    Args:
        folder: where uploads are kept.
        host: the address to listen at.
    """
    # Nothing is told or opened to anybody, whatever the user's environment says.
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_SHARE"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Gradio asks its own page for a sign of life, which no proxy can answer.
    for name in ("no_proxy", "NO_PROXY"):
        own = [part for part in (os.environ.get(name), *_LOCAL, host) if part]
        os.environ[name] = ",".join(own)


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Gives a folder that its user alone can read, and removes it at the end.

    What processes left there that were killed is removed first.
    """
    remove_abandoned(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-") as folder:
        yield Path(folder)


def remove_abandoned(parent: Path) -> None:
    """Removes the folders of this user's pages whose process is gone."""
    import shutil

    for path in parent.glob(f"{_PREFIX}*-*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError, ValueError):
            if path.is_symlink() or path.stat().st_uid != os.getuid() or _runs(int(pid)):
                continue
            shutil.rmtree(path)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


if __name__ == "__main__":
    cli.run(main)
