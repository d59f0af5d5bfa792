"""Files from the internet: fetched once into a cache, as a whole and with the right checksum."""

import hashlib
import http.client
import os
import urllib.request
from pathlib import Path

from absl import logging
from tqdm import tqdm

from molo_jax.errors import MoloError

# Seconds without an answer after which a download is given up, and bytes read at once.
_TIMEOUT = 30
_PIECE = 2**20


def cache_folder() -> Path:
    """Returns `$XDG_CACHE_HOME/molo_jax`, or `~/.cache/molo_jax`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "molo_jax"


def fetch(url: str, path: Path, digest: str, *, otherwise: str) -> Path:
    """Returns a file of the cache; downloads it the first time.

    Args:
        url: where it is.
        path: where it is kept.
        digest: its SHA-256, in hexadecimal digits.
        otherwise: what else a user can do where there is no network, behind "or".

    Returns:
        `path`, whose content has that checksum.

    Raises:
        MoloError: when it cannot be downloaded (with the address and where to put the file), or
            is not the file that it should be.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(url, path, digest, otherwise)
    elif sha256(path) != digest:
        raise MoloError(
            f"{path} is not {url}: its SHA-256 is not {digest}; remove it, then run the same"
            " command again"
        )
    return path


def sha256(path: Path) -> str:
    """Returns the checksum of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(url: str, path: Path, digest: str, otherwise: str) -> None:
    """Downloads a file that is there as a whole and with the right checksum, or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    logging.info("downloading %s", url)
    try:
        _stream(url, temporary)
        if sha256(temporary) != digest:
            raise MoloError(f"what {url} sent is not the file: its SHA-256 is not {digest}")
        os.replace(temporary, path)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise MoloError(
            f"{url} cannot be downloaded ({reason}); get it elsewhere and put it at {path}, or"
            f" {otherwise}"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _stream(url: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer, path.open("wb") as file:
        size = int(answer.headers.get("Content-Length") or 0) or None
        with tqdm(total=size, unit="B", unit_scale=True, desc=path.name, disable=None) as bar:
            while piece := answer.read(_PIECE):
                file.write(piece)
                bar.update(len(piece))
