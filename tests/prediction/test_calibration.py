import numpy as np
import pytest
from scipy import special, stats

from molo_jax.prediction.calibration import Calibration, calibrate, confusion, probabilities


def scores(*distances):
    return -np.float64(distances)


def test_the_bound_is_the_upper_end_of_the_prediction_interval_of_one_more_distance():
    logits = scores([1.0, 9], [2.0, 9], [9, 3.0], [9, 2.0])
    found = calibrate(logits, np.array([0, 0, 1, 1]))
    relative = np.array([1, 2, 3, 2]) / 2
    expected = 1 + stats.t.ppf(0.95, 3) * relative.std(ddof=1) * np.sqrt(1 + 1 / 4)
    assert found.scale == 2
    assert found.bound == pytest.approx(expected, rel=1e-12)
    assert found.tested == 4


def test_five_of_a_hundred_clips_like_those_of_the_support_set_are_beyond_the_bound():
    rng = np.random.default_rng(0)
    beyond = []
    for _ in range(400):
        near = rng.normal(10, 1, 6)
        found = calibrate(np.stack([-near, -near - 5], axis=1), np.zeros(6, int))
        beyond.append(rng.normal(10, 1, 50) / found.scale > found.bound)
    assert np.mean(beyond) == pytest.approx(0.05, abs=0.012)


def test_the_temperature_minimizes_the_cross_entropy_with_a_fifth_of_a_clip_wrong():
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1, 2], 5)
    logits = rng.normal(0, 2, (15, 3))
    logits[np.arange(15), labels] += 2
    found = calibrate(logits, labels).temperature

    def entropy(temperature):
        targets = np.full((15, 3), 0.2 / 16 / 2)
        targets[np.arange(15), labels] = 1 - 0.2 / 16
        return -(targets * special.log_softmax(logits / temperature, axis=1)).sum()

    assert entropy(found) <= min(entropy(found * 1.02), entropy(found / 1.02))


def test_a_few_clips_that_are_all_right_do_not_give_certainty():
    logits = scores([0.1, 5], [0.2, 5], [5, 0.1], [5, 0.3])
    labels = np.array([0, 0, 1, 1])
    found = calibrate(logits, labels)
    shares = probabilities(-logits, found)
    assert 0.9 < shares.max() < 0.97


def test_too_few_clips_leave_the_scores_of_the_network_as_they_are():
    nothing = np.full((4, 2), np.nan)
    nothing[:2] = [[-1, -2], [-2, -1]]
    assert calibrate(nothing, np.array([0, 0, 1, 1])) == Calibration(tested=2)
    found = probabilities(np.array([[1.0, 2.0]]), Calibration())
    assert found[0] == pytest.approx([1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))])


def test_clips_without_any_distance_have_no_bound_that_is_relative_to_it():
    found = calibrate(scores([0, 1], [0, 1], [0, 1]), np.zeros(3, int))
    assert (found.scale, found.bound) == (None, None)


def test_the_confusion_leaves_out_what_could_not_be_tested():
    logits = scores([1, 2], [2, 1], [np.nan, np.nan], [3, 1])
    assert confusion(logits, np.array([0, 0, 0, 1]), 2).tolist() == [[1, 1], [0, 1]]
