import gc
import math
import weakref

import numpy as np
import pytest
from videos import read_codes, read_packets, write_packets, write_video

from molo_jax.data.video.containers import BadVideoError
from molo_jax.data.video.timed import TimedFrame, last_moment
from molo_jax.errors import UsageError
from molo_jax.prediction import windows as module
from molo_jax.prediction.windows import windows

RESIZE = 40


def cut(path, num_frames, window, stride):
    """The windows of a video as (start, end, frame numbers)."""
    return [
        (start, end, read_codes(pixels)[0])
        for start, end, pixels in windows(str(path), num_frames, RESIZE, window, stride)
    ]


def shown_at(times, moments):
    """By the definition, without any of the code: the last frame that is not after a moment."""
    return [max(i for i, time in enumerate(times) if time <= m + 1e-6) for m in moments]


def centers(start, end, num_frames):
    return [start + (j + 0.5) * (end - start) / num_frames for j in range(num_frames)]


def by_definition(times, end, num_frames, window, stride):
    count = max(0, math.floor((end - window) / stride + 1e-6) + 1)
    spans = [(k * stride, k * stride + window) for k in range(count)]
    if not spans or (spans[-1][1] < end - 1e-6 and count * stride < end - 1e-6):
        spans.append((max(end - window, 0.0), end))
    return [(a, b, shown_at(times, centers(a, b, num_frames))) for a, b in spans]


def assert_windows(found, expected):
    assert [codes for _, _, codes in found] == [codes for _, _, codes in expected]
    ends = [(start, end) for start, end, _ in found]
    np.testing.assert_allclose(ends, [(s, e) for s, e, _ in expected], atol=2e-3)


def test_a_window_begins_every_stride_and_shows_the_frames_at_the_centers_of_its_parts(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=75)  # 3 s
    found = cut(path, 5, window=1.0, stride=0.6)
    assert [(round(start, 6), round(end, 6)) for start, end, _ in found] == [
        (0, 1),
        (0.6, 1.6),
        (1.2, 2.2),
        (1.8, 2.8),
        (2, 3),
    ]
    # Centers at 0.1, 0.3, … are in the middle between two frames of 1/25 s: 2.5, 7.5, …
    assert found[0][2] == [2, 7, 12, 17, 22]
    assert found[1][2] == [17, 22, 27, 32, 37]
    assert found[4][2] == [52, 57, 62, 67, 72]


@pytest.mark.parametrize(
    ("file_name", "settings"),
    [
        ("a.mp4", {"stream_options": {"bf": "3"}}),
        ("a.mkv", {"stream_options": {"bf": "3"}}),
        ("a.webm", {"codec": "libvpx"}),
        ("a.avi", {"codec": "mpeg4", "tag": "XVID"}),
        ("a.ts", {}),
        ("a.h264", {}),
    ],
)
@pytest.mark.parametrize(
    ("num_frames", "window", "stride"),
    [(3, 0.7, 0.3), (8, 1.0, 1.0), (2, 0.3, 1.1), (7, 2.4, 0.1), (4, 2.2, 5.0)],
)
def test_windows_are_those_of_the_definition_in_every_container(
    file_name, settings, num_frames, window, stride, tmp_path
):
    path = write_video(tmp_path / file_name, frames=60, **settings)
    times = [number / 25 for number in range(60)]
    if file_name.endswith((".mkv", ".webm", ".ts")):
        times = [time - 6e-4 for time in times]  # rounded to milliseconds and less
    found = cut(path, num_frames, window, stride)
    expected = by_definition(times, 2.4, num_frames, window, stride)
    if file_name.endswith((".mkv", ".webm")):
        # A moment exactly at a frame's time falls on either side of a rounded time.
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert np.abs(np.subtract(one[2], other[2])).max() <= 1
        return
    assert_windows(found, expected)


def test_frames_at_uneven_times_are_found_by_their_times_and_not_by_their_numbers(tmp_path):
    stamps = [0, 1, 2, 3, 45, 46, 90, 91, 92, 180, 181, 182, 183, 260]  # of 1/90 second
    path = write_video(tmp_path / "a.mp4", frames=len(stamps), times=stamps)
    times = [stamp / 90 for stamp in stamps]
    found = cut(path, 4, window=1.0, stride=0.5)
    # The first second: 0.125, 0.375, 0.625, 0.875 s.
    assert found[0][2] == [3, 3, 5, 5]
    # From 1.0 to 2.0 s frame 8 is shown.
    assert found[2] == (1.0, 2.0, [8, 8, 8, 8])
    assert_windows(found, by_definition(times, found[-1][1], 4, 1.0, 0.5))
    assert found[-1][1] > 260 / 90


def test_a_frame_that_stays_for_long_fills_many_windows_without_being_converted_again(
    tmp_path, monkeypatch
):
    path = write_video(tmp_path / "a.mp4", frames=3, times=[0, 90, 90 * 1000])
    made = count_squares(monkeypatch)
    found = cut(path, 4, window=2.0, stride=1.0)
    assert len(found) >= 999
    assert [codes for *_, codes in found[1:990]] == [[1, 1, 1, 1]] * 989
    assert made.numbers == [0, 1, 2]
    assert made.most <= 4


@pytest.mark.parametrize("frames", [1, 2, 7, 24])
def test_a_video_shorter_than_a_window_is_one_window(frames, tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=frames)
    times = [number / 25 for number in range(frames)]
    end = frames / 25
    found = cut(path, 8, window=1.0, stride=0.25)
    assert_windows(found, [(0.0, end, shown_at(times, centers(0, end, 8)))])


def test_a_video_exactly_as_long_as_a_window_is_one_window_and_no_further_one(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=25)
    assert len(cut(path, 5, window=1.0, stride=0.25)) == 1


def test_the_squares_are_those_of_the_resize_of_the_method(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=25)
    ((_, _, pixels),) = windows(str(path), 5, RESIZE, 1.0, 1.0)
    assert (pixels.shape, pixels.dtype) == ((5, RESIZE, RESIZE, 3), np.uint8)
    from molo_jax.data.video.decode import decode_clip

    clip, _ = decode_clip(str(path), lambda *_: np.array([2, 7, 12, 17, 22]), RESIZE)
    np.testing.assert_array_equal(pixels, clip)


# Work and memory


class Squares:
    """The squares that were made: of which frames, and how many were alive at the same time."""

    def __init__(self):
        self.numbers, self.alive, self.most, self.most_decoded = [], 0, 0, 0

    def died(self):
        self.alive -= 1


def count_squares(monkeypatch):
    squares, resize, pixels = Squares(), module.resize_frames, TimedFrame.pixels
    decoded = weakref.WeakSet()
    next_frame = module.timed_frames
    # The search for garbage behind each frame is for the new alone: it else takes 60 ms.
    gc.collect()
    gc.freeze()

    def counted(frames, side):
        made = resize(frames, side)
        weakref.finalize(made, squares.died)
        squares.alive += 1
        squares.most = max(squares.most, squares.alive)
        return made

    def noted(frame):
        squares.numbers.append(frame.number)
        return pixels(frame)

    def watched(*arguments):
        for frame in next_frame(*arguments):
            decoded.add(frame)
            gc.collect()
            squares.most_decoded = max(squares.most_decoded, len(decoded))
            yield frame

    monkeypatch.setattr(module, "resize_frames", counted)
    monkeypatch.setattr(module, "timed_frames", watched)
    monkeypatch.setattr(TimedFrame, "pixels", noted)
    return squares


def test_every_frame_is_converted_at_most_once_and_only_if_a_window_looks_at_it(
    tmp_path, monkeypatch
):
    path = write_video(tmp_path / "a.mp4", frames=250)
    made = count_squares(monkeypatch)
    found = cut(path, 4, window=1.0, stride=0.5)
    looked_at = sorted({code for *_, codes in found for code in codes})
    assert made.numbers == looked_at
    # Moments at 1/8, 3/8, 5/8 and 7/8 of a second: four frames of 25 a second.
    assert len(looked_at) == 40


def test_with_a_stride_far_beyond_the_window_nothing_in_between_is_converted(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", frames=250)
    made = count_squares(monkeypatch)
    found = cut(path, 4, window=0.4, stride=3.0)
    assert [round(start, 6) for start, *_ in found] == [0, 3, 6, 9]
    assert len(made.numbers) == 16
    assert made.numbers == [code for *_, codes in found for code in codes]


@pytest.mark.parametrize("frames", [100, 250])
def test_the_frames_that_are_kept_do_not_grow_with_the_video(frames, tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", frames=frames)
    made = count_squares(monkeypatch)
    count = 0
    for _ in windows(str(path), 4, RESIZE, 1.0, 0.5):
        count += 1
    assert count == frames // 12.5 - 1
    # Two windows are open at a time, which share half of their frames, and the frame that is shown.
    assert made.most <= 8
    # The frame that is shown, the one that follows it, and the one that the test holds.
    assert made.most_decoded <= 3


# Damage, and wrong plans


def damaged(tmp_path, frames, bad):
    whole = write_video(
        tmp_path / "whole.mp4", frames=frames, stream_options={"g": "10", "bf": "0"}
    )
    packets = read_packets(whole)
    packets[bad].data = packets[bad].data[:4] + b"\xff" * (len(packets[bad].data) - 4)
    write_packets(tmp_path / "a.mp4", whole, packets)
    return tmp_path / "a.mp4"


def read_until_the_error(path, *arguments):
    found = []
    with pytest.raises(BadVideoError) as error:  # noqa: PT012
        for start, end, pixels in windows(str(path), *arguments):
            found.append((start, end, read_codes(pixels)[0]))
    return found, error.value


def test_damage_ends_the_windows_where_the_frames_end_and_is_said_then(tmp_path):
    path = damaged(tmp_path, frames=100, bad=66)
    assert last_moment(str(path)) == pytest.approx(4.0)
    found, error = read_until_the_error(path, 5, RESIZE, 1.0, 0.5)
    assert "cannot be decoded to the end" in error.reason
    assert [round(start, 6) for start, *_ in found] == [0, 0.5, 1, 1.5, 2]
    assert found[3] == (1.5, 2.5, [40, 45, 50, 55, 60])
    # The frames end at 66/25 = 2.64 s: what is there of the window from 2.0 s on.
    assert found[4][1] == pytest.approx(2.64)
    assert found[4][2] == [52, 57, 62, 65, 65]


def test_a_video_damaged_before_its_second_frame_gives_one_window(tmp_path):
    found, _ = read_until_the_error(damaged(tmp_path, frames=50, bad=1), 5, RESIZE, 1.0, 0.5)
    assert [codes for *_, codes in found] == [[0, 0, 0, 0, 0]]


def test_a_truncated_file_gives_its_windows_and_says_that_it_is_truncated(tmp_path):
    path = write_video(
        tmp_path / "a.mp4",
        frames=100,
        stream_options={"g": "10"},
        file_options={"movflags": "faststart"},
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    found, error = read_until_the_error(path, 4, RESIZE, 0.5, 0.5)
    assert error.reason.startswith("truncated")
    assert len(found) >= 3
    assert found[0] == (0.0, 0.5, [1, 4, 7, 10])


@pytest.mark.parametrize("planned", [0.0, 1.0, 2.38, 2.44, 3.0, 50.0])
def test_a_wrong_plan_of_the_end_costs_the_place_of_the_last_window_alone(
    planned, tmp_path, monkeypatch
):
    path = write_video(tmp_path / "a.mp4", frames=60)  # 2.4 s
    right = cut(path, 5, window=1.0, stride=0.5)
    monkeypatch.setattr(module, "last_moment", lambda *_: planned)
    found = cut(path, 5, window=1.0, stride=0.5)
    assert found[:-1] == right[:-1]
    assert found[-1][1] == pytest.approx(2.4)
    if abs(planned - 2.4) < 0.2:
        assert found[-1][0] == pytest.approx(1.4)
        assert np.abs(np.subtract(found[-1][2], right[-1][2])).max() <= 1
    else:
        # From 1.5 s on, with the moment 2.4 s behind the end of the last frame.
        assert (found[-1][0], found[-1][2]) == (1.5, [40, 45, 50, 55, 59])


@pytest.mark.parametrize("wrong", [0, -1.0, math.nan, math.inf, 1e-4])
def test_lengths_that_make_no_sense_are_refused(wrong, tmp_path):
    path = str(write_video(tmp_path / "a.mp4", frames=5))
    with pytest.raises(UsageError, match=r"the window is .* expected a number of seconds from"):
        next(windows(path, 4, RESIZE, wrong, 1.0))
    with pytest.raises(UsageError, match="the stride is"):
        next(windows(path, 4, RESIZE, 1.0, wrong))
