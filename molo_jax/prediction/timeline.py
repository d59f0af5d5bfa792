"""The labels of a long video along its time: from the scores of its windows to segments."""

import csv
import dataclasses
import io
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from molo_jax.files import write_text, written
from molo_jax.prediction.windows import TOLERANCE


@dataclasses.dataclass(frozen=True)
class WindowScore:
    """What a classifier says of a window.

    Attributes:
        start: where the window begins, in seconds from the first frame on.
        end: where it ends.
        label: the nearest class, or what is said in its place where no class is near enough.
        known: whether a class is near enough.
        probability: of the nearest class.
        margin: distance of the second-nearest class minus that of the nearest.
        distances: of each class.
        probabilities: of each class; they add up to 1.
    """

    start: float
    end: float
    label: str
    known: bool
    probability: float
    margin: float
    distances: Mapping[str, float]
    probabilities: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Segment:
    """A part of the video with one label.

    Attributes:
        start: where the segment begins, in seconds from the first frame on.
        end: where it ends; the next segment begins there.
        label: a class, or what is said in its place where no class is near enough.
        known: whether the label is a class.
        probability: of that class, averaged over the segment; NaN where the label is no class.
    """

    start: float
    end: float
    label: str
    known: bool
    probability: float


@dataclasses.dataclass
class _Stretch:
    """A piece of the video between two multiples of the stride, for which a label is chosen."""

    start: float
    end: float
    label: str
    known: bool
    probabilities: dict[str, float]

    @property
    def seconds(self) -> float:
        return self.end - self.start


_Run = list[_Stretch]


def segments_of(
    windows: Sequence[WindowScore], stride: float, *, shortest: float = 0.0
) -> list[Segment]:
    """Chooses a label for every moment of a video, and joins equal neighbors.

    The video is cut into stretches of `stride` seconds. Windows overlap, so several of them cover a
    stretch; each counts by the seconds of the stretch that it covers.

    1. Where windows without a class near enough cover at least half, the label is theirs ("none of
       these").
    2. Otherwise the probabilities of the classes are averaged over the other windows, and the class
       with the highest mean is the label. Of two equal ones, the first by name is chosen.

    Neighbors with the same label become one segment. Its probability is the mean of step 2 for its
    class, averaged over the time of the segment.

    Args:
        windows: the scores in the order of time; a window begins at each multiple of the stride.
        stride: seconds from one window to the next.
        shortest: segments that last less get the label of the longer one of their neighbors, or of
            the earlier of two equally long ones. The shortest segments go first, and of equally
            short ones the earlier. Then neighbors are joined again.

    Returns:
        Segments that follow one another without a gap from 0 to the end of the last window.
    """
    runs = _joined([list(_stretches(windows, stride))])
    while len(runs) > 1:
        length = min(_seconds(run) for run in runs)
        if length >= shortest - TOLERANCE:
            break
        runs = _joined(_absorbed(runs, length))
    return [_segment(run) for run in runs]


def _stretches(windows: Sequence[WindowScore], stride: float) -> Iterator[_Stretch]:
    end = windows[-1].end if windows else 0.0
    covering: list[WindowScore] = []
    coming = iter(windows)
    upcoming = next(coming, None)
    for number in itertools.count():
        start, stop = number * stride, min((number + 1) * stride, end)
        if start >= end - TOLERANCE and number:
            return
        while upcoming is not None and upcoming.start < stop + TOLERANCE:
            covering.append(upcoming)
            upcoming = next(coming, None)
        covering = [window for window in covering if window.end > start - TOLERANCE]
        if not covering:
            return
        yield _stretch(start, stop, covering)


def _stretch(start: float, end: float, windows: Sequence[WindowScore]) -> _Stretch:
    weighted = [
        (window, covered)
        for window in windows
        if (covered := min(end, window.end) - max(start, window.start)) > TOLERANCE
    ]
    # A video of one frame may have no length: then its window counts all the same.
    weighted = weighted or [(window, 1.0) for window in windows]
    known = [pair for pair in weighted if pair[0].known]
    unknown = [pair for pair in weighted if not pair[0].known]
    is_known = _total(unknown) < _total(weighted) / 2 - TOLERANCE
    means = _mean_probabilities(known if is_known else weighted)
    label = max(sorted(means), key=means.__getitem__) if is_known else unknown[0][0].label
    return _Stretch(start, end, label, is_known, means)


def _total(weighted: Iterable[tuple[WindowScore, float]]) -> float:
    return sum(weight for _, weight in weighted)


def _mean_probabilities(weighted: Sequence[tuple[WindowScore, float]]) -> dict[str, float]:
    return {
        name: sum(window.probabilities[name] * weight for window, weight in weighted)
        / _total(weighted)
        for name in weighted[0][0].probabilities
    }


def _seconds(run: _Run) -> float:
    return run[-1].end - run[0].start


def _joined(runs: Sequence[_Run]) -> list[_Run]:
    stretches = itertools.chain.from_iterable(runs)
    groups = itertools.groupby(stretches, key=lambda stretch: (stretch.known, stretch.label))
    return [list(group) for _, group in groups]


def _absorbed(runs: list[_Run], length: float) -> list[_Run]:
    """Gives all runs that are as short as `length` the label of the longer neighbor."""
    result: list[_Run] = []
    for run, following in itertools.zip_longest(runs, runs[1:]):
        if _seconds(run) <= length + TOLERANCE:
            neighbors = [*result[-1:], *([following] if following else [])]
            # Of two that are equally long, the earlier one.
            model = max(neighbors, key=lambda neighbor: round(_seconds(neighbor), 6))[0]
            run = [dataclasses.replace(s, label=model.label, known=model.known) for s in run]
        result.append(run)
    return result


def _segment(run: _Run) -> Segment:
    first = run[0]
    probability = math.nan
    if first.known:
        weights = [stretch.seconds or 1.0 for stretch in run]
        values = [stretch.probabilities[first.label] for stretch in run]
        probability = math.fsum(map(math.prod, zip(weights, values, strict=True))) / sum(weights)
    return Segment(first.start, run[-1].end, first.label, first.known, probability)


def write_windows_csv(path: Path, windows: Sequence[WindowScore]) -> None:
    """Writes a line for each window.

    The columns are `start,end,predicted,probability,margin` and `distance_<class>` for each class;
    times are in seconds. With a single class the margin is `inf`.

    Raises:
        MoloError: the file cannot be written.
    """
    names = list(windows[0].distances) if windows else []
    header = ["start", "end", "predicted", "probability", "margin"]
    rows = [
        [
            *(f"{window.start:.3f}", f"{window.end:.3f}", window.label),
            *(f"{window.probability:.6g}", f"{window.margin:.6g}"),
            *(f"{window.distances[name]:.6g}" for name in names),
        ]
        for window in windows
    ]
    _write_csv(path, [header + [f"distance_{name}" for name in names], *rows])


def write_segments_csv(path: Path, segments: Sequence[Segment]) -> None:
    """Writes a line for each segment: `start,end,predicted,probability`, times in seconds.

    Segments in which no class is near enough are among them, without a probability.

    Raises:
        MoloError: the file cannot be written.
    """
    rows = [
        [
            *(f"{segment.start:.3f}", f"{segment.end:.3f}", segment.label),
            f"{segment.probability:.6g}" if segment.known else "",
        ]
        for segment in segments
    ]
    _write_csv(path, [["start", "end", "predicted", "probability"], *rows])


def _write_csv(path: Path, rows: Iterable[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    with written(path):
        write_text(path, text.getvalue())


# SubRip knows no way to write these signs: players take what begins with one for a tag.
_SRT_SIGNS = str.maketrans({"<": "‹", ">": "›"})
_VTT_SIGNS = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def write_srt(path: Path, segments: Sequence[Segment]) -> None:
    """Writes the segments of a class as subtitles in the format SubRip.

    `<` and `>` in the name of a class become `‹` and `›`.

    Raises:
        MoloError: the file cannot be written.
    """
    cues = [
        f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{text.translate(_SRT_SIGNS)}\n\n"
        for number, (start, end, text) in enumerate(_cues(segments), 1)
    ]
    with written(path):
        write_text(path, "".join(cues))


def write_vtt(path: Path, segments: Sequence[Segment]) -> None:
    """Writes the segments of a class as subtitles in the format WebVTT.

    Raises:
        MoloError: the file cannot be written.
    """
    cues = [
        f"\n{_clock(start, '.')} --> {_clock(end, '.')}\n{text.translate(_VTT_SIGNS)}\n"
        for start, end, text in _cues(segments)
    ]
    with written(path):
        write_text(path, "WEBVTT\n" + "".join(cues))


def _cues(segments: Iterable[Segment]) -> Iterator[tuple[int, int, str]]:
    """The subtitles: begin and end in milliseconds, and a text of one line."""
    for segment in segments:
        start, end = round(segment.start * 1000), round(segment.end * 1000)
        if segment.known and start < end:
            # An empty line would end the subtitle.
            yield start, end, segment_text(segment)


def segment_text(segment: Segment) -> str:
    """Returns what is shown of a segment of a class, in one line, such as `squat (87 %)`."""
    return f"{' '.join(segment.label.split())} ({100 * segment.probability:.0f} %)"


def _clock(milliseconds: int, point: str) -> str:
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{point}{milliseconds:03d}"
