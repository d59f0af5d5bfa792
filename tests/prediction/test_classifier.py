import math

import numpy as np
import pytest
from colors import ColorEmbedder, clip

from molo_jax.errors import MoloError, UsageError
from molo_jax.prediction.classifier import Classifier, checked_unknown
from molo_jax.prediction.results import UNKNOWN

RED = [clip(200), clip(210), clip(220)]
BLUE = [clip(0, 0, 100), clip(0, 0, 110), clip(0, 0, 120)]


@pytest.fixture
def classifier():
    return Classifier(ColorEmbedder()).fit({"red": RED, "blue": BLUE})


def test_a_clip_gets_the_class_with_the_smallest_distance(classifier):
    found = classifier.predict(clip(212))
    assert (found.label, found.nearest, found.runner_up) == ("red", "red", "blue")
    assert str(found) == "red"
    assert found.known
    # The red clips have a mean of 210, the blue ones of (0, 0, 110).
    assert found.distances == {"red": 2.0, "blue": pytest.approx(math.hypot(212, 110), rel=1e-6)}
    assert found.margin == pytest.approx(math.hypot(212, 110) - 2, rel=1e-6)
    assert found.frames.shape == (2, 4, 4, 3)
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert found.probability == found.probabilities["red"] > 0.9


def test_a_clip_that_is_farther_than_the_support_set_allows_is_none_of_these(classifier):
    # Left out, the clips of a class are 15, 0 and 15 from the mean of the others.
    assert classifier.calibration.scale == 10
    found = classifier.predict(clip(0, 200))
    assert found.label == UNKNOWN
    assert not found.known
    assert found.nearest == "blue"
    assert found.strangeness == pytest.approx(math.hypot(200, 110) / 10)
    assert found.threshold == classifier.calibration.bound


def test_the_unknown_rule_is_a_number_relative_to_the_support_set_or_off(classifier):
    stranger = clip(240)  # 30 from the red mean: three times the typical distance
    for rule, label in ((2.9, UNKNOWN), ("3.1", "red"), ("off", "red")):
        classifier.unknown = rule
        assert classifier.predict(stranger).label == label
    with pytest.raises(UsageError, match="unknown=-1: expected auto, off or a number above 0"):
        classifier.unknown = -1
    for wrong in ("never", 0, math.nan, math.inf, None, True, np.array([1, 2])):
        with pytest.raises(UsageError):
            checked_unknown(wrong)


def test_without_two_clips_of_a_class_nothing_is_known_about_distances():
    lonely = Classifier(ColorEmbedder()).fit({"red": RED[:1], "blue": BLUE[:1]})
    found = lonely.predict(clip(0, 255))
    assert found.known
    assert math.isnan(found.strangeness)
    assert found.threshold is None
    lonely.unknown = 1.3
    with pytest.raises(MoloError, match=r"unknown=1.3 is relative .* add clips"):
        lonely.predict(clip(0))


def test_lists_and_arrays_of_clips_give_lists(classifier):
    several = [clip(0, 0, 111), clip(209), clip(0, 0, 90)]
    labels = ["blue", "red", "blue"]
    assert [each.label for each in classifier.predict(several)] == labels
    assert [each.label for each in classifier.predict(np.stack(several))] == labels
    shares = classifier.predict_proba(several)
    assert classifier.classes_.tolist() == ["red", "blue"]
    assert shares.shape == (3, 2)
    assert shares.argmax(axis=1).tolist() == [1, 0, 1]
    assert classifier.predict([]) == []
    assert classifier.predict_proba([]).shape == (0, 2)


def test_the_score_counts_strangers_that_were_found(classifier):
    clips = [clip(210), clip(0, 0, 110), clip(0, 250), clip(0, 0, 111)]
    assert classifier.score(clips, ["red", "blue", UNKNOWN, "red"]) == 0.75
    assert classifier.score((each for each in clips[:2]), ["red", "blue"]) == 1
    with pytest.raises(MoloError, match="4 clips and 1 labels"):
        classifier.score(clips, ["red"])
    with pytest.raises(MoloError, match="0 clips and 0 labels"):
        classifier.score([], [])


def test_the_clips_and_their_labels_can_be_two_lists():
    found = Classifier(ColorEmbedder()).fit([RED[0], BLUE[0], RED[1]], ["red", "blue", "red"])
    assert {name: len(clips) for name, clips in found.support.items()} == {"red": 2, "blue": 1}
    generated = Classifier(ColorEmbedder()).fit(iter(RED), np.array(["red", "blue", "red"]))
    assert generated.classes_.tolist() == ["red", "blue"]


def test_a_class_comes_and_goes_for_its_own_clips_alone(classifier):
    embedder = classifier.embedder
    assert embedder.embedded == 6
    before = classifier.predict(clip(205)).distances
    assert embedder.embedded == 7
    classifier.add_class("green", [clip(0, 100), clip(0, 120)])
    assert embedder.embedded == 9
    assert classifier.predict(clip(0, 105)).label == "green"
    assert classifier.leave_one_out().confusion.tolist() == [[3, 0, 0], [0, 3, 0], [0, 0, 2]]
    classifier.remove_class("green")
    assert embedder.embedded == 10
    assert classifier.predict(clip(205)).distances == before
    with pytest.raises(MoloError, match="no class 'green'; there are 'red', 'blue'"):
        classifier.remove_class("green")
    with pytest.raises(MoloError, match="there is a class 'red' already"):
        classifier.add_class("red", RED)


def test_each_support_clip_is_classified_by_the_others():
    mixed = Classifier(ColorEmbedder()).fit(
        {"red": [*RED, clip(0, 0, 118)], "blue": BLUE, "one": [clip(0, 99)]}
    )
    found = mixed.leave_one_out()
    assert found.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 2]
    assert found.predicted.tolist() == [0, 0, 0, 1, 1, 1, 1, -1]
    assert found.confusion.tolist() == [[3, 1, 0], [0, 3, 0], [0, 0, 0]]
    advice = "\n".join(mixed.advice())
    assert "class “red”: clip 4 (array) looks like “blue”" in advice
    assert "class “one” has one clip, so it cannot be tested: add a second" in advice


def test_the_same_clip_twice_counts_once_and_is_said():
    twice = Classifier(ColorEmbedder()).fit({"red": [RED[0], RED[0], RED[1]], "blue": BLUE})
    assert len(twice.support["red"]) == 2
    assert "array is the same clip as array; it counts once" in twice.advice()


def test_the_same_clip_in_two_classes_is_said():
    both = Classifier(ColorEmbedder()).fit({"red": RED, "blue": [*BLUE, RED[0]]})
    assert any("is in 2 classes, “red” and “blue”" in line for line in both.advice())


def test_a_clip_in_two_classes_says_nothing_about_distances():
    both = Classifier(ColorEmbedder()).fit({"red": RED, "blue": [*BLUE, RED[0]]})
    # Two red and three blue clips are left.
    assert both.calibration.tested == 5


def test_of_two_classes_that_are_equally_far_the_first_is_nearest():
    equal = Classifier(ColorEmbedder()).fit(
        {"b": [clip(0)], "a": [clip(100)], "c": [clip(0)], "d": [clip(0)]}
    )
    assert equal.predict(clip(50)).nearest == "b"
    assert equal.predict(clip(50)).runner_up == "a"


def test_a_bad_clip_is_an_error_or_left_out_and_told(tmp_path):
    bad = str(tmp_path / "absent.mp4")
    classifier = Classifier(ColorEmbedder())
    with pytest.raises(MoloError, match="No such file"):
        classifier.fit({"red": [*RED, bad], "blue": BLUE})
    classifier.fit({"red": [*RED, bad], "blue": BLUE, "gone": [bad]}, on_error="skip")
    assert list(classifier.support) == ["red", "blue"]
    told = [(each.label, each.name) for each in classifier.failures_]
    assert told == [("red", bad), ("gone", bad), ("gone", "gone")]
    assert classifier.failures_[-1].reason == "the class has no usable clip; it is left out"
    with pytest.raises(MoloError, match=r"no class has a usable clip: .*absent.mp4: .*No such"):
        classifier.fit({"gone": [bad]}, on_error="skip")
    # What was there before is still there.
    assert classifier.predict(clip(205)).label == "red"


def test_a_bad_clip_among_many_does_not_stop_the_others(classifier, tmp_path):
    bad = str(tmp_path / "absent.mp4")
    first, second, third = classifier.predict_each([clip(205), bad, clip(0, 0, 100)])
    assert (first.label, third.label) == ("red", "blue")
    assert second.path == bad
    (alone,) = classifier.predict_each(bad)
    assert alone.path == bad
    with pytest.raises(MoloError, match="No such file"):
        classifier.predict([clip(205), bad])


def test_one_class_has_no_runner_up():
    single = Classifier(ColorEmbedder()).fit({"red": RED})
    found = single.predict(clip(208))
    assert (found.label, found.runner_up, found.probability) == ("red", "", 1.0)
    assert found.margin == math.inf
    assert single.predict(clip(0, 0, 255)).label == UNKNOWN


@pytest.mark.parametrize(
    ("clips", "labels", "message"),
    [
        ({}, None, "there are no classes"),
        ({"red": []}, None, "the class 'red' has no clips"),
        ({"": RED}, None, "a class cannot be called ''"),
        ({UNKNOWN: RED}, None, f"a class cannot be called '{UNKNOWN}'"),
        ({"red": "a.mp4"}, None, "the clips of the class 'red' are 'a.mp4'; expected a list of pa"),
        ({"red": None}, None, "the clips of the class 'red' are 'None'; expected a list of paths"),
        ({"red": RED}, ["red"], "the clips are given by class already; leave the labels out"),
        (RED, "red", "the labels are 'red'; expected a list of classes"),
        (5, ["red"], "'5' is no clip; expected a path, an array"),
        (RED, None, "fit takes the clips of each class"),
        (RED, ["red"], "there are 3 clips and 1 labels"),
    ],
)
def test_what_is_no_support_set_is_refused(clips, labels, message):
    with pytest.raises(MoloError, match=message):
        Classifier(ColorEmbedder()).fit(clips, labels)


def test_nothing_is_predicted_without_classes():
    empty = Classifier(ColorEmbedder())
    for use in (lambda: empty.predict(RED[0]), empty.advice, empty.leave_one_out):
        with pytest.raises(MoloError, match="has no classes yet; give it clips with fit"):
            use()


def test_squares_of_the_right_size_are_predicted_as_clips_are(classifier):
    pixels = np.stack([clip(205), clip(0, 0, 100)])
    found = classifier.predict_pixels(pixels)
    whole = classifier.predict(list(pixels))
    assert [each.distances for each in found] == [each.distances for each in whole]
