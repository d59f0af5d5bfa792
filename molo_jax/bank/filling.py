"""Embeds what a bank lacks."""

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from molo_jax.bank.description import Layout
from molo_jax.bank.key import BankKey, differences
from molo_jax.bank.store import FeatureBank, in_mib
from molo_jax.data.clips.episodes import ClipRequest
from molo_jax.data.clips.source import ClipSource

_LOGGER = logging.getLogger(__name__)
Features = Any
# Embeds clips; yields the positions of those that it could embed, and their features.
EmbedClips = Callable[["Requests"], Iterable[tuple[Int[np.ndarray, "v"], Features]]]
# (position of the class, of the video within it, number of the draw) -> the clip.
ClipOfDraw = Callable[[int, int, int], ClipRequest]


class Requests(Sequence[ClipRequest]):
    """The clips of rows, each made when it is asked for: memory does not grow with their frames.

    Args:
        layout: of the bank, whose files need not be there.
        rows: the rows of the clips.
        clip_of: returns the clip of a draw.
    """

    def __init__(self, layout: Layout, rows: Int[np.ndarray, "r"], clip_of: ClipOfDraw):
        self.rows = rows
        self._layout, self._clip_of = layout, clip_of

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> ClipRequest:
        return self._clip_of(*map(int, self._layout.places(self.rows[position])))


def open_bank(root: Path, key: BankKey, like: Features, class_sizes: Sequence[int]) -> FeatureBank:
    """Opens the bank of a key, which may have no features yet; says what others are of.

    Args:
        root: the folder of banks.
        key: what the features are of.
        like: features of any number of clips, such as none.
        class_sizes: number of listed videos of each class.

    Raises:
        MoloError: the bank is damaged.
    """
    layout = Layout.of(like, tuple(class_sizes))
    bank = FeatureBank.open(key.folder(root), key.values, key.about, layout)
    if not bank.draws and (line := differences(root, key)):
        _LOGGER.info("%s", line)
    return bank


def fill(
    bank: FeatureBank,
    source: ClipSource,
    clip_of: ClipOfDraw,
    embed: EmbedClips,
    draws: int = 1,
    wanted: Int[np.ndarray, "r"] | None = None,
) -> int:
    """Embeds the clips that a bank lacks, and writes their features as they come.

    A video that was found to be bad is not tried again, and the source is told of it; with the
    source's policy "fail" such a video is read again, and fails as it did.

    Args:
        bank: where the features are kept; it can be used when this returns.
        source: the videos.
        clip_of: returns the clip of a draw.
        embed: embeds clips; leaves out those that turn out bad.
        draws: so many draws of each video.
        wanted: the rows that are needed; None: all of so many draws.

    Returns:
        The number of clips that were embedded.

    Raises:
        MoloError: a video is bad and the policy is "fail", or the bank cannot be written.
    """
    retry = source.on_bad_video == "fail"

    def lacking() -> Int[np.ndarray, "r"]:
        rows = bank.missing(draws, retry_bad=retry)
        return rows if wanted is None else np.intersect1d(rows, wanted)

    if bank.draws >= draws and not len(lacking()):
        source.note_bad(bank.bad)
        _LOGGER.info("the features of %s are used (%s)", bank.folder, in_mib(bank.bytes))
        return 0
    with bank.writing(draws):
        source.note_bad(bank.bad)
        bank.note_bad(source.bad_places())
        rows = lacking()
        _LOGGER.info(
            "%d of %d clips are to be embedded into %s", len(rows), draws * bank.videos, bank.folder
        )
        count = 0
        for positions, features in embed(Requests(bank.layout, rows, clip_of)) if len(rows) else ():
            bank.put(rows[positions], features)
            bank.note_bad(source.bad_places())
            count += len(positions)
        bank.note_bad(source.bad_places())
    return count
