"""Which frames of a video make a clip: two rules, both pure functions of random draws.

The draws are uniform in [0, 1) and belong to the clip, so that the frames do not depend on when or
where the video is decoded; its length and frame rate become known only then.
"""

from collections.abc import Callable

import numpy as np

TRAINING_SAMPLINGS = ("segments", "window")
SAMPLINGS = (*TRAINING_SAMPLINGS, "window_middle")
WINDOW_RATE = 35  # frames between two sampled ones, at 12 frames a second
WINDOW_FPS = 12

ChooseFrames = Callable[[int, float], np.ndarray]


class FrameRateError(ValueError):
    """A video has no frame rate, so it has no window in seconds: the video is at fault."""


def segment_frames(length: int, draws: np.ndarray) -> np.ndarray:
    """One random frame from each of T equal segments (SSv2, UCF101, HMDB51, synthetic).

        n = length // T,  frame k uniform in [k n, k n + n - 1]

    What is left over at the end when T does not divide `length` is never shown. A video shorter
    than T frames is spread over the clip, frames repeating: frame k is `k length // T`.

    Args:
        length: number of frames of the video, at least 1.
        draws: (t,) uniform in [0, 1).

    Returns:
        (t,) int64 frame numbers, ascending.
    """
    num_frames = len(draws)
    positions = np.arange(num_frames)
    segment = length // num_frames
    if segment == 0:
        return positions * length // num_frames
    return positions * segment + np.floor(np.asarray(draws) * segment).astype(np.int64)


def window_frames(length: int, fps: float, num_frames: int, start: float | None) -> np.ndarray:
    """T equally spaced frames of a window of 35 T / 12 seconds (Kinetics-100).

        clip = 35 T fps / 12, or T (length // T) where that is longer than the video
        begin = start · max(length - clip + 1, 0),  end = begin + clip - 35
        frames = trunc(clip_to(linspace(begin, end, T), 0, length - 1))

    Quirk kept: 35 is subtracted in frames whatever the video's rate is, so a video shorter than
    about 35 frames is shown backwards or as one repeated frame.

    Args:
        length: number of frames of the video, at least 1.
        fps: frames a second of the video.
        num_frames: T.
        start: where in the possible range the window begins, in [0, 1); None for the rule used in
            tests, the middle.

    Returns:
        (t,) int64 frame numbers.

    Raises:
        FrameRateError: the frame rate is not a positive number, so the window has no length.
    """
    clip = _window_length(length, fps, num_frames)
    begin = max(length - clip + 1, 0) * (0.5 if start is None else start)
    points = _linspace(begin, begin + clip - WINDOW_RATE, num_frames)
    return np.clip(points, 0, length - 1).astype(np.int64)


def window_reach(length: int, fps: float, num_frames: int) -> np.ndarray:
    """All frames that :func:`window_frames` can choose, wherever its window begins.

    Point k moves from k·step to max(length - clip + 1, 0) + k·step; the margin is for the rounding
    of the points to float32.

    Returns:
        (n,) int64 frame numbers, ascending.

    Raises:
        FrameRateError: the frame rate is not a positive number.
    """
    clip = _window_length(length, fps, num_frames)
    room, first = max(length - clip + 1, 0), np.linspace(0, clip - WINDOW_RATE, num_frames)
    margin = 1e-3
    reach = [np.arange(np.floor(low - margin), np.floor(low + room + margin) + 1) for low in first]
    return np.unique(np.clip(np.concatenate(reach), 0, length - 1).astype(np.int64))


def _window_length(length: int, fps: float, num_frames: int) -> float:
    if not (np.isfinite(fps) and fps > 0):
        raise FrameRateError(f"the frame rate is {fps}, so a window in seconds has no length")
    clip = num_frames * WINDOW_RATE * fps / WINDOW_FPS
    return length // num_frames * num_frames if clip > length else clip


def _linspace(begin: float, end: float, count: int) -> np.ndarray:
    """Equally spaced float32 points, bit by bit those of `torch.linspace` on a CPU.

    A point that is a whole number becomes that frame or the one before it, by how it is rounded:
    the official code rounds to float32, counts the first half from the beginning and the second
    from the end, and rounds a product and its sum once.
    """
    begin, end = np.float32(begin), np.float32(end)
    step = np.float64((end - begin) / np.float32(count - 1))
    number = np.arange(count)
    forwards, backwards = begin + step * number, end - step * (count - 1 - number)
    return np.where(number < count // 2, forwards, backwards).astype(np.float32)


def static_frames(indices: np.ndarray) -> np.ndarray:
    """The middle frame repeated: the same clip without its motion."""
    return np.full_like(indices, indices[len(indices) // 2])


def frame_chooser(sampling: str, draws: np.ndarray, static: bool = False) -> ChooseFrames:
    """Binds a rule to a clip's draws; what remains open is the video's length and frame rate.

    Args:
        sampling: "segments", "window" (begins at the first draw) or "window_middle".
        draws: (t,) uniform in [0, 1).
        static: show the middle frame of the chosen ones T times.

    Raises:
        ValueError: `sampling` is unknown.
    """
    if sampling not in SAMPLINGS:
        raise ValueError(f"unknown sampling {sampling!r}; expected one of {', '.join(SAMPLINGS)}")

    def choose(length: int, fps: float) -> np.ndarray:
        if sampling == "segments":
            indices = segment_frames(length, draws)
        else:
            start = float(draws[0]) if sampling == "window" else None
            indices = window_frames(length, fps, len(draws), start)
        return static_frames(indices) if static else indices

    return choose
