"""Intervals: their widths, what they refuse, and how often they hold the truth."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from outcomes import CLASSES, VIDEOS, episodes, outcome
from scipy.stats import t

from molo_jax.analysis.intervals import class_intervals, half_widths, intervals
from molo_jax.analysis.variance import Variance

SIZES = np.full(CLASSES, VIDEOS)
SCRIPT = Path(__file__).parents[2] / "benchmarks/_simulated.py"


@pytest.fixture(scope="module")
def found():
    classes, videos = episodes(400, 3, 3)
    return outcome(classes, videos, 2, spread=0.8)


def test_the_interval_over_episodes_is_the_convention_of_the_field(found):
    each = found.accuracies
    result = intervals(found, SIZES)
    assert result.mean == pytest.approx(each.mean())
    assert result.ci95 == pytest.approx(1.96 * each.std(ddof=1) / 20)
    assert result.ci95_videos > result.ci95
    per_class = class_intervals(found, SIZES)
    own = found.correct[found.classes == 4].astype(float)
    assert per_class[4].mean == pytest.approx(own.mean())
    assert per_class[4].ci95 == pytest.approx(1.96 * own.std(ddof=1) / np.sqrt(len(own)))
    assert per_class[4].ci95_videos > result.ci95_videos
    assert np.mean([one.mean for one in per_class.values()]) == pytest.approx(each.mean(), abs=0.02)


def test_more_episodes_of_the_same_videos_narrow_the_interval_over_episodes_only():
    results = []
    for count in (400, 6400):
        classes, videos = episodes(count, 3, 3)
        results.append(intervals(outcome(classes, videos, 2, spread=0.8), SIZES))
    assert results[1].ci95 == pytest.approx(results[0].ci95 / 4, rel=0.1)
    assert results[1].ci95_videos > 0.6 * results[0].ci95_videos
    assert results[1].ci95_videos > 4 * results[1].ci95


def test_too_few_videos_or_classes_are_refused_with_both_numbers(found):
    sizes = SIZES.copy()
    sizes[3] = 5
    classes, videos = episodes(400, 3, 3, sizes=sizes)
    result = intervals(outcome(classes, videos, 2), sizes)
    assert result.ci95_videos is None
    assert (
        result.no_videos == "a class has 5 videos, and 2-shot needs 8 for an interval over videos"
    )
    assert result.ci95 > 0
    per_class = class_intervals(outcome(classes, videos, 2), sizes)
    assert {one.ci95_videos for one in per_class.values()} == {None}
    assert per_class[0].no_videos == result.no_videos
    few = intervals(found, SIZES)
    assert few.ci95_classes is None
    assert few.no_classes == "the split has 6 classes; 3-way needs 15 for an interval over classes"
    assert few.no_videos == ""
    classes, videos = episodes(400, 3, 3, sizes=(12,) * 15)
    enough = intervals(outcome(classes, videos, 2), np.full(15, 12))
    assert enough.ci95_classes > enough.ci95
    assert enough.no_classes == ""


def test_two_equal_methods_differ_by_nothing_and_a_constant_is_certain(found):
    nothing = intervals(found, SIZES, np.zeros(found.predicted.shape))
    assert (nothing.mean, nothing.ci95, nothing.ci95_videos) == (0, 0, 0)
    ones = class_intervals(found, SIZES, np.ones(found.predicted.shape))
    assert {(one.mean, one.ci95_videos) for one in ones.values()} == {(1.0, 0.0)}


def test_the_width_is_that_of_a_t_distribution_where_few_videos_make_it_uncertain():
    for freedom in (20, 50, 100):
        (width,) = half_widths([Variance(0.0, 4.0, 0.0, 2 / freedom)])
        assert width == pytest.approx(2 * t.ppf(0.975, freedom), rel=0.03)


def test_the_width_of_a_variance_that_is_known_is_that_of_a_normal_distribution():
    certain, shared, noisy = half_widths(
        [
            Variance(4.0, 0.0, 1e-3, 1e-6),
            Variance(1.0, 3.0, 1e-3, 1e-6),
            Variance(1.0, -1.0, 1.0, 1e-6),
        ]
    )
    assert certain == pytest.approx(3.92, rel=0.01)
    assert shared == pytest.approx(3.92, rel=0.01)
    # An estimate below what is possible: not less than the noise of the episodes.
    assert 1.96 < noisy < 3.0
    assert half_widths([Variance(0.0, 0.0, 0.0, 0.1)]) == [0.0]


@pytest.fixture(scope="module")
def simulated():
    specification = importlib.util.spec_from_file_location("_simulated", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    sys.modules["_simulated"] = module
    specification.loader.exec_module(module)
    module._TRUTH_EPISODES = 3000
    return module


def test_the_intervals_hold_the_truth_in_95_of_100_repetitions(simulated):
    case = simulated.Case(classes=15, videos=(10, 14), way=3, shot=1, episodes=900, separation=0.8)
    measured = simulated.measure(case, 200)
    # Three standard errors of 200 repetitions are 4.6.
    assert 91 <= measured["videos"][0] <= 99
    assert 91 <= measured["paired videos"][0] <= 99
    assert 93 <= measured["a class"][0] <= 97
    assert measured["classes"][0] >= 88
    # The convention of the field holds the truth of these videos only.
    assert measured["field"][0] < 75
    assert measured["field"][1] < measured["videos"][1] < measured["classes"][1]


def test_the_interval_over_episodes_holds_the_mean_of_these_videos(simulated):
    case = simulated.Case(classes=6, videos=(8, 8), way=3, shot=1, episodes=100_000, separation=0.8)
    random = np.random.default_rng(0)
    sizes = np.full(6, 8)
    points = random.standard_normal((6, 1, 16)) * 0.8 + random.standard_normal((6, 8, 16))
    drawn = simulated.draw_episodes(random, case, sizes)
    right = simulated.predicted(*drawn, 1, points)
    inside = []
    for part in np.split(np.arange(100_000), 200):
        few = type(right)(
            *(getattr(right, name)[part] for name in ("classes", "videos")),
            1,
            *(getattr(right, name)[part] for name in ("predicted", "margins")),
        )
        one = intervals(few, sizes)
        inside.append(abs(one.mean - right.accuracies.mean()) <= one.ci95)
    assert 91 <= 100 * np.mean(inside) <= 99
