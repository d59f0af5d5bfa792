"""Few-shot action recognition with MoLo in JAX and Flax NNX.

A classifier of one's own classes, from a few clips of each::

    import molo_jax

    classifier = molo_jax.load("runs/folder")
    classifier.fit({"squat": ["a.mp4", "b.mp4"], "lunge": ["c.mov", "d.mov"]})
    result = classifier.predict("new.mp4")
    print(result.label, result.probability)
"""

import importlib
from typing import TYPE_CHECKING, Any

from molo_jax.platforms import check_platform

# Before anything that would fail elsewhere in a way that nobody understands.
check_platform()

if TYPE_CHECKING:
    from molo_jax.prediction.api import load, load_classifier
    from molo_jax.prediction.classifier import Classifier
    from molo_jax.prediction.results import UNKNOWN, Prediction

# The one place of the version; pyproject.toml reads it here.
__version__ = "0.2.0.dev0"

# What the package offers to programs -> where it is. It is imported when it is used, so that a
# command that needs none of it starts without JAX.
_OFFERED = {
    "load": "molo_jax.prediction.api",
    "load_classifier": "molo_jax.prediction.api",
    "Classifier": "molo_jax.prediction.classifier",
    "Prediction": "molo_jax.prediction.results",
    "UNKNOWN": "molo_jax.prediction.results",
}
__all__ = ["UNKNOWN", "Classifier", "Prediction", "load", "load_classifier"]


def __getattr__(name: str) -> Any:
    if name not in _OFFERED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_OFFERED[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_OFFERED])
