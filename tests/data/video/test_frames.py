import json
from pathlib import Path

import numpy as np
import pytest

from molo_jax.data.video.frames import (
    frame_chooser,
    segment_frames,
    static_frames,
    window_frames,
    window_reach,
)

GOLDEN = Path(__file__).parents[3] / "parity_tests" / "golden"
WINDOWS = json.loads((GOLDEN / "frame_index_rate35.json").read_text())


def test_each_segment_gives_the_frame_that_its_draw_names():
    # 23 // 5 = 4: segments 0-3, 4-7, 8-11, 12-15, 16-19; frames 20-22 are never shown.
    frames = segment_frames(23, np.array([0.0, 0.25, 0.5, 0.75, 0.999]))
    assert frames.tolist() == [0, 5, 10, 15, 19]


def test_every_frame_of_a_segment_is_drawn_equally_often():
    draws = np.random.default_rng(3).random((9000, 3))
    frames = np.stack([segment_frames(11, row) for row in draws])
    for k in range(3):
        values, counts = np.unique(frames[:, k], return_counts=True)
        assert values.tolist() == [3 * k, 3 * k + 1, 3 * k + 2]
        assert np.abs(counts / 9000 - 1 / 3).max() < 0.02


def test_a_draw_next_to_one_stays_in_its_segment():
    draws = np.full(2, np.nextafter(1, 0))
    assert segment_frames(2 * 10**6 + 1, draws).tolist() == [10**6 - 1, 2 * 10**6 - 1]


@pytest.mark.parametrize(
    ("length", "expected"),
    [(1, [0, 0, 0, 0, 0]), (2, [0, 0, 0, 1, 1]), (3, [0, 0, 1, 1, 2]), (5, [0, 1, 2, 3, 4])],
)
def test_a_video_with_fewer_frames_than_the_clip_repeats_them(length, expected):
    assert segment_frames(length, np.full(5, 0.9)).tolist() == expected


@pytest.mark.parametrize("case", WINDOWS, ids=lambda c: f"{c['length']}-{c['fps']}-{c['start']}")
def test_windows_equal_the_official_frame_numbers(case):
    start = None if case["start"] == "test" else case["start"]
    assert window_frames(case["length"], case["fps"], 8, start).tolist() == case["index"]


def test_a_window_follows_the_number_of_frames():
    # 4·35·12/12 = 140 frames from 0 to 140 - 35 = 105.
    assert window_frames(200, 12, 4, 0.0).tolist() == [0, 35, 70, 105]
    # Half of 200 - 140 + 1 = 61 later.
    assert window_frames(200, 12, 4, None).tolist() == [30, 65, 100, 135]


def test_a_window_of_a_video_with_fewer_frames_than_the_clip_stays_inside():
    # 5 // 8 · 8 = 0: the window begins at (5 + 1) · 0.5 = 3 and ends at 3 - 35.
    assert window_frames(5, 25, 8, None).tolist() == [3, 0, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("fps", [0.0, -25.0, float("nan"), float("inf")])
def test_a_window_needs_a_frame_rate(fps):
    with pytest.raises(ValueError, match="frame rate"):
        window_frames(100, fps, 8, 0.5)


def test_a_static_clip_repeats_its_middle_frame():
    assert static_frames(np.array([2, 5, 11, 17])).tolist() == [11, 11, 11, 11]


def test_the_chooser_applies_the_named_rule_to_the_draws():
    draws = np.array([0.5, 0.0, 0.0, 0.9])
    assert frame_chooser("segments", draws)(41, 25.0).tolist() == [5, 10, 20, 39]
    assert frame_chooser("segments", draws, static=True)(41, 25.0).tolist() == [20] * 4
    random_window = window_frames(400, 25.0, 4, 0.5)
    assert frame_chooser("window", draws)(400, 25.0).tolist() == random_window.tolist()
    other = frame_chooser("window", np.array([0.1, 0.5, 0.5, 0.5]))(400, 25.0)
    assert other.tolist() == window_frames(400, 25.0, 4, 0.1).tolist() != random_window.tolist()
    middle = frame_chooser("window_middle", np.array([0.1, 0.5, 0.5, 0.5]))(400, 25.0)
    assert middle.tolist() == window_frames(400, 25.0, 4, None).tolist()


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="unknown sampling 'dense'; expected one of segments"):
        frame_chooser("dense", np.zeros(3))


@pytest.mark.parametrize(
    ("length", "fps"),
    [
        (300, 30.0),
        (300, 29.97),
        (250, 25.0),
        (91, 12.0),
        (600, 12.0),
        (7, 30.0),
        (1, 25.0),
        (40, 8),
    ],
)
def test_the_reach_of_a_window_holds_every_frame_it_can_show_and_few_others(length, fps):
    reach = window_reach(length, fps, 8)
    shown = set()
    for start in (*np.linspace(0, 1, 4000, endpoint=False), np.nextafter(1, 0), None):
        shown |= set(window_frames(length, fps, 8, start).tolist())
    assert shown <= set(reach.tolist())
    # The margin for rounding adds at most a frame at either end of each of the eight ranges.
    assert len(reach) - len(shown) <= 16
    assert reach.tolist() == sorted(set(reach.tolist()))
    assert (reach[0] >= 0) & (reach[-1] < length)


def test_the_reach_of_ten_seconds_is_a_sixth_of_their_frames():
    assert len(window_reach(300, 30.0, 8)) < 60


def test_a_window_without_a_frame_rate_has_no_reach():
    with pytest.raises(ValueError, match="the frame rate is 0"):
        window_reach(300, 0, 8)
