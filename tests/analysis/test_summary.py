"""The summary of a cell, counted by hand on few episodes."""

import numpy as np
import pytest
from outcomes import CLASSES, VIDEOS, episodes, outcome

from molo_jax.analysis.outcome import Outcome
from molo_jax.analysis.summary import summarize

SIZES = np.full(CLASSES, VIDEOS)


def test_counts_of_two_episodes_are_those_of_a_hand():
    # Two queries a class; label 1 of episode 0 (class 4) is taken for class 2 once.
    classes = np.array([[2, 4], [4, 0]])
    videos = np.array([[[0, 1, 2], [3, 4, 5]], [[6, 4, 5], [0, 1, 2]]])
    predicted = np.array([[[0, 0], [1, 0]], [[1, 1], [1, 1]]])
    cell = summarize(
        Outcome(classes, videos, 1, predicted, np.zeros((2, 2, 2))),
        SIZES,
        seconds=1.5,
        fewest_questions=2,
    )
    assert (cell.way, cell.shot, cell.episodes, cell.seconds) == (2, 1, 2, 1.5)
    # Episode 0 has 3 of 4 right, episode 1 has 2 of 4.
    assert cell.accuracy == pytest.approx(5 / 8)
    assert cell.intervals.ci95 == pytest.approx(1.96 * 0.125)
    means = {c: one.mean for c, one in cell.per_class.items()}
    assert means == {0: 1.0, 2: 1.0, 4: pytest.approx(1 / 4)}
    expected = np.zeros((CLASSES, CLASSES), int)
    expected[2, 2], expected[4, 4], expected[4, 2], expected[4, 0], expected[0, 0] = 2, 1, 1, 2, 2
    np.testing.assert_array_equal(cell.confusion, expected)
    assert cell.together[4, [0, 2, 4]].tolist() == [2, 2, 4]
    pairs = [(p.true, p.predicted, p.count, p.rate) for p in cell.confused_pairs(9)]
    assert pairs == [(4, 0, 2, 1.0), (4, 2, 1, 0.5)]
    assert len(cell.confused_pairs(1)) == 1
    # Video 5 of class 4 was asked twice and never right; video 4 was right once.
    assert [
        (w.class_position, w.video_position, w.asked, w.taken_for) for w in cell.always_wrong
    ] in ([(4, 5, 2, 0)], [(4, 5, 2, 2)])


def test_sums_of_many_episodes_agree_with_a_loop():
    classes, videos = episodes(300, 4, 3)
    found = outcome(classes, videos, 2, spread=1.5)
    cell = summarize(found, SIZES, fewest_questions=4)
    asked, right, confusion = {}, {}, np.zeros((CLASSES, CLASSES), int)
    for e, label in np.ndindex(classes.shape):
        true, guess = classes[e, label], classes[e, found.predicted[e, label, 0]]
        confusion[true, guess] += 1
        query = true, videos[e, label, 2]
        asked[query] = asked.get(query, 0) + 1
        right[query] = right.get(query, 0) + (true == guess)
    np.testing.assert_array_equal(cell.confusion, confusion)
    wrong = {q: n for q, n in asked.items() if n >= 4 and right[q] == 0}
    assert {(w.class_position, w.video_position): w.asked for w in cell.always_wrong} == wrong
    assert [w.asked for w in cell.always_wrong] == sorted(wrong.values(), reverse=True)
    assert wrong
    for c, one in cell.per_class.items():
        assert one.mean == pytest.approx(confusion[c, c] / confusion[c].sum())
    worst = cell.confused_pairs(1)[0]
    together = sum((classes == worst.true).any(1) & (classes == worst.predicted).any(1))
    assert worst.rate == pytest.approx(worst.count / together)


def test_classes_that_were_never_drawn_are_left_out():
    classes, videos = episodes(50, 2, 2, sizes=(VIDEOS,) * 3)
    cell = summarize(outcome(classes, videos, 1), np.full(5, VIDEOS))
    assert list(cell.per_class) == [0, 1, 2]
    assert cell.confusion.shape == (5, 5)
    assert cell.confusion[3:].sum() == 0
