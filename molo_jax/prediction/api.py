"""The functions that a program begins with: `molo_jax.load` and `molo_jax.load_classifier`."""

import os
from pathlib import Path
from typing import Any

import jax

from molo_jax.engine import runtime
from molo_jax.errors import MoloError, UsageError, shortened
from molo_jax.methods.settings import settings_from_json
from molo_jax.prediction.archive import ArchiveRecord, check_features, read_archive
from molo_jax.prediction.classifier import AUTO, Classifier
from molo_jax.prediction.clips import READING_SECONDS, ClipRule
from molo_jax.prediction.embedder import Embedder
from molo_jax.prediction.sources import (
    DEFAULT_PRECISION,
    Network,
    OtherMethodError,
    check_precision,
    make_network,
    network_digest,
    open_network,
    variables_of,
)


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
            file of a backbone, or the name of a backbone (`resnet18`, `resnet34`, `resnet50`),
            whose ImageNet weights are fetched.
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
    network = open_network(source, method=method, precision=precision)
    return classifier_of(network, unknown=unknown, cache=cache, seconds=seconds)


def load_classifier(
    path: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    precision: str | None = None,
    unknown: str | float | None = None,
    cache: bool | str | os.PathLike[str] = True,
    seconds: float = READING_SECONDS,
) -> Classifier:
    """Reads a classifier that :meth:`Classifier.save` has written.

    Args:
        path: the file.
        weights: the source of its network, see :func:`load`, where that has moved; not needed for a
            file with weights.
        precision: as in :func:`load`; by default that which the classifier had.
        unknown: as in :func:`load`; by default that which the classifier had.
        cache: as in :func:`load`.
        seconds: as in :func:`load`.

    Raises:
        UsageError: a value is not one of those that there are, or the weights are of another method
            than the classifier.
        MoloError: the file is damaged, or its network cannot be had or is another one.
    """
    keep_compiled_programs()
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError(f"the saved classifier is {path!r}; expected the path of a file")
    path = Path(path)
    if precision is not None:
        check_precision(precision)
    record = read_archive(path)
    chosen = precision or str(record.calibration.get("precision", DEFAULT_PRECISION))
    network = _network_of(path, record, weights, chosen)
    kept = record.calibration.get("unknown", AUTO)
    classifier = classifier_of(
        network, unknown=kept if unknown is None else unknown, cache=cache, seconds=seconds
    )
    check_features(path, record, classifier.embedder.structure)
    classifier.support = {name: list(clips) for name, clips in record.clips.items()}
    return classifier


def _network_of(path: Path, record: ArchiveRecord, weights: Any, precision: str) -> Network:
    """Returns the network that the features of a file are from.

    Raises:
        UsageError: the weights are of another method.
        MoloError: it cannot be had, or is another one.
    """
    try:
        settings = settings_from_json(record.settings)
        rule = ClipRule(**record.rule)
    except (KeyError, TypeError, ValueError) as error:
        raise MoloError(
            f"{path} does not say which network it is of ({shortened(str(error))}); save the"
            " classifier again"
        ) from error
    if record.weights is not None and weights is None:
        variables, source, shown = record.weights, record.source, record.source
    else:
        shown = record.source if weights is None else weights
        try:
            found = open_network(shown, method=settings.method, precision=precision)
        except OtherMethodError as error:
            raise UsageError(
                f"{path} is a classifier of {settings.method}, and the weights of {shown} are of"
                f" {error.found}; name the weights of then: weights=SRC, on the command line"
                " --weights=SRC"
            ) from error
        except MoloError as error:
            if weights is not None:
                raise
            raise MoloError(
                f"the network of {path} is not where it was ({error}); name its place:"
                " weights=SRC, on the command line --weights=SRC"
            ) from error
        variables, source = variables_of(found), found.source
    network = make_network(
        source, settings, variables, rule=rule, precision=precision, origin=record.origin
    )
    saved = str(record.calibration.get("precision", precision))
    if network_digest(settings, rule, saved, variables) != record.digest:
        raise MoloError(
            f"{path} was saved with other weights than those of {shown}; use the weights of then,"
            " or fit the classifier again"
        )
    return network


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
