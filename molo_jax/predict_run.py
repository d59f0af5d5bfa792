"""One run of the command `predict`: its classifier, its predictions, and what it writes."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.monitoring
import numpy as np

from molo_jax.console import Progress
from molo_jax.data.lists.directory import printable
from molo_jax.data.video.containers import BadVideoError
from molo_jax.data.video.timed import video_seconds
from molo_jax.engine.runtime import unused_gpu
from molo_jax.errors import MoloError
from molo_jax.prediction import tables
from molo_jax.prediction.annotate import annotate
from molo_jax.prediction.api import classifier_of, keep_compiled_programs, load_classifier
from molo_jax.prediction.classifier import Classifier
from molo_jax.prediction.explanation import explain
from molo_jax.prediction.inputs import Query, SupportFiles
from molo_jax.prediction.long_video import LabeledVideo, label_video
from molo_jax.prediction.report import write_report
from molo_jax.prediction.results import UNKNOWN, Failure, Prediction, failure_of
from molo_jax.prediction.sources import DEFAULT_PRECISION, open_network
from molo_jax.prediction.timeline import (
    write_segments_csv,
    write_srt,
    write_vtt,
    write_windows_csv,
)

_LOGGER = logging.getLogger(__name__)
_NO_PICTURES = np.zeros((0, 1, 1, 3), np.uint8)
# More sentences about a support set are left to the report.
_MOST_NOTES = 8
_COMPILING = "/jax/core/compile/backend_compile_duration"


@dataclasses.dataclass(frozen=True)
class Options:
    """What the flags say of the classifier; see the command."""

    weights: str | None
    classifier: str | None
    method: str
    precision: str | None
    unknown: str | None
    cache: bool
    seconds: float


class Timing:
    """Where the time goes.

    Args:
        began: when the command began, by `time.monotonic`.
    """

    def __init__(self, began: float):
        self._began, self._last = began, began
        self._parts: list[str] = []
        self._compiling = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._count)
        self.note("start")

    def note(self, part: str, clips: int | None = None) -> None:
        """Ends a part of the work.

        Args:
            part: what was done.
            clips: how many clips it was done with.
        """
        now = time.monotonic()
        each = "" if clips is None else f" ({clips} clips)"
        self._parts.append(f"{part}{each} {now - self._last:.1f}")
        self._last = now

    def line(self) -> str:
        """Says it in one line."""
        total = time.monotonic() - self._began
        return (
            f"seconds: {', '.join(self._parts)}; in all {total:.1f}, of these {self._compiling:.1f}"
            " for compiling"
        )

    def _count(self, event: str, seconds: float, **_: object) -> None:
        self._compiling += seconds if event == _COMPILING else 0.0


def make_classifier(
    options: Options, support: SupportFiles | None, timing: Timing | None = None
) -> Classifier:
    """Returns the classifier of the run, with its classes.

    Raises:
        MoloError: the network or the classifier cannot be had, or no class has a usable clip.
    """
    for line in (keep_compiled_programs(), unused_gpu()):
        if line:
            _LOGGER.warning("%s", line)
    timing = timing or Timing(time.monotonic())
    how: dict[str, Any] = {"cache": options.cache, "seconds": options.seconds}
    if options.unknown is not None:
        how["unknown"] = options.unknown
    if options.classifier is not None:
        classifier = load_classifier(
            options.classifier, weights=options.weights, precision=options.precision, **how
        )
        timing.note("classifier")
        return classifier
    network = open_network(
        options.weights, method=options.method, precision=options.precision or DEFAULT_PRECISION
    )
    _LOGGER.info("%s: %s", network.source, network.origin)
    classifier = classifier_of(network, **how)
    timing.note("weights")
    for note in support.notes:
        _LOGGER.warning("%s", note)
    classifier.fit(support.classes, on_error="skip")
    clips = sum(map(len, classifier.support.values()))
    again = classifier.found
    _LOGGER.info(
        "%d classes with %d clips%s",
        len(classifier.support),
        clips,
        f", {again} of them embedded by an earlier run" if again else "",
    )
    timing.note("support set", clips)
    return classifier


def notes(classifier: Classifier) -> list[str]:
    """Says what is to be known of the support set before one trusts a prediction."""
    found = [*map(failure_line, classifier.failures_), *classifier.advice()]
    if len(found) > _MOST_NOTES:
        left = len(found) - _MOST_NOTES
        found[_MOST_NOTES:] = [f"and {left} more of these; --report=page.html shows all of them"]
    return found


def failure_line(failure: Failure) -> str:
    """Says what is wrong with a clip."""
    where = f" (an example of {failure.label!r})" if failure.label else ""
    return f"{printable(failure.name)}{where}: {failure.reason}"


def predict_queries(
    classifier: Classifier,
    queries: Sequence[Query],
    advance: Callable[[int], object] = lambda count: None,
    *,
    keep: bool = True,
) -> list[tables.Result]:
    """Predicts clips; a bad one does not stop the others.

    Args:
        classifier: with its classes.
        queries: the clips.
        advance: called with the number of clips finished since its last call.
        keep: keep the features and the pictures of the clips, for a report.
    """
    results: list[tables.Result] = []
    found = classifier.predict_each(query.path for query in queries)
    for query, result in zip(queries, found, strict=True):
        if not (keep or isinstance(result, MoloError)):
            clip = dataclasses.replace(result.clip, features=None, thumbnails=_NO_PICTURES)
            result = dataclasses.replace(result, clip=clip)
        results.append((query, result))
        advance(1)
    return results


def show(classifier: Classifier, results: Sequence[tables.Result]) -> list[Failure]:
    """Prints the predictions, and accuracy and confusion where the truth is known.

    Returns:
        The clips that could not be read.
    """
    classes = list(classifier.support)
    print(tables.console_table(results, classes))
    new = [each for each in results if not _is_of_support(classifier, each[1])]
    if len(new) < len(results):
        print(
            f"\n{len(results) - len(new)} of these clips are clips of the support set themselves;"
            " they say nothing about new clips, and no accuracy counts them"
        )
    if summary := tables.summary(new, classes):
        print(f"\n{summary}")
    return tables.failures(results)


def _is_of_support(classifier: Classifier, result: Prediction | MoloError) -> bool:
    return isinstance(result, Prediction) and classifier.clip_of(result.clip.digest) is not None


def write_predictions(path: Path, classifier: Classifier, results: Sequence[tables.Result]) -> None:
    """Writes the predictions, as CSV or JSON by the ending of the name.

    Raises:
        MoloError: the file cannot be written.
    """
    if path.suffix.lower() == ".json":
        tables.write_json(path, results, classifier)
    else:
        tables.write_csv(path, results, list(classifier.support))


def write_page(
    path: Path,
    classifier: Classifier,
    results: Sequence[tables.Result],
    unusable: Sequence[Failure],
) -> None:
    """Writes the explanation of all predictions as one page.

    Args:
        path: the page.
        classifier: with its classes.
        results: what became of the clips.
        unusable: all clips that could not be used, of the support set too.

    Raises:
        MoloError: the file cannot be written.
    """
    known = tables.truths([query for query, _ in results], list(classifier.support))
    pairs = [
        (result, truth)
        for (_, result), truth in zip(results, known, strict=True)
        if not isinstance(result, MoloError)
    ]
    with Progress("explaining", "clips", len(pairs)) as bar:
        explanations = []
        for result, _ in pairs:
            explanations.append(explain(classifier, result))
            bar.update(1)
    # For a clip of another class, "none of these" is right.
    classes = {*classifier.support, ""}
    truth = [truth if truth in classes else UNKNOWN for _, truth in pairs]
    write_report(
        path,
        classifier,
        [result for result, _ in pairs],
        explanations,
        unusable,
        truth=truth if any(truth) else (),
    )


@dataclasses.dataclass(frozen=True)
class Timeline:
    """How videos are labeled along their time, and what is written of one of them.

    Attributes:
        window: length of a window, in seconds.
        stride: time from one window to the next, in seconds.
        shortest: shorter segments get the label of their longer neighbor, in seconds.
        windows: files for the scores of all windows, `.csv`.
        segments: file for the segments, `.csv`.
        subtitles: files `.srt` or `.vtt`.
        annotated: file for the video with its labels.
    """

    window: float
    stride: float
    shortest: float = 0.0
    windows: Sequence[Path] = ()
    segments: Path | None = None
    subtitles: Sequence[Path] = ()
    annotated: Path | None = None


def label_videos(
    classifier: Classifier, queries: Sequence[Query], timeline: Timeline
) -> list[Failure]:
    """Labels videos along their time, prints the segments, and writes the files.

    Returns:
        The videos that could not be read, or not to their end.

    Raises:
        MoloError: a file cannot be written.
    """
    found = []
    for query in queries:
        try:
            labeled = _labeled(classifier, query.path, timeline)
        except BadVideoError as error:
            found.append(failure_of(error))
            continue
        print(tables.segments_table(query.path, labeled.segments))
        if labeled.error is not None:
            reason = f"labeled for {labeled.seconds:.1f} s only: {labeled.error.reason}"
            found.append(Failure(query.path, reason))
        for path in timeline.windows:
            write_windows_csv(path, labeled.windows)
        if timeline.segments is not None:
            write_segments_csv(timeline.segments, labeled.segments)
        for path in timeline.subtitles:
            write = write_vtt if path.suffix.lower() == ".vtt" else write_srt
            write(path, labeled.segments)
        if timeline.annotated is not None:
            _annotate(query.path, labeled, timeline.annotated)
    return found


def _labeled(classifier: Classifier, path: str, timeline: Timeline) -> LabeledVideo:
    rule = classifier.embedder.network.rule
    with _seconds_bar("labeling", path) as bar:
        return label_video(
            classifier.predict_pixels,
            path,
            num_frames=rule.num_frames,
            resize=rule.resize,
            window=timeline.window,
            stride=timeline.stride,
            shortest=timeline.shortest,
            batch=classifier.embedder.clips_at_once,
            progress=bar,
        )


def _annotate(path: str, labeled: LabeledVideo, destination: Path) -> None:
    with _seconds_bar("drawing", path) as bar:
        annotate(path, labeled.segments, destination, progress=bar)
    print(f"{printable(str(destination))}: the video with its labels")


@contextlib.contextmanager
def _seconds_bar(title: str, path: str) -> Iterator[Callable[[float], None]]:
    """Shows the seconds of a video that are done; gives the function that is told them."""
    length = video_seconds(path)
    done = 0.0
    with Progress(title, "s of video", None if length is None else round(length)) as bar:

        def tell(seconds: float) -> None:
            nonlocal done
            bar.update(int(seconds) - int(done))
            done = seconds

        yield tell
