"""A bank: a folder with the features of the clips of a split, of which some may be absent yet.

`bank.json` says what the features are of and how many draws of each video there is room for. Each
array of the features is a `.npy` file with one row for each clip; `checks.npy` has the CRC-32 of
the numbers of each row, by which damaged numbers are known. `rows.npy` says of each row
whether it is there, and `bad.json` which videos are not usable. Row number `draw · videos +
offset[class] + video` is that of a clip, so that more draws of the videos are appended.

Rows are marked as being there only after their numbers are on the disk, so that a process that is
killed at any moment leaves a bank that is right, and another process goes on.
"""

import contextlib
import logging
import math
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from molo_jax.bank.arrays import ArrayFile
from molo_jax.bank.description import (
    BAD,
    DESCRIPTION,
    FORMAT,
    VERSION,
    Features,
    Layout,
    Place,
    damage,
    described,
    read_bad,
    remedy,
)
from molo_jax.errors import MoloError
from molo_jax.files import InUseError, locked, write_json, written
from molo_jax.prediction.container import DamagedError
from molo_jax.prediction.trees import describe, rebuild

_LOGGER = logging.getLogger(__name__)
ROWS, CHECKS, LOCK = "rows.npy", "checks.npy", ".lock"
# Bytes of features that are checked at once.
_CHECKED_BYTES = 64 * 2**20
_ABSENT, _PRESENT = 0, 1
# Rows are marked as present after so many seconds or bytes: what a kill costs at most.
_MARK_SECONDS, _MARK_BYTES = 2.0, 64 * 2**20
# Seconds between two looks whether another process still writes.
_WAIT_SECONDS = 0.5


class FeatureBank:
    """The features of the clips of a split in a folder. Use `FeatureBank.open`.

    Attributes:
        folder: where they are.
        key: what the features are of, see :mod:`molo_jax.bank.key`.
        about: what is known beside that, such as the step of the network.
        layout: what the files look like.
        draws: number of draws of each video that there is room for.
        bad: the videos that are not usable, with the reasons.
    """

    def __init__(
        self, folder: Path, key: Mapping[str, Any], about: Mapping[str, Any], layout: Layout
    ):
        self.folder, self.layout = folder, layout
        self.key, self.about = dict(key), dict(about)
        self.draws, self.bad = 0, {}
        self._state = np.zeros(0, np.uint8)
        # Rows that are written and not yet marked as present, and since when.
        self._unmarked: list[np.ndarray] = []
        self._since, self._waiting_bytes = time.monotonic(), 0

    @classmethod
    def open(
        cls, folder: Path, key: Mapping[str, Any], about: Mapping[str, Any], layout: Layout
    ) -> "FeatureBank":
        """Opens a bank, or describes one that has no files yet.

        Args:
            folder: of the bank.
            key: what the features must be of.
            about: what is written beside the key where the bank is new.
            layout: what its files must look like.

        Raises:
            MoloError: a file of the bank is damaged; or it is of other features.
        """
        bank = cls(folder, key, about, layout)
        bank.refresh()
        return bank

    @classmethod
    def read(cls, folder: Path) -> "FeatureBank":
        """Opens a bank whatever it is of.

        Raises:
            MoloError: there is none, or a file of it is damaged.
        """
        stored = described(folder)
        if stored is None:
            raise MoloError(f"there is no bank of features in {folder}: {DESCRIPTION} is missing")
        bank = cls(folder, stored["key"], stored["about"], stored["layout"])
        bank.refresh()
        return bank

    @property
    def videos(self) -> int:
        """Number of listed videos, bad ones included."""
        return self.layout.videos

    @property
    def bytes(self) -> int:
        """Bytes of the features that there is room for."""
        return self.draws * self.videos * self.layout.bytes_of_a_clip

    def refresh(self) -> None:
        """Reads again what the files say; another process may have written more of them.

        Raises:
            MoloError: a file is damaged, or of other features.
        """
        while True:
            stored = described(self.folder)
            try:
                self._read_files(stored)
            except MoloError:
                # Another process may have made room for more draws meanwhile.
                if described(self.folder) == stored:
                    raise
            else:
                return

    def _read_files(self, stored: Mapping[str, Any] | None) -> None:
        self.draws, self.bad, self._state = 0, {}, np.zeros(0, np.uint8)
        if stored is None:
            return
        if (stored["key"], stored["layout"]) != (self.key, self.layout):
            raise MoloError(
                f"{self.folder} holds other features than its name says; {remedy(self.folder)}"
            )
        self.draws = stored["draws"]
        with damage(self.folder):
            self.bad = read_bad(self.folder / BAD, self.layout.class_sizes)
            for file in self._files():
                file.check(self.draws * self.videos, growing=stored["growing"] * self.videos)
            if self.draws:
                self._state = self._rows_file().take(np.arange(self.draws * self.videos))

    def rows(self, classes: Any, videos: Any, draws: Any = 0) -> Int[np.ndarray, "..."]:
        """Returns the rows of clips; arrays of positions and of numbers of draws are broadcast."""
        return self.layout.rows(classes, videos, draws)

    def places(self, rows: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns class positions, video positions and numbers of the draws of rows."""
        return self.layout.places(rows)

    def present(self, draws: int) -> Bool[np.ndarray, "r"]:
        """Returns for each row of so many draws whether its features are there."""
        known = np.zeros(draws * self.videos, bool)
        count = min(len(known), len(self._state))
        known[:count] = self._state[:count] == _PRESENT
        return known

    def missing(self, draws: int, *, retry_bad: bool = False) -> Int[np.ndarray, "r"]:
        """Returns the rows of so many draws whose features are not there, ascending.

        Args:
            draws: number of draws.
            retry_bad: whether rows of videos that are known to be bad are among them.
        """
        wanted = ~self.present(draws).reshape(draws, self.videos)
        if not retry_bad:
            wanted[:, [self.rows(*place) for place in self.bad]] = False
        return np.flatnonzero(wanted)

    def features(self) -> Features:
        """Returns the features of all rows as read-only arrays that lie in the files.

        What is read of them counts as memory of the process until the system needs room. Rows that
        are not there hold zeros or anything else.
        """
        count = self.draws * self.videos
        return rebuild(self.layout.structure, [file.mapped(count) for file in self._leaf_files()])

    def take(self, rows: Int[np.ndarray, "r"]) -> Features:
        """Reads the features of rows into memory.

        Raises:
            MoloError: a file is damaged, or cannot be read.
        """
        with damage(self.folder):
            leaves = [file.take(np.asarray(rows)) for file in self._leaf_files()]
        return rebuild(self.layout.structure, leaves)

    def verify(self, rows: Int[np.ndarray, "r"]) -> None:
        """Checks that the numbers of rows are those that were written; reads each of them once.

        Raises:
            MoloError: some are not.
        """
        step = max(1, _CHECKED_BYTES // max(1, self.layout.bytes_of_a_clip))
        with damage(self.folder):
            wrong = 0
            for start in range(0, len(rows), step):
                part = np.asarray(rows[start : start + step], np.int64)
                found = _checks([file.take(part) for file in self._leaf_files()], len(part))
                wrong += int(np.count_nonzero(found != self._checks_file().take(part)))
            if wrong:
                raise DamagedError(
                    f"the features of {wrong:,} of {len(rows):,} clips are not those that were"
                    " written"
                )

    @contextlib.contextmanager
    def writing(self, draws: int) -> Iterator[None]:
        """Makes room for so many draws, and lets this process alone write rows.

        A process that finds another one writing waits for its end, and says so.

        Raises:
            MoloError: the disk is full, or a file cannot be written or is damaged.
        """
        with written(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with _waiting_for_lock(self.folder / LOCK):
                self.refresh()
                self._grow(draws)
                try:
                    yield
                finally:
                    self._mark()
        finally:
            # Where nothing could be written, nothing stays.
            with contextlib.suppress(OSError):
                self.folder.rmdir()
                self.folder.parent.rmdir()

    def put(self, rows: Int[np.ndarray, "r"], features: Features) -> None:
        """Writes the features of clips; to be called within `writing`.

        Args:
            rows: the row of each clip.
            features: with the clips as their leading axis.

        Raises:
            MoloError: the disk is full, or the bank cannot be written.
        """
        if not len(rows):
            return
        _, arrays = describe(features)
        for file, array in zip(self._leaf_files(), arrays, strict=True):
            with written(file.path):
                file.put(rows, array)
        checks = self._checks_file()
        with written(checks.path):
            checks.put(rows, _checks(arrays, len(rows)))
        # What could be read now is no bad video, whatever was the matter with it.
        places = zip(*(part.tolist() for part in self.places(rows)[:2]), strict=True)
        self._keep_bad({place: self.bad[place] for place in self.bad.keys() - set(places)})
        self._unmarked.append(np.asarray(rows, np.int64))
        self._waiting_bytes += len(rows) * self.layout.bytes_of_a_clip
        late = time.monotonic() - self._since >= _MARK_SECONDS
        if late or self._waiting_bytes >= _MARK_BYTES:
            self._mark()

    def note_bad(self, bad: Mapping[Place, str]) -> None:
        """Records videos that are not usable, with the reasons, beside those that are known."""
        self._keep_bad(self.bad | dict(bad))

    def _keep_bad(self, bad: dict[Place, str]) -> None:
        if bad != self.bad:
            self.bad = bad
            lines = [[*place, reason] for place, reason in sorted(bad.items())]
            write_json(self.folder / BAD, {"videos": lines})

    def _mark(self) -> None:
        if self._unmarked:
            rows = np.concatenate(self._unmarked)
            for file in (*self._leaf_files(), self._checks_file()):
                with written(file.path):
                    file.sync()
            marks = self._rows_file()
            with written(marks.path):
                marks.put(rows, np.full(len(rows), _PRESENT, np.uint8))
                marks.sync()
            self._state[rows] = _PRESENT
        self._unmarked, self._waiting_bytes, self._since = [], 0, time.monotonic()

    def _grow(self, draws: int) -> None:
        """Makes room for so many draws; what a killed process has begun of that is finished."""
        stored = described(self.folder)
        begun = stored["growing"] if stored else 0
        if stored and begun == self.draws >= draws:
            return
        draws = max(draws, begun)
        more = (draws - self.draws) * self.videos
        self._check_room(more)
        self._describe(self.draws, growing=draws)
        for file in self._files():
            with written(file.path):
                file.resize(draws * self.videos)
        self._describe(draws, growing=draws)
        self.draws = draws
        self._state = np.concatenate([self._state, np.full(more, _ABSENT, np.uint8)])

    def _check_room(self, rows: int) -> None:
        needed = rows * (self.layout.bytes_of_a_clip + 1)
        with written(self.folder):
            free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise MoloError(
                f"{self.folder} cannot be written: the features of {rows:,} clips take"
                f" {in_mib(needed)}, and {in_mib(free)} are free there; make room, or choose"
                " another --workdir"
            )

    def _describe(self, draws: int, *, growing: int) -> None:
        content = {"format": FORMAT, "version": VERSION, "key": self.key, "about": self.about}
        content |= self.layout.to_json() | {"draws": draws, "growing": growing}
        write_json(self.folder / DESCRIPTION, content)

    def _leaf_files(self) -> list[ArrayFile]:
        return [
            ArrayFile(self.folder / f"features_{number}.npy", np.dtype(kind), shape)
            for number, (kind, shape) in enumerate(self.layout.leaves)
        ]

    def _rows_file(self) -> ArrayFile:
        return ArrayFile(self.folder / ROWS, np.dtype(np.uint8), ())

    def _checks_file(self) -> ArrayFile:
        return ArrayFile(self.folder / CHECKS, np.dtype(np.uint32), ())

    def _files(self) -> list[ArrayFile]:
        return [*self._leaf_files(), self._checks_file(), self._rows_file()]


def _checks(arrays: Sequence[np.ndarray], rows: int) -> np.ndarray:
    """Returns the CRC-32 of the numbers of each row, over all arrays: (r,) uint32."""
    found = np.zeros(rows, np.uint32)
    plain = [
        np.ascontiguousarray(array).reshape(rows, math.prod(array.shape[1:])).view(np.uint8)
        for array in arrays
    ]
    for row in range(rows):
        check = 0
        for array in plain:
            check = zlib.crc32(array[row].data, check)
        found[row] = check
    return found


def in_mib(size: int) -> str:
    """Says a number of bytes: `1,234.5 MiB`."""
    return f"{size / 2**20:,.1f} MiB"


@contextlib.contextmanager
def _waiting_for_lock(path: Path) -> Iterator[None]:
    """Holds the lock of a bank; waits while another process holds it."""
    said = False
    while True:
        lock = locked(path, lambda who: who or "another process")
        try:
            lock.__enter__()
            break
        except InUseError as error:
            if not said:
                said = True
                _LOGGER.info("%s writes features into %s; waiting for its end", error, path.parent)
            time.sleep(_WAIT_SECONDS)
    try:
        yield
    finally:
        lock.__exit__(None, None, None)
