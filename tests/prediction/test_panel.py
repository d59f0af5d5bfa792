import logging

import numpy as np
import pytest
from PIL import ImageFont

from molo_jax.prediction import panel as module
from molo_jax.prediction.panel import draw_panel, font_for

SIZE = (240, 320)


def drawn(text="squat (87 %)", probability=0.87, ground=0, size=SIZE):
    frame = np.full((*size, 3), ground, np.uint8)
    draw_panel(text, probability, size).lay_over(frame)
    return frame


def changed(frame, ground):
    """Bounds of what differs from the ground: top, bottom, left, right."""
    rows, columns = np.nonzero((frame != ground).any(axis=2))
    return rows.min(), rows.max(), columns.min(), columns.max()


@pytest.mark.parametrize("ground", [60, 128, 255])
def test_the_panel_lies_in_the_lower_left_corner_and_nothing_else_changes(ground):
    top, bottom, left, right = changed(drawn(ground=ground), ground)
    assert 200 < top < bottom < 240
    assert 0 < left < 10
    assert 80 < right < 200


@pytest.mark.parametrize("ground", [0, 90, 170, 255])
def test_letters_are_far_brighter_than_what_is_behind_them_on_any_ground(ground):
    text = drawn(ground=ground)[:, :, 1]
    assert (text[210:230] > 190).sum() > 30
    # The ground of the panel is what most of it shows.
    values, counts = np.unique(text[215:228, 5:80], return_counts=True)
    behind = values[counts.argmax()]
    assert behind <= 80


def test_the_bar_is_filled_by_the_probability():
    rails, widths = [], []
    for probability in (0.0, 0.25, 0.5, 1.0):
        frame = drawn(probability=probability)
        row = frame[232:236].reshape(-1, 320, 3)
        green = (row == (64, 196, 99)).all(axis=2).sum(axis=1).max()
        gray = (row == (140, 140, 140)).all(axis=2).sum(axis=1).max()
        widths.append(green)
        rails.append(green + gray)
    assert len(set(rails)) == 1
    assert widths[0] == 0
    np.testing.assert_allclose(np.divide(widths, rails), [0, 0.25, 0.5, 1.0], atol=0.01)


def test_a_probability_beyond_its_bounds_stays_within_the_bar():
    np.testing.assert_array_equal(drawn(probability=1.5), drawn(probability=1.0))


def test_the_letters_grow_with_the_frame():
    heights = []
    for factor in (1, 2, 4):
        size = (240 * factor, 320 * factor)
        top, bottom, *_ = changed(drawn(ground=255, size=size), 255)
        heights.append(bottom - top)
    assert heights[1] / heights[0] == pytest.approx(2, rel=0.15)
    assert heights[2] / heights[0] == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (16, 16), (2, 2), (8, 400)])
def test_a_panel_fits_into_the_smallest_frame(size):
    frame = drawn("a class with a very long name indeed", 0.5, 255, size)
    assert frame.shape == (*size, 3)
    assert (frame != 255).any()


def test_a_label_that_is_too_long_is_cut_with_a_sign():
    letters = ImageFont.truetype(font_for("a"), 12)
    assert module._shortened("squat", letters, 200) == "squat"
    short = module._shortened("squat " * 50, letters, 200)
    assert short.startswith("squat squat")
    assert short.endswith("…")
    assert 150 < letters.getlength(short) <= 200


# Letters


@pytest.mark.parametrize("text", ["Kniebeuge (9 %)", "приседание", "βαθύ κάθισμα", "ცახცახი"])
def test_the_usual_font_has_latin_greek_cyrillic_and_georgian_letters(text):
    assert font_for(text).endswith("DejaVuSans.ttf")


def test_other_letters_are_not_boxes_of_the_usual_font():
    # What is drawn for a letter that the font lacks is the same box for all of them.
    assert (drawn("приседание") != drawn("приседания")).any()


def test_signs_that_no_font_has_are_said_once(caplog, monkeypatch):
    monkeypatch.setattr(module, "_fonts_of_the_system", lambda: [])
    font_for.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert font_for("深蹲").endswith("DejaVuSans.ttf")
        font_for("深蹲")
    assert len(caplog.records) == 1
    assert "has all letters of '深蹲'; install one" in caplog.text
    font_for.cache_clear()


def test_a_font_of_the_system_is_taken_where_it_has_the_letters(monkeypatch):
    looked_at = []
    font_for.cache_clear()
    monkeypatch.setattr(module, "_fonts_of_the_system", lambda: ["bad.ttf", "cjk.ttf", "more.ttf"])
    monkeypatch.setattr(
        module, "_has_letters", lambda path, text: looked_at.append(path) or path == "cjk.ttf"
    )
    assert font_for("深蹲") == "cjk.ttf"
    assert looked_at[1:] == ["bad.ttf", "cjk.ttf"]
    font_for.cache_clear()


def test_the_fonts_of_the_system_are_files_without_the_font_of_last_resort():
    paths = module._fonts_of_the_system()
    assert any(path.endswith("DejaVuSans.ttf") for path in paths)
    assert not any("LastResort" in path for path in paths)


def test_a_font_file_that_cannot_be_read_has_no_letters(tmp_path):
    (tmp_path / "bad.ttf").write_text("no font")
    assert not module._has_letters(str(tmp_path / "bad.ttf"), "a")
    assert not module._has_letters(str(tmp_path / "absent.ttf"), "a")
