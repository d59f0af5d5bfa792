"""The pieces of the page: what they say, and that no text in them becomes HTML."""

import dataclasses
import math

import numpy as np
import pytest
from archives import clip

from molo_jax.prediction import page_html as html
from molo_jax.prediction.results import UNKNOWN, Prediction

EVIL = '<img src=x onerror="alert(1)">'


def prediction(**changes):
    found = Prediction(
        label="squat",
        nearest="squat",
        runner_up="lunge",
        probability=0.87,
        margin=1.234,
        distances={"lunge": 3.5, "squat": 2.25},
        probabilities={"lunge": 0.13, "squat": 0.87},
        strangeness=0.9,
        threshold=1.5,
        clip=clip("a.mp4", 1),
    )
    return dataclasses.replace(found, **changes)


def test_the_answer_has_the_class_the_nearest_first_and_how_far_it_is():
    shown = html.answer(clip("a.mp4", 1), prediction())
    assert '<div class="answer"><div class="label">squat</div>' in shown
    assert "87 %, 1.23 nearer than lunge" in shown
    assert shown.index('<div class="name">squat') < shown.index('<div class="name">lunge')
    assert 'width:87.0%"' in shown
    assert "0.90 times what is usual" in shown
    assert "above 1.50 it counts as “none of these”" in shown
    assert shown.count("data:image/jpeg;base64,") == 3


def test_a_clip_of_none_of_the_classes_is_shown_as_such():
    shown = html.answer(clip("a", 1), prediction(label=UNKNOWN, strangeness=2.0))
    assert '<div class="answer unknown"><div class="label">none of these</div>' in shown
    assert "The nearest class is squat (87 %, 1.23 nearer than lunge), but it is too far" in shown


def test_what_is_not_known_is_not_shown_as_a_number():
    shown = html.answer(clip("a", 1), prediction(strangeness=math.nan, threshold=None))
    assert "nan" not in shown
    assert "cannot be told yet" in shown
    one = prediction(runner_up="", margin=math.inf, distances={"a": 1.0}, probabilities={"a": 1.0})
    shown = html.answer(clip("a", 1), one)
    assert "There is one class only" in shown
    assert "inf" not in shown
    assert "above" not in html.answer(clip("a", 1), prediction(threshold=None))
    assert "There are no classes yet" in html.answer(clip("a", 1), None)
    assert "Drop or record a clip" in html.answer(None, None)


def test_a_text_is_never_html():
    evil = dataclasses.replace(clip("a", 1), name=EVIL)
    names = {"distances": {EVIL: 1.0, "b": 2.0}, "probabilities": {EVIL: 0.6, "b": 0.4}}
    for shown in (
        html.class_card(EVIL, [evil]),
        html.problems([EVIL]),
        html.advice_list([EVIL], 3),
        html.answer(evil, None),
        html.answer(evil, prediction(label=EVIL, nearest=EVIL, runner_up=EVIL, **names)),
        html.answer(evil, prediction(label=UNKNOWN, nearest=EVIL, runner_up=EVIL, **names)),
        html.frame_of(EVIL + "'"),
    ):
        assert "<img src=x" not in shown
        assert 'onerror="' not in shown
        assert "&lt;img src=x" in shown


def test_many_clips_and_classes_are_counted_not_shown():
    shown = html.class_card("a", [clip(str(n), n) for n in range(30)])
    assert shown.count("<img") == 24
    assert "30 clips" in shown
    assert "and 6 more" in shown
    assert "1 clip<" in html.class_card("a", [clip("x", 1)])
    many = {f"class {n}": float(n) for n in range(20)}
    shares = dict.fromkeys(many, 0.05)
    shown = html.answer(clip("a", 1), prediction(distances=many, probabilities=shares))
    assert shown.count('<div class="name">') == 12
    assert "and 8 classes that are farther away" in shown


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (1.0, "100 %"),
        (0.999, "> 99 %"),
        (0.994, "99 %"),
        (0.5, "50 %"),
        (0.001, "< 1 %"),
        (0, "0 %"),
    ],
)
def test_only_certainty_is_written_as_certainty(share, text):
    assert html.percent(share) == text


def test_advice_says_what_is_missing_or_that_all_is_well():
    assert "Add two classes of two clips" in html.advice_list([], 0)
    assert "Each of the 6 clips was compared with all others" in html.advice_list([], 6)
    assert html.problems([]) == ""


def test_a_page_in_the_page_has_no_way_out():
    shown = html.frame_of('<p class="x">a & b</p>')
    assert 'sandbox="allow-scripts"' in shown
    assert 'srcdoc="&lt;p class=&quot;x&quot;&gt;a &amp; b&lt;/p&gt;"' in shown


def test_a_picture_is_the_middle_frame_of_its_clip():
    import base64
    import re

    import simplejpeg

    shown = html.class_card("a", [clip("x", 1)])
    [data] = re.findall(r"base64,([^\"]+)", shown)
    found = simplejpeg.decode_jpeg(base64.b64decode(data)).astype(int)
    assert np.abs(found - clip("x", 1).thumbnails[1]).mean() < 4
