"""Files from the internet: fetched once into a cache, as a whole and with the right checksum."""

import hashlib
import http.client
import os
import urllib.request
from pathlib import Path

from absl import logging
from tqdm import tqdm

from molo_jax.errors import MoloError
from molo_jax.files import check_file, replacing

# Seconds after which an address that cannot be reached, and a download without an answer, are given
# up: where there is no network, its user waits for the first. And bytes read at once.
_CONNECT_TIMEOUT, _TIMEOUT = 3, 30
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
    if not path.exists() and not path.is_symlink():
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(url, path, digest, otherwise)
        return path
    check_file(path, f"the file {url}")
    if sha256(path) != digest:
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
    logging.info("downloading %s", url)
    try:
        with replacing(path) as temporary:
            _stream(url, temporary)
            if sha256(temporary) != digest:
                raise MoloError(f"what {url} sent is not the file: its SHA-256 is not {digest}")
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise MoloError(
            f"{url} cannot be downloaded ({reason}); get it elsewhere and put it at {path} (its"
            f" SHA-256 is {digest}), or {otherwise}"
        ) from error


class _PatientOnceConnected:
    """A connection that is given up soon while there is none, and late while an answer is due."""

    def connect(self) -> None:
        self.timeout = _CONNECT_TIMEOUT
        super().connect()
        self.sock.settimeout(_TIMEOUT)


class _Http(_PatientOnceConnected, http.client.HTTPConnection):
    """For http addresses."""


class _Https(_PatientOnceConnected, http.client.HTTPSConnection):
    """For https addresses."""


class _HttpHandler(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Http, request)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Https, request)


def _stream(url: str, path: Path) -> None:
    opener = urllib.request.build_opener(_HttpHandler, _HttpsHandler)
    with opener.open(url) as answer, path.open("wb") as file:
        size = int(answer.headers.get("Content-Length") or 0) or None
        with tqdm(total=size, unit="B", unit_scale=True, desc=path.name, disable=None) as bar:
            while piece := answer.read(_PIECE):
                file.write(piece)
                bar.update(len(piece))
