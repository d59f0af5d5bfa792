"""The parts of an explanation add up to the prediction; the shown clip is the nearest one."""

import numpy as np
import pytest
from stick_figures import classifier_of, clip, gym

from molo_jax.prediction.classifier import Classifier
from molo_jax.prediction.embedder import Embedder
from molo_jax.prediction.explanation import explain

METHODS = ("molo", "bi_mhm", "otam", "protonet")


@pytest.fixture(scope="module")
def query():
    return clip("new.mp4", "squat", seed=77)


def explained(classifier, query):
    prediction = classifier.predict(query)
    return prediction, explain(classifier, prediction)


@pytest.mark.parametrize("method", METHODS)
def test_distances_and_margin_are_those_of_the_prediction(query, method):
    prediction, found = explained(gym(method), query)
    assert (found.best.name, found.second.name) == (prediction.nearest, prediction.runner_up)
    assert found.best.distance == pytest.approx(prediction.distances[prediction.nearest])
    assert found.second.distance == pytest.approx(prediction.distances[prediction.runner_up])
    assert sum(found.margin.values()) == pytest.approx(prediction.margin, abs=1e-5)
    totals = {name: sum(parts.values()) for name, parts in found.shares.items()}
    assert totals == pytest.approx(prediction.distances)
    assert list(found.shares) == sorted(totals, key=totals.get)


@pytest.mark.parametrize("method", METHODS)
def test_the_parts_of_the_frames_and_the_rest_add_up_to_the_margin(query, method):
    _, found = explained(gym(method), query)
    frames = {"molo": {"appearance": 8, "motion": 7}, "protonet": {}}.get(method, {"match": 8})
    assert {key: len(each) for key, each in found.frames.items()} == frames
    assert found.rest.keys() == frames.keys()
    for key, parts in found.frames.items():
        assert parts.sum() + found.rest[key] == pytest.approx(found.margin[key], abs=1e-5)
        if method in ("molo", "bi_mhm"):
            # The other direction: every class frame and its nearest frame of the query.
            best, second = (match.streams[key] for match in (found.best, found.second))
            other = second.frames.min(axis=0).sum() - best.frames.min(axis=0).sum()
            assert found.rest[key] == pytest.approx(best.weight * other, abs=1e-5)
            nearest = second.frames.min(axis=1) - best.frames.min(axis=1)
            np.testing.assert_allclose(parts, best.weight * nearest, atol=1e-5)


@pytest.mark.parametrize("method", ["molo", "bi_mhm"])
def test_the_pairs_add_up_to_the_distance_of_their_stream(query, method):
    _, found = explained(gym(method), query)
    for match in (found.best, found.second):
        for stream in match.streams.values():
            total = sum(pair.count * pair.distance for pair in stream.pairs)
            assert total == pytest.approx(stream.distance, abs=1e-4)
            for pair in stream.pairs:
                assert pair.distance == pytest.approx(stream.frames[pair.query, pair.other])
        counts = sum(pair.count for pair in match.streams[next(iter(match.streams))].pairs)
        assert counts == 16


@pytest.mark.parametrize("method", METHODS)
def test_the_nearest_clip_of_a_class_is_shown(method):
    classifier = gym(method)
    twin = classifier.support["lunge"][1]
    _, found = explained(classifier, twin)
    assert found.best.name == "lunge"
    assert found.best.clip is twin
    assert found.best.clips == 3
    assert "nearest to this clip: 1.mp4." in found.best.note
    assert {"otam": "mean of the distances to its 3 clips", "protonet": "3 clips together"}.get(
        method, "mean of its 3 clips, frame by frame"
    ) in found.best.note


def test_one_clip_a_class_is_shown_as_it_is(query):
    _, found = explained(gym(shots=1), query)
    assert found.best.note == f"“{found.best.name}” has one clip: 0.mp4."
    assert found.best.clips == 1


def test_one_class_has_no_runner_up_and_no_margin(query):
    classifier = classifier_of({"squat": [clip("a.mp4", "squat"), clip("b.mp4", "squat", seed=3)]})
    _, found = explained(classifier, query)
    assert (found.best.name, found.second, found.change) == ("squat", None, "")
    assert found.margin == found.frames == {}


def test_uneven_classes_keep_their_own_clips(query):
    classifier = gym()
    classifier.fit(classifier.support | {"squat": classifier.support["squat"][:1]})
    prediction, found = explained(classifier, query)
    for match in (found.best, found.second):
        assert any(match.clip is each for each in classifier.support[match.name])
        assert match.clips == len(classifier.support[match.name])
    assert sum(found.margin.values()) == pytest.approx(prediction.margin, abs=1e-5)


def test_a_frame_that_looks_like_the_second_class_speaks_for_it():
    squat, lunge = clip("s.mp4", "squat", seed=1), clip("l.mp4", "lunge", seed=1)
    classifier = classifier_of({"squat": [squat], "lunge": [lunge]}, "bi_mhm")
    mixed = {name: values.copy() for name, values in squat.features.items()}
    # Frame 4 of the query is taken from the other class.
    mixed["appearance"][3] = lunge.features["appearance"][3]
    prediction, found = explained(classifier, type(squat)(**vars(squat) | {"features": mixed}))
    assert prediction.nearest == "squat"
    parts = found.frames["match"]
    assert parts[3] < 0
    assert np.argmin(parts) == 3


@pytest.mark.parametrize("method", ["molo", "hyrsm", "trx"])
def test_networks_explain_what_they_predict(small_networks, method):
    pixels = np.random.default_rng(2).integers(0, 256, (6, 3, 40, 40, 3), np.uint8)
    classifier = Classifier(Embedder(small_networks(method)), unknown="off")
    classifier.fit({"a": list(pixels[:2]), "b": list(pixels[2:5])})
    prediction, found = explained(classifier, pixels[5])
    totals = {name: sum(parts.values()) for name, parts in found.shares.items()}
    assert totals == pytest.approx(prediction.distances, rel=1e-4)
    assert sum(found.margin.values()) == pytest.approx(prediction.margin, rel=1e-2, abs=1e-4)
    streams = {"molo": {"appearance": 3, "motion": 2}, "hyrsm": {"match": 3}, "trx": {}}[method]
    assert {key: len(parts) for key, parts in found.frames.items()} == streams
    assert prediction.runner_up in found.change
