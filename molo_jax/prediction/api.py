"""The functions that a program begins with: `molo_jax.load` and `molo_jax.load_classifier`."""

import os
from pathlib import Path
from typing import Any

import jax

from molo_jax.engine import runtime
from molo_jax.prediction.classifier import AUTO, Classifier
from molo_jax.prediction.clips import READING_SECONDS
from molo_jax.prediction.embedder import Embedder
from molo_jax.prediction.sources import DEFAULT_PRECISION, Network, open_network


def load(
    source: str | os.PathLike[str],
    *,
    method: str = "",
    precision: str = DEFAULT_PRECISION,
    unknown: str | float = AUTO,
    cache: bool | str | os.PathLike[str] = True,
    seconds: float = READING_SECONDS,
) -> Classifier:
    """Loads a network, as a classifier without classes yet.

    Args:
        source: a work folder of training, a checkpoint, an official PyTorch file, torchvision's
            file of a backbone, or the name of a backbone (`resnet18`, `resnet34`, `resnet50`), whose
            ImageNet weights are fetched.
        method: of a file that fits several methods, which one it is; of a backbone, how its
            features are compared: `bi_mhm` (default), `otam` or `protonet`.
        precision: `float32`, `tf32` or `bf16`.
        unknown: when a clip is *none of these*, see :class:`Classifier`.
        cache: whether features of clips are kept on disk, by the content of the clips, in the
            user's cache folder; or another folder for them.
        seconds: time limit for the reading of one clip.

    Raises:
        UsageError: a value is not one of those that there are.
        MoloError: the weights cannot be had, are damaged, or are of no network.
    """
    keep_compiled_programs()
    network = open_network(os.fspath(source), method=method, precision=precision)
    return classifier_of(network, unknown=unknown, cache=cache, seconds=seconds)


def classifier_of(
    network: Network,
    *,
    unknown: str | float = AUTO,
    cache: bool | str | os.PathLike[str] = True,
    seconds: float = READING_SECONDS,
) -> Classifier:
    """Returns a classifier without classes, see :func:`load`."""
    kept: Any = None
    if cache:
        from molo_jax.prediction.cache import FeatureCache

        folder = None if cache is True else Path(cache)
        kept = FeatureCache(folder, network.digest)
    return Classifier(Embedder(network), unknown=unknown, cache=kept, seconds=seconds)


def keep_compiled_programs() -> str:
    """Keeps compiled programs in the user's cache folder, unless JAX was told a folder already.

    Returns:
        Why they are not kept; empty where they are.
    """
    if jax.config.jax_compilation_cache_dir:
        return ""
    return runtime.prepare(deterministic=False, compilation_cache=runtime.USERS_FOLDER)
