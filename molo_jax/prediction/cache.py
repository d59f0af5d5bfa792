"""Features of clips on disk, found again by the content of the clips, whatever their names are."""

import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from molo_jax.downloads import cache_folder
from molo_jax.errors import MoloError
from molo_jax.files import failure, replacing
from molo_jax.prediction import checks
from molo_jax.prediction.container import (
    DamagedError,
    OtherVersionError,
    read_container,
    write_container,
)
from molo_jax.prediction.embedder import EmbeddedClip
from molo_jax.prediction.trees import describe, leaves_of, rebuild

_LOGGER = logging.getLogger(__name__)
FORMAT, VERSION = "molo_jax features", 1
# Bytes that all features of all networks may take together: about 4,000 clips of a ResNet-50.
LIMIT = 2 * 2**30
_SUFFIX = ".features"
_DIGEST = re.compile(r"[0-9a-f]{64}")
# How much of the limit is left after the oldest were removed, and how much of it one process
# writes before it looks again what others have written.
_KEPT, _UNSEEN = 0.9, 1 / 16
# Seconds after which a file with a temporary name belongs to no process any more.
_ABANDONED = 3600.0


class FeatureCache:
    """Keeps the features of clips and their small pictures, one file for each clip.

    Several processes may use the same folder. A damaged file counts as absent. Where the folder
    cannot be written, nothing is kept, and one warning says so. The pictures show what is in
    the videos; therefore the folder can be read by its owner alone.

    Args:
        folder: where they are kept; None: `features` in the user's cache folder.
        network_digest: of the network, the settings and the choice of frames: clips of one file
            have other features with another one.
        limit: bytes that the files of all networks in the folder take at most; those that were
            not used for the longest time are removed first.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None, network_digest: str, limit: int = LIMIT
    ):
        _check_digest(network_digest)
        self._root = cache_folder() / "features" if folder is None else Path(folder)
        self._folder = self._root / network_digest
        self._network, self._limit = network_digest, limit
        self._writable = True
        # Bytes that may be written before the sizes of all files are added up again.
        self._room = 0
        self._lock = threading.Lock()

    def get(self, digest: str) -> EmbeddedClip | None:
        """Returns what is kept of a clip.

        Args:
            digest: SHA-256 of the clip's content, hexadecimal.

        Returns:
            The clip, whose name is its digest; None where nothing is kept, or it is damaged.
        """
        path = self._path(digest)
        try:
            header, arrays = read_container(path, FORMAT, VERSION)
            clip = self._clip(header, arrays, digest)
        except OtherVersionError:
            return None
        except DamagedError as error:
            _LOGGER.warning("%s is left out: %s; it is made anew", path, error)
            return None
        except MoloError:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return clip

    def put(self, clip: EmbeddedClip) -> None:
        """Keeps a clip, unless it cannot be written."""
        path = self._path(clip.digest)
        if not self._writable:
            return
        try:
            structure, leaves = describe(clip.features)
        except ValueError as error:
            self._writable = False
            _LOGGER.warning("features of clips are not kept: %s", error)
            return
        arrays = {f"features_{number}": leaf for number, leaf in enumerate(leaves)}
        arrays |= {"thumbnails": clip.thumbnails, "numbers": np.asarray(clip.numbers, np.int64)}
        if clip.seconds is not None:
            arrays["seconds"] = np.asarray(clip.seconds, np.float64)
        header = {"clip": clip.digest, "network": self._network, "features": structure}
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Threads and processes can write the same clip; the last one to rename it stays.
            name = f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp"
            with replacing(path, path.with_name(name)) as temporary:
                write_container(temporary, FORMAT, VERSION, header, arrays)
                size = temporary.stat().st_size
            self._make_room(size)
        except OSError as error:
            self._writable = False
            _LOGGER.warning(
                "features of clips are not kept: %s cannot be written: %s",
                self._folder,
                failure(error),
            )

    def _path(self, digest: str) -> Path:
        _check_digest(digest)
        return self._folder / f"{digest}{_SUFFIX}"

    def _clip(self, header: dict, arrays: dict[str, np.ndarray], digest: str) -> EmbeddedClip:
        checks.fields(header, {"clip", "network", "features"}, "the description")
        if (header["clip"], header["network"]) != (digest, self._network):
            raise DamagedError("it is of another clip or of another network")
        names = [f"features_{number}" for number in range(leaves_of(header["features"]))]
        expected = {*names, "thumbnails", "numbers"}
        if not expected <= set(arrays) <= {*expected, "seconds"}:
            raise DamagedError(
                f"its arrays are {', '.join(arrays)}, expected {', '.join(expected)}"
            )
        thumbnails, numbers = arrays["thumbnails"], arrays["numbers"]
        seconds = arrays.get("seconds")
        fitting = (
            (thumbnails.dtype, thumbnails.ndim, thumbnails.shape[-1:]) == (np.uint8, 4, (3,))
            and (numbers.dtype, numbers.shape) == (np.int64, thumbnails.shape[:1])
            and (seconds is None or seconds.shape == numbers.shape)
        )
        if not fitting:
            raise DamagedError("its pictures, the numbers and the times of its frames do not fit")
        for name in names:
            if arrays[name].dtype.kind == "f" and not np.isfinite(arrays[name]).all():
                raise DamagedError(f"{name} has numbers that are not finite")
        return EmbeddedClip(
            name=digest,
            digest=digest,
            features=rebuild(header["features"], [arrays[name] for name in names]),
            thumbnails=thumbnails,
            numbers=numbers,
            seconds=seconds,
        )

    def _make_room(self, written: int) -> None:
        """Removes the files that were not used for the longest time, if there are too many."""
        with self._lock:
            self._room -= written
            if self._room > 0:
                return
            found = sorted(self._files(), key=lambda each: each[1])
            total = sum(size for _, _, size in found)
            if total > self._limit:
                for path, _, size in found:
                    if total <= _KEPT * self._limit:
                        break
                    with contextlib.suppress(OSError):
                        path.unlink()
                    total -= size
            self._room = int(min(self._limit - total, _UNSEEN * self._limit))

    def _files(self) -> Iterator[tuple[Path, float, int]]:
        """Yields the kept files with their times and sizes; removes what killed processes left."""
        for path in self._root.glob("*/*"):
            # Another process may have removed it.
            with contextlib.suppress(OSError):
                status = path.stat()
                if path.name.endswith(_SUFFIX) and _DIGEST.fullmatch(path.parent.name):
                    yield path, status.st_mtime, status.st_size
                elif (
                    path.name.startswith(".")
                    and path.name.endswith(".tmp")
                    and time.time() - status.st_mtime > _ABANDONED
                ):
                    path.unlink()


def _check_digest(digest: str) -> None:
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"{digest!r} is no SHA-256 in hexadecimal digits")
