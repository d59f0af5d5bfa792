"""Intervals of classes, hardest queries, the order of a confusion, from made outcomes."""

import numpy as np
import pytest
from made_results import confusion_of, made_outcome
from scipy.stats import norm

from molo_jax.analysis.outcome import Outcome
from molo_jax.analysis.summary import summarize
from molo_jax.reporting.statistics import (
    OVER_QUERIES,
    OVER_VIDEOS,
    asked_queries,
    class_accuracies,
    completed,
    confused_pairs,
    hardest,
    interval_over_videos,
    order_of_classes,
    wilson,
)
from molo_jax.reporting.work_folder import Result


def result(confusion=None, classes=(), per_class=None):
    return Result(
        *("eval_test_2way_1shot.json", "trained", 2, 1, 3, 0.5, 0.1),
        classes=tuple(classes),
        confusion=None if confusion is None else np.array(confusion),
        per_class=per_class or {},
    )


# Three episodes of two classes of three, one query each.
CLASSES = np.array([[2, 0], [0, 1], [2, 0]])
VIDEOS = np.array([[[0, 5], [0, 7]], [[0, 7], [0, 3]], [[1, 5], [1, 6]]])
PREDICTED = np.array([[[1], [1]], [[1], [1]], [[1], [0]]])
MARGINS = np.array([[[-1.0], [2.0]], [[-4.0], [1.0]], [[-3.0], [-0.5]]])
MADE = Outcome(CLASSES, VIDEOS, 1, PREDICTED, MARGINS)
NAMES = ["a", "b", "c"]


def test_the_published_values_of_wilsons_interval():
    # Newcombe (1998), table I: 81 of 263 and 0 of 20 with the score method.
    np.testing.assert_allclose(wilson(81 / 263, 263, 1.959964), (0.2553, 0.3662), atol=5e-5)
    np.testing.assert_allclose(wilson(0.0, 20, 1.959964), (0.0, 0.1611), atol=5e-5)


def test_queries_of_the_same_video_are_added_up():
    table = asked_queries(MADE)
    assert table["classes"].tolist() == [0, 0, 1, 2]
    assert table["videos"].tolist() == [6, 7, 3, 5]
    assert table["asked"].tolist() == [1, 2, 1, 2]
    assert table["right"].tolist() == [0, 1, 1, 0]
    assert table["margins"].tolist() == [-0.5, -1.0, 1.0, -2.0]
    # Of class 0, video 6 was taken for class 2 and video 7 for class 1; class 2 for class 0.
    assert table["taken"].tolist() == [2, 1, -1, 0]


def test_the_hardest_queries_come_first_and_right_ones_never():
    found = hardest(MADE, 5)
    assert [(each.class_position, each.video_position) for each in found] == [(2, 5), (0, 7)]
    assert (found[0].asked, found[0].right, found[0].margin, found[0].taken_for) == (2, 0, -2, 0)
    assert len(hardest(MADE, 1)) == 1


def test_classes_are_sorted_and_have_intervals_over_their_query_videos():
    rows, how = class_accuracies(result(), MADE, summarize(MADE, np.full(3, 8)), NAMES)
    assert how == OVER_VIDEOS
    assert [(row.name, row.queries, row.videos) for row in rows] == [
        ("b", 1, 1),
        ("a", 3, 2),
        ("c", 2, 1),
    ]
    assert [row.accuracy for row in rows] == [1, pytest.approx(1 / 3), 0]
    # A single video whose queries are all right says nothing of others.
    assert rows[0].low is rows[0].high is None
    assert rows[1].low < 1 / 3 < rows[1].high


def test_the_interval_of_a_class_is_that_of_the_result_file_unless_all_queries_are_right():
    outcome = made_outcome(6, right=1.0)
    cell = summarize(outcome, np.full(6, 12))
    rows, _ = class_accuracies(result(), outcome, cell, [f"n{i}" for i in range(6)])
    # The first class is right half of the time, the others always.
    assert rows[-1].name == "n0"
    half, share = cell.per_class[0].ci95_videos, rows[-1].accuracy
    assert half > 0.05
    assert (rows[-1].low, rows[-1].high) == (share - half, share + half)
    assert rows[0].accuracy == rows[0].high == 1
    assert 0.6 < rows[0].low < 0.8


def test_without_outcomes_the_confusion_gives_the_intervals_and_the_mistakes():
    rows, how = class_accuracies(result([[8, 2, 0], [0, 9, 1], [0, 0, 0]], NAMES), None, None, [])
    assert how == OVER_QUERIES
    assert [(row.name, row.accuracy, row.queries) for row in rows] == [
        ("b", 0.9, 10),
        ("a", 0.8, 10),
    ]
    assert rows[1].taken_for == ("b", 0.2)
    assert (rows[1].low, rows[1].high) == wilson(0.8, 10, norm.ppf(0.975))


def test_an_older_result_has_classes_without_intervals():
    rows, how = class_accuracies(result(per_class={"x": 0.25, "y": 0.5}), None, None, [])
    assert how == ""
    assert [(row.name, row.accuracy, row.low) for row in rows] == [
        ("y", 0.5, None),
        ("x", 0.25, None),
    ]


def test_the_interval_over_videos_covers_where_that_over_queries_does_not():
    """Each video has its own difficulty; the truth is the mean over all videos."""
    random, covered, naive, truth = np.random.default_rng(0), 0, 0, 0.7
    for _ in range(400):
        easy = random.beta(3.5, 1.5, 20)
        asked = random.integers(5, 15, 20).astype(float)
        right = random.binomial(asked.astype(int), easy).astype(float)
        low, high = interval_over_videos(right, asked)
        covered += low <= truth <= high
        low, high = wilson(right.sum() / asked.sum(), asked.sum(), 1.96)
        naive += low <= truth <= high
    assert 0.93 <= covered / 400 <= 0.98
    assert naive / 400 < 0.85


def test_all_right_is_as_uncertain_as_so_many_videos():
    low, high = interval_over_videos(np.full(12, 9.0), np.full(12, 9.0))
    assert high == 1
    assert 0.6 < low < 0.75


def test_classes_that_are_confused_lie_side_by_side():
    counts = np.full((6, 6), 0)
    np.fill_diagonal(counts, 90)
    for one, other in ((0, 3), (1, 5), (2, 4)):
        counts[one, other] = counts[other, one] = 10
    order = order_of_classes(counts)
    assert sorted(order) == [*range(6)]
    for one, other in ((0, 3), (1, 5), (2, 4)):
        assert abs(order.index(one) - order.index(other)) == 1
    assert order_of_classes(np.eye(2, dtype=int)) == [0, 1]


def test_pairs_are_sorted_by_their_share_of_the_queries_for_which_they_were_possible():
    given = result([[8, 2, 0], [1, 9, 3], [0, 0, 5]], NAMES)
    pairs = confused_pairs(given, None, 5)
    assert [(p.true, p.predicted, p.count, p.total) for p in pairs] == [
        ("b", "c", 3, 13),
        ("a", "b", 2, 10),
        ("b", "a", 1, 13),
    ]
    together = np.array([[10, 4, 6], [2, 13, 12], [1, 1, 5]])
    assert [(p.true, p.predicted, p.share) for p in confused_pairs(given, together, 2)] == [
        ("a", "b", 0.5),
        ("b", "a", 0.5),
    ]
    assert confused_pairs(result(), None, 5) == []


def test_a_result_is_completed_from_its_outcomes():
    outcome = made_outcome(12)
    cell = summarize(outcome, np.full(12, 12))
    names = [f"n{i}" for i in range(12)]
    found = completed(result(), cell, names)
    np.testing.assert_array_equal(found.confusion, confusion_of(outcome, 12))
    assert found.classes == tuple(names)
    assert found.ci95_videos == cell.intervals.ci95_videos
    assert found.ci95_videos > 0
    assert completed(result(), None, []) == result()
