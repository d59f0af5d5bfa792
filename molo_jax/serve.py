"""The server of the page: where it listens, what it tells nobody, and its private folder."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from molo_jax.errors import MoloError

LOCAL = ("127.0.0.1", "localhost")
_PREFIX = "molo_jax-app-"
FIRST_PORT = 7860
# Of further visitors the one whose visit is the longest ago is forgotten: each may take 400 MB.
_MOST_VISITORS = 16


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
                "middleware": [Middleware(OwnContentOnly, hosts=LOCAL if host in LOCAL else ())],
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
        own = [part for part in (os.environ.get(name), *LOCAL, host) if part]
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
