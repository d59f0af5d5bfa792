import csv
import html
import itertools
import math
import re

import pytest

from molo_jax.errors import MoloError
from molo_jax.prediction.timeline import (
    Segment,
    WindowScore,
    segments_of,
    write_segments_csv,
    write_srt,
    write_vtt,
    write_windows_csv,
)

NONE = "none of these"


def score(start, end, squat, *, known=True):
    """A window of two classes, with the probability of the class squat."""
    probabilities = {"lunge": 1 - squat, "squat": squat}
    nearest = max(probabilities, key=probabilities.get)
    return WindowScore(
        start=start,
        end=end,
        label=nearest if known else NONE,
        known=known,
        probability=probabilities[nearest],
        margin=abs(2 * squat - 1),
        distances={"lunge": squat, "squat": 1 - squat},
        probabilities=probabilities,
    )


def row(segments):
    return [(s.start, s.end, s.label) for s in segments]


def test_a_stretch_gets_the_class_with_the_highest_mean_over_the_windows_that_cover_it():
    # Windows of 2 s every second. From 1 to 2 s, the mean for squat is (0.9 + 0.2) / 2 = 0.55.
    scores = [score(0, 2, 0.9), score(1, 3, 0.2), score(2, 4, 0.3)]
    segments = segments_of(scores, 1.0)
    assert row(segments) == [(0, 2, "squat"), (2, 4, "lunge")]
    assert segments[0].probability == pytest.approx((0.9 + 0.55) / 2)
    assert segments[1].probability == pytest.approx((0.75 + 0.7) / 2)


def test_windows_count_by_the_seconds_that_they_cover_of_a_stretch():
    # The stretch from 1 to 2 s: all of the second window, a quarter of the first.
    scores = [score(0, 1.25, 1.0), score(1, 2.25, 0.4)]
    segments = segments_of(scores, 1.0)
    assert row(segments) == [(0, 2, "squat"), (2, 2.25, "lunge")]
    middle = (1.0 * 0.25 + 0.4 * 1) / 1.25
    assert segments[0].probability == pytest.approx((1.0 + middle) / 2)


def test_a_last_window_beside_the_grid_ends_the_timeline():
    scores = [score(0, 2, 0.9), score(1, 3, 0.9), score(1.4, 3.4, 0.1)]
    segments = segments_of(scores, 1.0)
    assert row(segments) == [(0, 2, "squat"), (2, 3.4, "lunge")]
    # From 2 to 3 s both count alike, and then the last one alone.
    assert segments[1].probability == pytest.approx((0.5 * 1 + 0.9 * 0.4) / 1.4)


def test_with_a_stride_beyond_the_window_each_stretch_has_the_label_of_its_window():
    scores = [score(0, 2, 0.9), score(60, 62, 0.1), score(120, 122, 0.9)]
    assert row(segments_of(scores, 60)) == [
        (0, 60, "squat"),
        (60, 120, "lunge"),
        (120, 122, "squat"),
    ]


def test_of_two_equal_classes_the_first_by_name_is_chosen():
    assert row(segments_of([score(0, 1, 0.5)], 1.0)) == [(0, 1, "lunge")]


def test_half_of_the_time_without_a_class_near_enough_is_none_of_these():
    scores = [score(0, 2, 0.9), score(1, 3, 0.9, known=False), score(2, 4, 0.2)]
    segments = segments_of(scores, 1.0)
    assert row(segments) == [(0, 1, "squat"), (1, 3, NONE), (3, 4, "lunge")]
    assert [s.known for s in segments] == [True, False, True]
    assert math.isnan(segments[1].probability)
    assert segments[2].probability == pytest.approx(0.8)


def test_windows_without_a_class_near_enough_do_not_count_for_the_class_of_a_stretch():
    scores = [
        score(0, 3, 0.6),
        score(1, 4, 0.6),
        score(2, 5, 0.0, known=False),
        score(3, 6, 0.6),
        score(4, 7, 0.6),
    ]
    (segment,) = segments_of(scores, 1.0)
    assert (segment.start, segment.end, segment.label) == (0, 7, "squat")
    assert segment.probability == pytest.approx(0.6)


def a_second_each(letters):
    """One window a second: s and l for the two classes, lower case with 0.7, n for none."""
    value = {"s": 0.7, "S": 0.95, "l": 0.3, "L": 0.05, "n": 0.5}
    return [score(i, i + 1, value[c], known=c != "n") for i, c in enumerate(letters)]


@pytest.mark.parametrize(
    ("letters", "shortest", "expected"),
    [
        ("sslss", 0, "ss l ss"),
        ("sslss", 2, "sssss"),
        ("sslsss", 1, "ss l sss"),
        # At an end there is one neighbor.
        ("lsss", 2, "ssss"),
        ("sssl", 2, "ssss"),
        # The longer neighbor, or the earlier of two.
        ("ssslnn", 2, "ssss nn"),
        ("sslnnn", 2, "ss nnnn"),
        ("ssnll", 2, "sss ll"),
        # The shortest first: then what is left is long enough.
        ("sslsslllnlll", 3, "sssss lllllll"),
        ("slslsl", 2, "llllll"),
        ("s", 5, "s"),
        # The first one has one neighbor, and goes first.
        ("sl", 5, "ll"),
        ("sssnsss", 2, "sssssss"),
    ],
)
def test_segments_that_are_too_short_get_the_label_of_the_longer_neighbor(
    letters, shortest, expected
):
    segments = segments_of(a_second_each(letters), 1.0, shortest=shortest)
    names = {"s": "squat", "l": "lunge", "n": NONE}
    place, wanted = 0, []
    for word in expected.split():
        wanted.append((place, place + len(word), names[word[0]]))
        place += len(word)
    assert row(segments) == wanted


def test_the_probability_of_a_segment_counts_what_it_has_swallowed():
    (segment,) = segments_of(a_second_each("sslss"), 1.0, shortest=2)
    assert segment.probability == pytest.approx((4 * 0.7 + 0.3) / 5)


def test_segments_follow_one_another_for_hours():
    scores = [score(k * 0.1, k * 0.1 + 2, 0.9 if k // 600 % 2 else 0.1) for k in range(20_000)]
    segments = segments_of(scores, 0.1, shortest=1)
    assert len(segments) == 34
    assert segments[0].start == 0
    assert segments[-1].end == scores[-1].end
    assert all(a.end == b.start for a, b in itertools.pairwise(segments))
    assert {s.label for s in segments[::2]} == {"lunge"}


def test_no_windows_have_no_segments():
    assert segments_of([], 1.0) == []


def test_a_video_without_a_length_has_one_segment():
    assert row(segments_of([score(0, 0, 0.9)], 1.0)) == [(0, 0, "squat")]
    assert segments_of([score(0, 0, 0.9)], 1.0)[0].probability == pytest.approx(0.9)


# Files

SEGMENTS = [
    Segment(0.0, 1.5, "squat", True, 0.874),
    Segment(1.5, 59.9996, NONE, False, math.nan),
    Segment(59.9996, 3661.0421, 'a --> b & <i>"c"</i>', True, 1.0),
    Segment(3661.0421, 3661.0423, "too short to be shown", True, 0.5),
    Segment(3661.0423, 360000.0, "弓步\n\n лунге", True, 0.005),
]


def seconds(text):
    hours, minutes, rest = text.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest.replace(",", "."))


def parse_srt(text):
    """Reads SubRip as players do: blocks between empty lines."""
    cues = []
    for block in text.strip().split("\n\n"):
        number, times, *lines = block.split("\n")
        match = re.fullmatch(r"(\d{2,}:\d\d:\d\d,\d{3}) --> (\d{2,}:\d\d:\d\d,\d{3})", times)
        assert int(number) == len(cues) + 1
        cues.append((seconds(match[1]), seconds(match[2]), "\n".join(lines)))
    return cues


def parse_vtt(text):
    """Reads WebVTT by its grammar: the head, then cues, each behind an empty line."""
    head, *blocks = text.rstrip("\n").split("\n\n")
    assert head == "WEBVTT"
    cues = []
    for block in blocks:
        times, *lines = block.split("\n")
        match = re.fullmatch(r"(\d{2,}:\d\d:\d\d\.\d{3}) --> (\d{2,}:\d\d:\d\d\.\d{3})", times)
        payload = "\n".join(lines)
        assert "-->" not in payload
        assert "<" not in payload
        cues.append((seconds(match[1]), seconds(match[2]), html.unescape(payload)))
    return cues


def test_subtitles_are_read_again_with_their_times_and_labels(tmp_path):
    write_srt(tmp_path / "a.srt", SEGMENTS)
    write_vtt(tmp_path / "a.vtt", SEGMENTS)
    expected = [
        (0.0, 1.5, "squat (87 %)"),
        (60.0, 3661.042, 'a --> b & <i>"c"</i> (100 %)'),
        (3661.042, 360000.0, "弓步 лунге (0 %)"),
    ]
    assert parse_vtt((tmp_path / "a.vtt").read_text("utf-8")) == expected
    found = parse_srt((tmp_path / "a.srt").read_text("utf-8"))
    assert [cue[:2] for cue in found] == [cue[:2] for cue in expected]
    assert found[1][2] == 'a --› b & ‹i›"c"‹/i› (100 %)'
    assert found[2][2] == expected[2][2]


def test_the_times_are_written_as_the_formats_ask(tmp_path):
    write_srt(tmp_path / "a.srt", [Segment(3661.0421, 360000.5, "squat", True, 0.9)])
    assert (tmp_path / "a.srt").read_text() == (
        "1\n01:01:01,042 --> 100:00:00,500\nsquat (90 %)\n\n"
    )
    write_vtt(tmp_path / "a.vtt", [Segment(0.0, 0.04, "squat", True, 0.9)])
    assert (tmp_path / "a.vtt").read_text() == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:00.040\nsquat (90 %)\n"
    )


def test_subtitles_of_nothing_are_files_without_cues(tmp_path):
    write_srt(tmp_path / "a.srt", SEGMENTS[1:2])
    write_vtt(tmp_path / "a.vtt", [])
    assert (tmp_path / "a.srt").read_text() == ""
    assert (tmp_path / "a.vtt").read_text() == "WEBVTT\n"


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_the_table_of_segments_keeps_those_without_a_class(tmp_path):
    write_segments_csv(tmp_path / "a.csv", SEGMENTS)
    assert read_csv(tmp_path / "a.csv") == [
        ["start", "end", "predicted", "probability"],
        ["0.000", "1.500", "squat", "0.874"],
        ["1.500", "60.000", NONE, ""],
        ["60.000", "3661.042", 'a --> b & <i>"c"</i>', "1"],
        ["3661.042", "3661.042", "too short to be shown", "0.5"],
        ["3661.042", "360000.000", "弓步\n\n лунге", "0.005"],
    ]


def test_the_table_of_windows_has_a_column_for_each_distance(tmp_path):
    write_windows_csv(tmp_path / "a.csv", [score(0, 2, 0.75), score(0.5, 2.5, 0.5, known=False)])
    assert read_csv(tmp_path / "a.csv") == [
        ["start", "end", "predicted", "probability", "margin", "distance_lunge", "distance_squat"],
        ["0.000", "2.000", "squat", "0.75", "0.5", "0.75", "0.25"],
        ["0.500", "2.500", NONE, "0.5", "0", "0.5", "0.5"],
    ]
    write_windows_csv(tmp_path / "b.csv", [])
    assert read_csv(tmp_path / "b.csv") == [["start", "end", "predicted", "probability", "margin"]]


@pytest.mark.parametrize("write", [write_srt, write_vtt, write_segments_csv])
def test_a_file_that_cannot_be_written_is_said_and_the_old_one_stays(write, tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(MoloError, match=r"a\.txt cannot be written: No space left.*make room"):
        write(path, SEGMENTS)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_in_a_folder_that_is_absent_is_said(tmp_path):
    with pytest.raises(MoloError, match="cannot be written: No such file"):
        write_srt(tmp_path / "absent" / "a.srt", SEGMENTS)
