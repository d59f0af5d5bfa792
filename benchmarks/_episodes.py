"""The arrays that both frameworks compute on, and the settings that they share."""

from typing import Any

import numpy as np

CLASSES = 64
LEARNING_RATE = 1e-4
# Weights of classification, contrast and reconstruction, and the episodes that the reconstruction
# counts as.
COEFFICIENTS = {"classification": 0.8, "contrast": 0.05, "reconstruction": 0.1}
ACCUMULATION = 4


def random_episodes(options: dict[str, Any]) -> dict[str, np.ndarray]:
    """Random episodes, already normalized: `support` and `query` are (e, v, t, h, w, 3)."""
    rng = np.random.default_rng(0)
    count, way = options["episodes"], options["way"]
    arrays = {"index": np.arange(count, dtype=np.int32)}
    for name, each in (("support", options["shot"]), ("query", options["query"])):
        labels = np.repeat(np.arange(way, dtype=np.int32), each)
        size = (count, len(labels), options["frames"], options["crop"], options["crop"], 3)
        arrays[name] = rng.standard_normal(size, np.float32)
        arrays[f"{name}_labels"] = np.tile(labels, (count, 1))
        arrays[f"{name}_classes"] = arrays[f"{name}_labels"]
    return arrays
