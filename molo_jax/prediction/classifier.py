"""A classifier of one's own classes: a few clips of each, and a network that compares clips."""

import collections
import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from molo_jax.errors import MoloError, UsageError
from molo_jax.prediction.advice import advice
from molo_jax.prediction.archive import ArchiveRecord, write_archive
from molo_jax.prediction.calibration import (
    LEAST_CLIPS,
    Calibration,
    calibrate,
    probabilities,
)
from molo_jax.prediction.clips import READING_SECONDS, Source
from molo_jax.prediction.embedder import EmbeddedClip, Embedder
from molo_jax.prediction.given import (
    AUTO,
    OFF,
    checked_unknown,
    is_one,
    labels_of,
    named_clips,
    several,
)
from molo_jax.prediction.reader import ClipReader
from molo_jax.prediction.results import (
    Failure,
    LeaveOneOut,
    Prediction,
    failure_of,
    prediction_of,
)
from molo_jax.prediction.sources import variables_of


class Classifier:
    """Says which of one's own classes a clip belongs to; in scikit-learn's habits.

    Use `molo_jax.load` to get one. Clips are video files or arrays (t, h, w, 3) of uint8 in RGB.

    Args:
        embedder: the network.
        unknown: when a clip is *none of these*: `auto`: its distance to the nearest class is
            larger than that of 95 in 100 clips of the classes, judged by the support set itself;
            `off`: never; a number: the largest distance to the nearest class, relative to the mean
            of the support set's own clips.
        cache: keeps features on disk; anything with the `get` and `put` of
            `molo_jax.prediction.cache.FeatureCache`, or None.
        seconds: time limit for the reading of one clip.

    Attributes:
        classes_: names of the classes, in their order in `predict_proba`.
        support: the clips of each class.
        failures_: the clips that the last `fit`, and each `add_class` after it, could not use, with
            ``on_error="skip"``.
        notes_: what else was noticed there: clips that are twice in a class.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        unknown: str | float = AUTO,
        cache: Any = None,
        seconds: float = READING_SECONDS,
    ):
        self.embedder = embedder
        self.support: dict[str, list[EmbeddedClip]] = {}
        self.failures_: list[Failure] = []
        self.notes_: list[str] = []
        self._unknown = checked_unknown(unknown)
        self._reader = ClipReader(embedder, cache, seconds)

    @property
    def classes_(self) -> np.ndarray:
        """Names of the classes."""
        return np.array(list(self.support), dtype=object)

    @property
    def unknown(self) -> str | float:
        """When a clip is *none of these*; can be set."""
        return self._unknown

    @unknown.setter
    def unknown(self, value: str | float) -> None:
        self._unknown = checked_unknown(value)

    @property
    def threshold(self) -> float | None:
        """The largest strangeness of a clip of the classes; None where the rule is off.

        Raises:
            MoloError: a number was asked for, and the support set does not tell the typical
                distance that it is relative to.
        """
        if self._unknown == OFF:
            return None
        if self._unknown == AUTO:
            return self.calibration.bound
        if self.support and self.calibration.scale is None:
            raise MoloError(
                f"unknown={self._unknown} is relative to the distances within the support set,"
                f" which {self._why_no_scale()}; add clips, or switch the rule off"
            )
        return float(self._unknown)

    def fit(
        self,
        clips: Mapping[str, Sequence[Source]] | Sequence[Source],
        labels: Sequence[str] | None = None,
        *,
        on_error: str = "raise",
    ) -> "Classifier":
        """Takes the classes and their clips; what was there before is forgotten.

        Args:
            clips: the clips of each class; or all clips, with the class of each in `labels`.
            labels: names of the classes.
            on_error: `raise`: a clip that cannot be used is an error; `skip`: it is left out, as
                is a class without any, and `failures_` has both.

        Returns:
            The classifier itself.

        Raises:
            BadVideoError: a clip cannot be used.
            MoloError: there is no class, or a class is without a clip.
        """
        named = named_clips(clips, labels)
        self.support, self.failures_, self.notes_ = self._embed_classes(named, on_error)
        self._changed()
        return self

    def add_class(
        self, name: str, clips: Sequence[Source], *, on_error: str = "raise"
    ) -> "Classifier":
        """Adds a class; the clips of the others are not looked at again.

        Raises:
            BadVideoError: a clip cannot be used.
            MoloError: there is such a class, or it is without a usable clip.
        """
        if name in self.support:
            raise MoloError(f"there is a class {name!r} already; remove it first")
        support, failures, notes = self._embed_classes(named_clips({name: clips}, None), on_error)
        self.support |= support
        self.failures_ += failures
        self.notes_ += notes
        self._changed()
        return self

    def remove_class(self, name: str) -> "Classifier":
        """Removes a class.

        Raises:
            MoloError: there is none of this name.
        """
        if name not in self.support:
            raise MoloError(f"there is no class {name!r}; there are {_listed(self.support)}")
        del self.support[name]
        self._changed()
        return self

    def predict(self, clips: Any) -> Any:
        """Says which class a clip belongs to.

        Args:
            clips: one clip; or a list of clips, or an array (n, t, h, w, 3).

        Returns:
            A :class:`Prediction`, or a list of them.

        Raises:
            BadVideoError: a clip cannot be used.
            MoloError: there are no classes.
        """
        if is_one(clips):
            return self.predict([clips])[0]
        found = []
        for result in self.predict_each(clips):
            if isinstance(result, MoloError):
                raise result
            found.append(result)
        return found

    def predict_each(self, clips: Iterable[Any]) -> Iterator[Prediction | MoloError]:
        """Predicts many clips, one after the other; a bad one does not stop the others.

        Yields:
            For each clip its prediction, or what is wrong with the clip.
        """
        self._check_fitted()
        found = self._reader.embedded(several(clips))
        for part in _parts(found, self.embedder.clips_at_once):
            predictions = iter(self._predictions([x for x in part if isinstance(x, EmbeddedClip)]))
            for each in part:
                yield next(predictions) if isinstance(each, EmbeddedClip) else each

    def predict_proba(self, clips: Any) -> Float[np.ndarray, "q n"]:
        """Returns probabilities of the classes, given that a clip is of one of them."""
        found = [list(each.probabilities.values()) for each in self.predict(several(clips))]
        return np.array(found).reshape(len(found), len(self.support))

    def score(self, clips: Sequence[Source], labels: Sequence[str]) -> float:
        """Returns the accuracy; clips of no class have the label :data:`UNKNOWN`.

        Raises:
            BadVideoError: a clip cannot be used.
            MoloError: there are no clips, or not as many labels.
        """
        asked, labels = several(clips), labels_of(labels)
        if len(asked) != len(labels) or not asked:
            raise MoloError(f"there are {len(asked)} clips and {len(labels)} labels")
        predicted = [each.label for each in self.predict(asked)]
        return float(np.mean([a == b for a, b in zip(predicted, labels, strict=True)]))

    def advice(self) -> list[str]:
        """Says in sentences what is wrong with the support set, and what helps."""
        return [*self.notes_, *advice(self.leave_one_out())]

    def save(self, path: str | os.PathLike[str], *, with_weights: bool = False) -> None:
        """Writes the classifier to one file, which `molo_jax.load_classifier` reads.

        The file has the features and small pictures of the support clips, no videos, and no code.

        Args:
            path: the file, such as `gym.molo`.
            with_weights: also write the weights of the network, so that its source is not needed.

        Raises:
            MoloError: there are no classes, or the file cannot be written.
        """
        self._check_fitted()
        network = self.embedder.network
        record = ArchiveRecord(
            settings=network.settings.to_json(),
            rule=dataclasses.asdict(network.rule),
            digest=network.digest,
            source=network.source,
            origin=network.origin,
            calibration={"unknown": self.unknown, "precision": network.precision.name},
            clips=self.support,
            weights=variables_of(network) if with_weights else None,
        )
        write_archive(Path(path), record)

    def leave_one_out(self) -> LeaveOneOut:
        """Classifies each support clip by the others; that needs no clip to be embedded again.

        Raises:
            MoloError: there are no classes.
        """
        self._check_fitted()
        return self._left_out

    @property
    def found(self) -> int:
        """Number of clips whose features the cache had."""
        return self._reader.found

    @property
    def calibration(self) -> Calibration:
        """What the support set says about itself."""
        return self._calibration

    def predict_pixels(self, pixels: UInt8[np.ndarray, "v t r r 3"]) -> list[Prediction]:
        """Predicts clips whose frames are squares of the network's size already, as of windows."""
        self._check_fitted()
        features = self.embedder.embed_pixels(pixels)
        each = [jax.tree.map(lambda x, i=i: x[i], features) for i in range(len(pixels))]
        nothing = np.zeros((0, 1, 1, 3), np.uint8), np.zeros(0, np.int64), None
        return self._predictions([EmbeddedClip("", "", features, *nothing) for features in each])

    def clip_of(self, digest: str) -> tuple[str, EmbeddedClip] | None:
        """Finds the support clip with this content, and its class."""
        found = ((name, c) for name, clips in self.support.items() for c in clips)
        return next(((name, clip) for name, clip in found if clip.digest == digest), None)

    def flat_support(self) -> tuple[list[EmbeddedClip], Int[np.ndarray, "s"]]:
        """Returns all support clips class by class, and the position of the class of each."""
        clips = [clip for each in self.support.values() for clip in each]
        labels = [k for k, each in enumerate(self.support.values()) for _ in each]
        return clips, np.int64(labels)

    @functools.cached_property
    def _left_out(self) -> LeaveOneOut:
        clips, labels = self.flat_support()
        features = [clip.features for clip in clips]
        logits = (
            self.embedder.leave_one_out(features, labels, len(self.support))
            if clips
            else np.zeros((0, 0), np.float32)
        )
        return LeaveOneOut(clips, labels, tuple(self.support), logits)

    @functools.cached_property
    def _calibration(self) -> Calibration:
        found = self._left_out
        # A clip that is in two classes is at no distance from the wrong one.
        counts = collections.Counter(clip.digest for clip in found.clips)
        twice = np.array([counts[clip.digest] > 1 for clip in found.clips], bool)
        return calibrate(np.where(twice[:, None], np.nan, found.logits), found.labels)

    def _why_no_scale(self) -> str:
        if self.calibration.tested < LEAST_CLIPS:
            return "has fewer than three clips in classes of two or more"
        return "are all 0"

    def _changed(self) -> None:
        for name in ("_left_out", "_calibration"):
            self.__dict__.pop(name, None)

    def _check_fitted(self) -> None:
        if not self.support:
            raise MoloError("the classifier has no classes yet; give it clips with fit()")

    def _predictions(self, clips: Sequence[EmbeddedClip]) -> list[Prediction]:
        if not clips:
            return []
        support, labels = self.flat_support()
        names, threshold = list(self.support), self.threshold
        features = [clip.features for clip in support], [clip.features for clip in clips]
        logits = self.embedder.logits(features[0], labels, features[1], len(names))
        distances = -np.asarray(logits, np.float64)
        shares = probabilities(distances, self.calibration)
        rows = zip(clips, distances, shares, strict=True)
        return [prediction_of(*row, names, threshold, self.calibration.scale) for row in rows]

    def _embed_classes(
        self, named: Mapping[str, Sequence[Source]], on_error: str
    ) -> tuple[dict[str, list[EmbeddedClip]], list[Failure], list[str]]:
        if on_error not in ("raise", "skip"):
            raise UsageError(f"on_error is {on_error!r}; expected 'raise' or 'skip'")
        sources = [(name, clip) for name, clips in named.items() for clip in clips]
        found = self._reader.embedded(clip for _, clip in sources)
        support: dict[str, list[EmbeddedClip]] = {name: [] for name in named}
        failures, notes = [], []
        for (name, _), result in zip(sources, found, strict=True):
            if isinstance(result, EmbeddedClip):
                same = [clip.name for clip in support[name] if clip.digest == result.digest]
                if same:
                    notes.append(f"{result.name} is the same clip as {same[0]}; it counts once")
                else:
                    support[name].append(result)
            elif on_error == "raise":
                raise result
            else:
                failures.append(failure_of(result, name))
        for name in [name for name, clips in support.items() if not clips]:
            if on_error == "raise":
                raise MoloError(f"the class {name!r} has no clips")
            failures.append(Failure(name, "the class has no usable clip; it is left out", name))
            del support[name]
        if not support:
            reasons = "; ".join(f"{each.name}: {each.reason}" for each in failures[:3])
            raise MoloError(f"no class has a usable clip: {reasons}")
        return support, failures, notes


def _parts(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    part: list[Any] = []
    for item in items:
        part.append(item)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
