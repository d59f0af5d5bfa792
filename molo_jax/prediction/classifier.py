"""A classifier of one's own classes: a few clips of each, and a network that compares clips."""

import collections
import dataclasses
import functools
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from molo_jax.data.video.containers import BadVideoError
from molo_jax.errors import MoloError, UsageError
from molo_jax.prediction.calibration import Calibration, calibrate, confusion, probabilities
from molo_jax.prediction.clips import READING_SECONDS, Clip, Source, identify, read_clip
from molo_jax.prediction.embedder import EmbeddedClip, Embedder

_LOGGER = logging.getLogger(__name__)
# The label of a clip that is farther from every class than the support set's own clips are.
UNKNOWN = "none of these"
# Values of the unknown rule beside a number.
AUTO, OFF = "auto", "off"
# Clips that are decoded at the same time.
_READERS = min(4, os.cpu_count() or 1)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a classifier says of a clip.

    Attributes:
        label: the class, or :data:`UNKNOWN`.
        nearest: the class with the smallest distance, also where the clip counts as unknown.
        runner_up: the class with the second smallest; empty where there is one class.
        probability: of `nearest`, given that the clip is of one of the classes.
        margin: distance of `runner_up` minus that of `nearest`; infinite where there is one class.
        distances: distance of each class, in the units of the method.
        probabilities: of each class, given that the clip is of one of them; their sum is 1.
        strangeness: distance to `nearest`, divided by the mean distance of the support set's own
            clips to theirs; NaN where that is not known.
        threshold: the largest strangeness of a known clip; None where the rule is off.
        clip: the clip, with its features.
    """

    label: str
    nearest: str
    runner_up: str
    probability: float
    margin: float
    distances: dict[str, float]
    probabilities: dict[str, float]
    strangeness: float
    threshold: float | None
    clip: EmbeddedClip

    @property
    def name(self) -> str:
        """The name of the clip."""
        return self.clip.name

    @property
    def known(self) -> bool:
        """Whether the clip counts as one of the classes."""
        return self.label != UNKNOWN

    @property
    def frames(self) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames that the network looked at, small."""
        return self.clip.thumbnails

    def __str__(self) -> str:
        return self.label


@dataclasses.dataclass(frozen=True)
class LeaveOneOut:
    """Each support clip, classified by all others.

    Attributes:
        clips: the clips, class by class.
        labels: the class of each, as a position in `classes`.
        classes: names of the classes.
        logits: scores of the classes; rows of NaN belong to clips that are alone in their class.
    """

    clips: Sequence[EmbeddedClip]
    labels: Int[np.ndarray, "s"]
    classes: Sequence[str]
    logits: Float[np.ndarray, "s n"]

    @property
    def predicted(self) -> Int[np.ndarray, "s"]:
        """The class that the others give each clip; -1 where a clip could not be tested."""
        untested = np.isnan(self.logits).any(axis=1)
        best = np.where(np.isnan(self.logits), -np.inf, self.logits).argmax(axis=1)
        return np.where(untested, -1, best)

    @property
    def confusion(self) -> Int[np.ndarray, "n n"]:
        """Number of clips by their class (rows) and the class that the others give them."""
        return confusion(self.logits, self.labels, len(self.classes))


@dataclasses.dataclass(frozen=True)
class Failure:
    """A clip that could not be used.

    Attributes:
        name: of the clip.
        reason: what is wrong with it.
        label: the class that it was to be an example of; empty for a query.
    """

    name: str
    reason: str
    label: str = ""


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
        failures_: what was left out by the last `fit` and by `add_class` after it, with
            ``on_error="skip"``.
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
        self._unknown = checked_unknown(unknown)
        self._cache, self._seconds = cache, seconds

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
                " which has fewer than three clips in classes of two or more; add clips, or switch"
                " the rule off"
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
        named = _named(clips, labels)
        support, failures = self._embed_classes(named, on_error)
        self.support, self.failures_ = support, failures
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
        support, failures = self._embed_classes(_named({name: clips}, None), on_error)
        self.support |= support
        self.failures_ += failures
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
        if _is_one(clips):
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
        for part in _parts(self._embedded(clips), self.embedder.clips_at_once):
            predictions = iter(self._predictions([x for x in part if isinstance(x, EmbeddedClip)]))
            for each in part:
                yield next(predictions) if isinstance(each, EmbeddedClip) else each

    def predict_proba(self, clips: Any) -> Float[np.ndarray, "q n"]:
        """Returns probabilities of the classes, given that a clip is of one of them."""
        several = [clips] if _is_one(clips) else clips
        found = [list(each.probabilities.values()) for each in self.predict(several)]
        return np.array(found).reshape(len(found), len(self.support))

    def score(self, clips: Sequence[Source], labels: Sequence[str]) -> float:
        """Returns the accuracy; clips of no class have the label :data:`UNKNOWN`."""
        predicted = [each.label for each in self.predict(clips)]
        if len(predicted) != len(labels):
            raise MoloError(f"there are {len(predicted)} clips and {len(labels)} labels")
        return float(np.mean([a == b for a, b in zip(predicted, labels, strict=True)]))

    def leave_one_out(self) -> LeaveOneOut:
        """Classifies each support clip by all others; that needs no clip to be embedded again."""
        return self._left_out

    @property
    def calibration(self) -> Calibration:
        """What the support set says about itself."""
        return self._calibration

    def predict_pixels(self, pixels: UInt8[np.ndarray, "v t r r 3"]) -> list[Prediction]:
        """Predicts clips whose frames are squares of the network's size already, as of windows."""
        self._check_fitted()
        features = self.embedder.embed_pixels(pixels)
        nothing = np.zeros((0, 1, 1, 3), np.uint8)
        numbers = np.zeros(0, np.int64)
        return self._predictions(
            [
                EmbeddedClip(
                    "", "", jax.tree.map(lambda x, i=i: x[i], features), nothing, numbers, None
                )
                for i in range(len(pixels))
            ]
        )

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
        return calibrate(self._left_out.logits, self._left_out.labels)

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
        distances = -np.float64(logits)
        shares = probabilities(distances, self.calibration)
        rows = zip(clips, distances, shares, strict=True)
        return [_prediction(*row, names, threshold, self.calibration.scale) for row in rows]

    def _embed_classes(
        self, named: Mapping[str, Sequence[Source]], on_error: str
    ) -> tuple[dict[str, list[EmbeddedClip]], list[Failure]]:
        if on_error not in ("raise", "skip"):
            raise UsageError(f"on_error is {on_error!r}; expected 'raise' or 'skip'")
        sources = [(name, clip) for name, clips in named.items() for clip in clips]
        found = self._embedded(clip for _, clip in sources)
        support: dict[str, list[EmbeddedClip]] = {name: [] for name in named}
        failures = []
        for (name, _), result in zip(sources, found, strict=True):
            if isinstance(result, EmbeddedClip):
                if any(clip.digest == result.digest for clip in support[name]):
                    failures.append(Failure(result.name, "it is in this class already", name))
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
        return support, failures

    def _embedded(self, sources: Iterable[Any]) -> Iterator[EmbeddedClip | MoloError]:
        """Reads and embeds clips; they are decoded ahead, and embedded several at once."""
        waiting: list[Any] = []

        def embedded() -> Iterator[EmbeddedClip | MoloError]:
            fresh = [each for each in waiting if isinstance(each, Clip)]
            done = iter(self.embedder.embed(fresh))
            for each in waiting:
                if not isinstance(each, Clip):
                    yield each
                    continue
                clip = next(done)
                if self._cache is not None:
                    self._cache.put(clip)
                yield clip
            waiting.clear()

        for each in _in_threads(self._read, sources):
            waiting.append(each)
            if sum(isinstance(e, Clip) for e in waiting) == self.embedder.clips_at_once:
                yield from embedded()
        yield from embedded()

    def _read(self, source: Any) -> Clip | EmbeddedClip | MoloError:
        if isinstance(source, EmbeddedClip):
            return source
        try:
            name, digest = identify(source)
            if self._cache is not None and (found := self._cache.get(digest)) is not None:
                return dataclasses.replace(found, name=name)
            rule = self.embedder.network.rule
            return read_clip(source, rule, digest=digest, seconds=self._seconds)
        except MoloError as error:
            return error


def failure_of(error: MoloError, label: str = "") -> Failure:
    """Returns what an error says of a clip."""
    if isinstance(error, BadVideoError):
        return Failure(error.path, error.reason, label)
    return Failure("array", str(error), label)


def checked_unknown(value: str | float) -> str | float:
    """Returns the value of the unknown rule: `auto`, `off` or a number above 0.

    Raises:
        UsageError: it is none of these.
    """
    if value in (AUTO, OFF):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise UsageError(f"unknown={value}: expected auto, off or a number above 0, such as 1.3")
    return number


def _prediction(
    clip: EmbeddedClip,
    distances: np.ndarray,
    shares: np.ndarray,
    names: Sequence[str],
    threshold: float | None,
    scale: float | None,
) -> Prediction:
    # Of equal distances the first class counts, as in an evaluation.
    order = np.argsort(distances, kind="stable")
    nearest, runner_up = names[order[0]], names[order[1]] if len(names) > 1 else ""
    smallest = float(distances[order[0]])
    strangeness = smallest / scale if scale else math.nan
    unknown = threshold is not None and strangeness > threshold
    return Prediction(
        label=UNKNOWN if unknown else nearest,
        nearest=nearest,
        runner_up=runner_up,
        probability=float(shares[order[0]]),
        margin=float(distances[order[1]]) - smallest if runner_up else math.inf,
        distances=dict(zip(names, map(float, distances), strict=True)),
        probabilities=dict(zip(names, map(float, shares), strict=True)),
        strangeness=strangeness,
        threshold=threshold,
        clip=clip,
    )


def _named(
    clips: Mapping[str, Sequence[Source]] | Sequence[Source], labels: Sequence[str] | None
) -> dict[str, list[Source]]:
    if labels is not None:
        if len(clips) != len(labels):
            raise MoloError(f"there are {len(clips)} clips and {len(labels)} labels")
        gathered = collections.defaultdict(list)
        for clip, label in zip(clips, labels, strict=True):
            gathered[label].append(clip)
        clips = gathered
    if not isinstance(clips, Mapping):
        raise UsageError(
            "fit takes the clips of each class, {'squat': ['a.mp4'], …}, or a list of clips and a"
            " list of their classes"
        )
    if not clips:
        raise MoloError("there are no classes")
    for name, each in clips.items():
        if not isinstance(name, str) or not name or name == UNKNOWN:
            raise UsageError(f"a class cannot be called {name!r}; expected a text of one's own")
        if isinstance(each, (str, os.PathLike)) or (isinstance(each, np.ndarray) and each.ndim < 5):
            raise UsageError(f"the clips of the class {name!r} are no list; write [{each!r:.60}]")
    return {name: list(each) for name, each in clips.items()}


def _is_one(clips: Any) -> bool:
    one = isinstance(clips, (str, os.PathLike, EmbeddedClip))
    return one or (isinstance(clips, np.ndarray) and clips.ndim < 5 and clips.dtype != object)


def _in_threads(read: Any, sources: Iterable[Any]) -> Iterator[Any]:
    """Yields `read(source)` of each source, in their order; a few of them are read ahead."""
    ahead: collections.deque[Future] = collections.deque()
    with ThreadPoolExecutor(_READERS) as pool:
        try:
            for source in sources:
                ahead.append(pool.submit(read, source))
                if len(ahead) > 2 * _READERS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


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
