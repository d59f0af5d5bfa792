"""The features of the clips that a report shows: from the bank of the work folder, or computed."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from molo_jax.bank.key import BANKS
from molo_jax.bank.store import FeatureBank
from molo_jax.banks import key_of
from molo_jax.data.clips.episodes import ClipRequest
from molo_jax.engine.evaluation import FeatureStore
from molo_jax.errors import MoloError
from molo_jax.evaluate import Evaluation, Network
from molo_jax.evaluator import Evaluator
from molo_jax.methods.episode import Features

logger = logging.getLogger(__name__)


class ClipFeatures:
    """The features of clips, each computed once at most.

    Args:
        evaluation: how clips are read and embedded.
        network: embeds them.
        workdir: the work folder, where a bank may be; the bank is only read.

    Attributes:
        embedded: number of clips that were embedded, the others were in the bank.
    """

    def __init__(self, evaluation: Evaluation, network: Network, workdir: Path):
        self.embedded = 0
        self._weights = network.params, network.batch_stats
        self._evaluator = Evaluator(evaluation.data, network.graphdef)
        self._bank = _bank_of(evaluation, network, workdir)
        self._store = FeatureStore(self._found, capacity=10**6)

    def ensure(self, clips: Sequence[ClipRequest]) -> bool:
        """Gets features; returns whether all clips have them, or some turned out bad."""
        return self._store.ensure(clips)

    def of(self, clips: Sequence[ClipRequest]) -> Features:
        """Returns the features of clips that have them, with the clips as the leading axis."""
        rows = np.array(self._store.rows(clips))
        return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], self._store.table())

    def _found(self, clips: Sequence[ClipRequest]) -> Iterator[tuple[np.ndarray, Any]]:
        left = np.arange(len(clips))
        if self._bank is not None:
            rows = self._bank.rows(*np.transpose([clip.video for clip in clips]))
            there = self._bank.present(1)[rows]
            if there.any():
                yield np.flatnonzero(there), self._bank.take(rows[there])
            left = np.flatnonzero(~there)
        if len(left):
            for positions, found in self._evaluator.embed(*self._weights, [clips[i] for i in left]):
                self.embedded += len(positions)
                yield left[positions], found


def _bank_of(evaluation: Evaluation, network: Network, workdir: Path) -> FeatureBank | None:
    """Opens the bank of exactly these features, if there is one in the work folder."""
    data = evaluation.data
    # With several draws of a video, it depends on the episode which one is shown.
    if not data.uses_bank or any(sampler.draws > 1 for sampler in data.samplers.values()):
        return None
    key = key_of(
        data,
        network.settings,
        network.params,
        network.batch_stats,
        dataset=evaluation.dataset,
        clips=evaluation.clips,
        seed=evaluation.seed,
    )
    folder = key.folder(workdir / BANKS)
    if not folder.is_dir():
        return None
    try:
        return FeatureBank.read(folder)
    except MoloError as error:
        logger.warning("%s; the clips are embedded anew", error)
        return None
