"""Features for the tests of banks, whose numbers say which row they are of."""

from pathlib import Path

import numpy as np

from molo_jax.bank.description import Layout
from molo_jax.bank.store import FeatureBank
from molo_jax.data.lists.splits import Split, Video

SIZES = (3, 2)
VIDEOS = sum(SIZES)
KEY = {"features": 1, "weights": "ab", "method": "molo", "dataset": "folder", "split": "test"}


def features(rows, sizes: tuple[int, int] = (2, 4)) -> dict:
    """The features of clips: a matrix filled with the row, and a number of its own."""
    rows = np.asarray(rows)
    tokens = np.empty((len(rows), *sizes), np.float32)
    tokens[:] = rows[:, None, None] + 1
    return {"tokens": tokens, "unused": None, "pair": (rows.astype(np.int16) + 7,)}


def layout(class_sizes: tuple[int, ...] = SIZES, **changes) -> Layout:
    return Layout.of(features([], **changes), class_sizes)


def open_bank(folder: Path, **changes) -> FeatureBank:
    return FeatureBank.open(folder, KEY, {"step": 7}, layout(**changes))


def put(bank: FeatureBank, rows, **changes) -> None:
    bank.put(np.asarray(rows), features(rows, **changes))


def check(bank: FeatureBank, draws: int) -> None:
    """Asserts that every row that counts as present holds its numbers."""
    rows = np.flatnonzero(bank.present(draws))
    found, wanted = bank.features(), features(rows)
    np.testing.assert_array_equal(found["tokens"][rows], wanted["tokens"])
    np.testing.assert_array_equal(found["pair"][0][rows], wanted["pair"][0])


def split(names: dict[int, list[str]] | None = None) -> Split:
    names = names or {4: ["a/1", "a/2", "a/3"], 9: ["b/1", "b/2"]}
    lines = [Video(name, number, 1) for number, videos in names.items() for name in videos]
    return Split.of("test", "a list", lines)
