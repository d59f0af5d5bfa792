"""A long video to the labels along its time: windows, their scores, segments."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from jaxtyping import UInt8

from molo_jax.data.video.containers import UNLIMITED, BadVideoError, Deadline
from molo_jax.data.video.timed import UntilDamage
from molo_jax.prediction.timeline import Segment, WindowScore, segments_of
from molo_jax.prediction.windows import Window, windows

# Windows that are handed to the classifier together.
BATCH = 8


class Score(Protocol):
    """What a classifier says of a clip; the attributes are those of :class:`WindowScore`."""

    label: str
    known: bool
    probability: float
    margin: float
    distances: Mapping[str, float]
    probabilities: Mapping[str, float]


Classify = Callable[[UInt8[np.ndarray, "v t r r 3"]], Sequence[Score]]


@dataclasses.dataclass(frozen=True)
class LabeledVideo:
    """The labels of a video along its time.

    Attributes:
        path: the video.
        windows: the scores of its windows, in the order of time.
        segments: the labels, see :func:`molo_jax.prediction.timeline.segments_of`.
        error: why the labels end before the video does; None if they do not.
    """

    path: str
    windows: list[WindowScore]
    segments: list[Segment]
    error: BadVideoError | None

    @property
    def seconds(self) -> float:
        """How much of the video has labels, from its first frame on."""
        return self.windows[-1].end


def label_video(
    classify: Classify,
    path: str,
    *,
    num_frames: int,
    resize: int,
    window: float,
    stride: float,
    shortest: float = 0.0,
    batch: int = BATCH,
    deadline: Deadline = UNLIMITED,
    progress: Callable[[float], None] | None = None,
) -> LabeledVideo:
    """Labels a video along its time.

    The memory for pixels does not depend on the length of the video; the scores of all windows are
    kept, about a kilobyte each.

    Args:
        classify: gives a score for each of v clips of `num_frames` frames; v is `batch`, and at the
            end of the video it may be less.
        path: the video file.
        num_frames: frames of a window (t).
        resize: side of the squares that `classify` gets, in pixels (r).
        window: length of a window in seconds, see :func:`molo_jax.prediction.windows.windows`.
        stride: seconds from one window to the next.
        shortest: seconds that a segment lasts at least.
        batch: windows that are classified together.
        deadline: when the reading has to be over.
        progress: called after each batch with the seconds of the video that are done.

    Returns:
        The scores and the segments. If the video is damaged, they reach to the damage, and `error`
        says so.

    Raises:
        BadVideoError: no frame of the video can be read.
        UsageError: `window` or `stride` is no number of seconds that makes sense.
    """
    cut = UntilDamage(windows(path, num_frames, resize, window, stride, deadline=deadline))
    rest, scores = iter(cut), []
    while taken := list(itertools.islice(rest, batch)):
        scores += _scores(classify, taken)
        if progress is not None:
            progress(scores[-1].end)
    if not scores:
        raise cut.error
    segments = segments_of(scores, stride, shortest=shortest)
    return LabeledVideo(path, scores, segments, cut.error)


def _scores(classify: Classify, taken: list[Window]) -> list[WindowScore]:
    found = classify(np.stack([window.pixels for window in taken]))
    return [
        WindowScore(
            start=window.start,
            end=window.end,
            label=score.label,
            known=score.known,
            probability=score.probability,
            margin=score.margin,
            distances=score.distances,
            probabilities=score.probabilities,
        )
        for window, score in zip(taken, found, strict=True)
    ]
