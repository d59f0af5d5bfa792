"""What the sentence says would change the decision does change it, and less does not."""

import dataclasses
import itertools
import re

import numpy as np
import pytest
from stick_figures import clip, gym

from molo_jax.methods.evidence import Evidence, Metric
from molo_jax.prediction.counterfactual import _exchanged, fewest_frames, what_would_change
from molo_jax.prediction.explanation import ClassMatch, StreamMatch, explain

METRIC = Metric("bi_mhm")


def match(name, streams, distances):
    """Returns a class whose streams have these weights and distances."""
    parts = {k: StreamMatch(distances[k], w, None, None, ()) for k, w in streams.items()}
    total = sum(each.share for each in parts.values())
    return ClassMatch(name, total, name, 1, "", parts)


def sentence(weights, best, second):
    matches = match("lunge", weights, best), match("squat", weights, second)
    evidence = {k: Evidence(np.array([best[k], second[k]]), w) for k, w in weights.items()}
    margin = {k: w * (second[k] - best[k]) for k, w in weights.items()}
    return what_would_change(
        evidence, np.array([0, 1]), (0, 1), matches, margin, ["lunge", "squat"]
    )


def test_the_stream_that_needs_the_smallest_share_is_named_and_rounded_up():
    weights = {"appearance": 1.0, "motion": 0.5}
    found = sentence(
        weights, {"appearance": 1.0, "motion": 2.0}, {"appearance": 1.2, "motion": 2.2}
    )
    # The margin is 0.3: a quarter of 1.2, and 0.6 of 2.2 in the other stream.
    assert found == "“squat” would win if the appearance distance to it were 26 % smaller."


def test_a_small_change_is_given_with_its_digits():
    found = sentence({"match": 1.0}, {"match": 3.0}, {"match": 3.01})
    assert found == "“squat” would win if the distance to it were 0.34 % smaller."
    assert 3.01 * (1 - 0.0034) < 3.0 < 3.01 * (1 - 0.0033)


def test_a_score_that_is_no_distance_is_given_without_a_percentage():
    found = sentence({"match": 1.0}, {"match": -0.9}, {"match": -0.8506})
    assert found == "“squat” would win if the distance to it were smaller by 0.050."


def test_equal_classes_are_said_to_be_equal():
    found = sentence({"match": 1.0}, {"match": 2.0}, {"match": 2.0})
    assert found == "“lunge” and “squat” are equally near."


def test_a_decision_that_nothing_small_changes_says_so():
    weights = {"appearance": 1.0, "motion": 0.1}
    best, second = {"appearance": 0.1, "motion": 0.1}, {"appearance": 0.5, "motion": 9.0}
    # The distances are 0.11 and 1.4.
    assert sentence(weights, best, second) == (
        "“squat” would win only if the whole distance to it were 93 % smaller; no change of one"
        " stream alone, or of 3 frames, would be enough."
    )


@pytest.mark.parametrize("each_clip", [False, True])
@pytest.mark.parametrize("metric", [METRIC, Metric("otam", smoothing=0.1)], ids=lambda m: m.name)
def test_the_fewest_frames_are_the_fewest_of_all_choices(metric, each_clip):
    rng = np.random.default_rng(5)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        frames = rng.uniform(0.3, 0.9, (3, 5, 5)).astype(np.float32)
        frames[0] -= 0.1
        labels, places = np.array([0, 1, 1]), (0, 1)
        members = [1, 2] if each_clip else [1]
        evidence = {"match": Evidence(np.zeros(2), 0.5, frames, metric, each_clip)}

        def distance(some, members=members, metric=metric):
            return np.mean([float(metric.distance(some[m][None, None])[0, 0]) for m in members])

        def gain(chosen, frames=frames, members=members, distance=distance):
            changed = frames.copy()
            for i, m in itertools.product(chosen, members):
                changed[m, i] = frames[0, i]
            return 0.5 * (distance(frames) - distance(changed))

        choices = [c for size in (1, 2, 3) for c in itertools.combinations(range(5), size)]
        gains = {chosen: gain(chosen) for chosen in choices}
        margin = 0.8 * max(gains.values())
        enough = [chosen for chosen in choices if gains[chosen] > margin]
        least = min(len(chosen) for chosen in enough)
        wanted = max((c for c in enough if len(c) == least), key=gains.get)
        assert fewest_frames(evidence, labels, places, 0, margin) == ("match", wanted)
        assert fewest_frames(evidence, labels, places, 0, 10.0) is None


def test_a_stream_that_counts_nothing_is_not_named():
    frames = np.ones((2, 3, 3), np.float32)
    frames[0] = 0
    evidence = {"motion": Evidence(np.zeros(2), 0.0, frames, METRIC)}
    assert fewest_frames(evidence, np.array([0, 1]), (0, 1), 0, 0.1) is None


def test_the_sentence_names_frames_by_the_numbers_of_the_page():
    classifier = gym("bi_mhm", shots=1)
    squat, lunge = (classifier.support[name][0] for name in ("squat", "lunge"))
    levels = lunge.features["appearance"].copy()
    # Frames 4 to 8 of the query are the lunge's, and the others the squat's.
    levels[:3] = squat.features["appearance"][:3]
    query = dataclasses.replace(lunge, features=lunge.features | {"appearance": levels})
    prediction = classifier.predict(query)
    found = explain(classifier, prediction).change
    assert prediction.nearest == "lunge"
    assert found.startswith(f"“{prediction.runner_up}” would win if the distance to it were ")
    percent = float(re.search(r"([\d.]+) % smaller", found)[1])
    runner_up = prediction.distances[prediction.runner_up]
    assert runner_up * (1 - percent / 100) < prediction.distances["lunge"]


def test_changes_between_frames_are_named_by_both_frames():
    best, second = clip("l.mp4", "lunge"), clip("s.mp4", "squat")
    frames = Evidence(np.zeros(2), 0.3, np.zeros((2, 7, 7)), METRIC)
    matches = (
        ClassMatch("lunge", 1.0, best, 3, "", {}),
        ClassMatch("squat", 2.0, second, 3, "", {}),
    )
    assert _exchanged("motion", (2, 3), frames, *matches) == (
        "the motion of frames 3→4 and 4→5 matched “squat” as it matches “lunge”"
    )
    whole = Evidence(np.zeros(2), 1.0, np.zeros((2, 8, 8)), METRIC)
    assert _exchanged("match", (2,), whole, *matches) == (
        "frame 3 matched “squat” as it matches “lunge”"
    )
    assert _exchanged("match", (0, 2, 3), whole, *matches) == (
        "frames 1, 3 and 4 matched “squat” as they match “lunge”"
    )
