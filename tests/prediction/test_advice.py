"""What is said of a support set, from leave-one-out scores that are given."""

import dataclasses
from types import SimpleNamespace

import numpy as np

from molo_jax.prediction.advice import advice
from molo_jax.prediction.results import LeaveOneOut


def clips_of(*names):
    return [SimpleNamespace(name=name, digest=name) for name in names]


def left_out(classes, labels, predicted, clips=None):
    """Returns leave-one-out scores with these predictions; -1 where a clip was not tested."""
    logits = np.zeros((len(labels), len(classes)))
    for row, each in zip(logits, predicted, strict=True):
        row[:] = np.nan if each < 0 else -5
        if each >= 0:
            row[each] = -1
    clips = clips or clips_of(*(f"{i}.mp4" for i in range(len(labels))))
    return LeaveOneOut(clips, np.array(labels), tuple(classes), logits)


def test_a_support_set_that_is_right_needs_no_advice():
    assert advice(left_out(["squat", "lunge"], [0, 0, 1, 1], [0, 0, 1, 1])) == []


def test_a_clip_that_looks_like_another_class_is_named_by_its_place_and_file():
    clips = clips_of("x.mp4", "y.mp4", "a.mp4", "b.mp4", "c.mp4")
    found = advice(left_out(["squat", "lunge"], [0, 0, 1, 1, 1], [0, 0, 1, 1, 0], clips))
    assert found == ["class “lunge”: clip 3 (c.mp4) looks like “squat”"]


def test_a_class_of_one_clip_cannot_be_tested():
    found = advice(left_out(["squat", "wave"], [0, 0, 1], [0, 0, -1]))
    assert found == ["class “wave” has one clip, so it cannot be tested: add a second"]


def test_a_file_in_two_classes_is_found_by_its_content():
    clips = clips_of("squat/a.mp4", "squat/b.mp4", "lunge/copy.mp4", "lunge/d.mp4")
    clips[2] = SimpleNamespace(name="lunge/copy.mp4", digest="squat/a.mp4")
    found = advice(left_out(["squat", "lunge"], [0, 0, 1, 1], [0, 0, 1, 1], clips))
    assert found == [
        "squat/a.mp4 = lunge/copy.mp4 is in 2 classes, “squat” and “lunge”: leave the clip in the"
        " class that it shows"
    ]


def test_a_file_that_is_twice_in_a_class_tests_itself():
    clips = [*clips_of("a.mp4", "b.mp4"), *clips_of("a.mp4"), *clips_of("c.mp4", "d.mp4")]
    found = advice(left_out(["squat", "lunge"], [0, 0, 0, 1, 1], [0, 0, 0, 1, 1], clips))
    assert found == [
        "class “squat”: the clips 1 and 3 are the same video (a.mp4): keep one of them, for they"
        " recognize each other in every test"
    ]


def test_two_classes_are_mixed_up_where_many_of_their_clips_look_like_the_other():
    labels, predicted = [0] * 5 + [1] * 5 + [2] * 2, [0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 2, 2]
    found = left_out(["squat", "lunge", "wave"], labels, predicted)
    lines = advice(found)
    assert lines[0] == (
        "the classes “squat” and “lunge” are mixed up in 4 of 10 clips: add clips that show the"
        " difference, or join them"
    )
    assert len(lines) == 5
    # Two of ten are too few.
    few = dataclasses.replace(found, logits=np.where(np.arange(12)[:, None] > 4, found.logits, 0))
    few.logits[[8, 9]] = few.logits[5]
    assert not any("mixed up" in line for line in advice(few))


def test_the_most_important_comes_first():
    clips = clips_of("a", "b", "c", "a", "e")
    lines = advice(left_out(["x", "y", "z"], [0, 0, 1, 1, 2], [0, 1, 1, 1, -1], clips))
    kinds = [
        next(k for k in ("2 classes", "one clip", "looks like") if k in line) for line in lines
    ]
    assert kinds == ["2 classes", "one clip", "looks like"]
