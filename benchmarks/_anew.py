"""Evaluation as the official code does it, from its description: every episode from its files.

Of each episode all clips are decoded with decord and embedded anew, in PyTorch, and matched.
"""

import time
from typing import Any

import decord
import numpy as np
import torch
from _official_way import CROP, _Episodes
from torch import Tensor

from molo_jax.data.clips.episodes import ClipRequest
from molo_torch_ref import MoLo, pixels

# Classes of the auxiliary classifier, which takes no part.
CLASSES = 64


class Benchmark:
    """Evaluates episodes one after the other.

    Args:
        options: those of the benchmark, with `sampler` (of the episodes), `sampling` and `files`
            (of each class).
    """

    def __init__(self, options: dict[str, Any]):
        decord.logging.set_level(decord.logging.QUIET)
        self._options = options
        self._episodes = _Episodes(options)
        self._model = MoLo(CLASSES, options["backbone"]).eval()

    def load(self, tensors: dict[str, np.ndarray]) -> None:
        """Takes over weights and statistics."""
        state = {name: torch.tensor(array) for name, array in tensors.items()}
        self._model.load_state_dict(state | {"pe.pe": self._model.pe.pe}, strict=True)

    @torch.no_grad()
    def run(self, first: int, count: int) -> dict[str, Any]:
        """Evaluates episodes.

        Returns:
            `seconds`, and the predicted labels of the queries in the order of the labels,
            `predicted` (e, w, q).
        """
        start, way, predicted = time.perf_counter(), self._options["way"], []
        for index in range(first, first + count):
            episode = self._episodes.resolved(index)
            support, query = (self._views(clips) for clips in (episode.support, episode.query))
            labels = torch.from_numpy(episode.support_labels).long()
            output = self._model(support, query, labels, way, reconstruct=False)
            found = output.logits.argmax(1).numpy()[episode.query_order]
            predicted.append(found.reshape(way, -1))
        return {"seconds": time.perf_counter() - start, "predicted": np.stack(predicted)}

    def _views(self, requests: tuple[ClipRequest, ...]) -> Tensor:
        middle = (pixels.RESIZE - CROP) // 2
        return self._episodes.views(requests, lambda: middle)[0]
