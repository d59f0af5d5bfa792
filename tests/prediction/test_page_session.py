"""What one user of the page can do, without a browser."""

import gc
import shutil

import numpy as np
import pytest
from archives import record
from page_stand_in import ColorEmbedder, write_color, write_page

from molo_jax.errors import MoloError
from molo_jax.prediction.archive import write_archive
from molo_jax.prediction.embedder import Embedder
from molo_jax.prediction.page_session import (
    LONGEST_NAME,
    Limits,
    PageSession,
    checked_name,
    write_explanation,
)
from molo_jax.prediction.results import UNKNOWN


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colors")
    for color in ("red", "green", "blue", "gray"):
        for number in range(4):
            write_color(folder / f"{color}{number}.mp4", color, shade=(0, 6, 12, 7)[number])
    return folder


@pytest.fixture
def session():
    return PageSession(ColorEmbedder(), Limits())


@pytest.fixture
def filled(session, videos):
    for color in ("red", "green"):
        assert session.add(color, [videos / f"{color}{n}.mp4" for n in range(3)]) == []
    return session


def test_a_clip_gets_the_class_whose_clips_look_like_it(filled, videos):
    filled.ask(videos / "red3.mp4")
    found = filled.prediction
    assert (found.label, found.nearest, found.runner_up) == ("red", "red", "green")
    assert found.probability > 0.9
    assert found.name == "red3.mp4"
    filled.ask(videos / "gray0.mp4")
    assert filled.prediction.label == UNKNOWN
    assert filled.clip.name == "gray0.mp4"


def test_every_change_of_the_classes_changes_the_answer_without_reading_the_clip_again(
    session, videos
):
    session.ask(videos / "red3.mp4")
    assert session.prediction is None
    session.add("green", [videos / "green0.mp4", videos / "green1.mp4"])
    assert session.prediction.nearest == "green"
    session.add("red", [videos / "red0.mp4", videos / "red1.mp4"])
    assert session.prediction.nearest == "red"
    session.remove("red")
    assert session.prediction.nearest == "green"
    session.remove("green")
    session.remove("green")
    assert session.prediction is None
    assert session.classifier.embedder.embedded == 5


def test_clips_are_added_to_a_class_in_its_place(filled, videos):
    assert filled.add(" red ", [videos / "red3.mp4"]) == []
    assert list(filled.classes) == ["red", "green"]
    assert [clip.name for clip in filled.classes["red"]] == [f"red{n}.mp4" for n in range(4)]
    filled.ask(videos / "blue0.mp4")
    assert filled.add_clip("blue") == []
    assert [clip.name for clip in filled.classes["blue"]] == ["blue0.mp4"]


def test_the_same_content_is_no_second_example_under_any_name(filled, videos, tmp_path):
    twin = shutil.copy(videos / "red0.mp4", tmp_path / "twin.mp4")
    assert filled.add("green", [twin]) == ["twin.mp4: it is in the class “red” already."]
    assert [len(clips) for clips in filled.classes.values()] == [3, 3]
    other = shutil.copy(videos / "blue0.mp4", tmp_path / "other.mp4")
    assert filled.add("blue", [videos / "blue0.mp4", other]) == [
        "other.mp4: it is in the class “blue” already."
    ]


def test_each_bad_clip_gets_one_sentence_and_the_others_are_taken(session, videos, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes((videos / "red0.mp4").read_bytes()[:300])
    text = tmp_path / "text.mp4"
    text.write_text("hello")
    steps = []
    problems = session.add("red", [broken, videos / "red0.mp4", text], steps.append)
    assert [clip.name for clip in session.classes["red"]] == ["red0.mp4"]
    assert steps == [0, 1, 2]
    assert [problem.partition(":")[0] for problem in problems] == ["broken.mp4", "text.mp4"]
    for problem in problems:
        assert str(tmp_path) not in problem
        assert "\n" not in problem
    with pytest.raises(MoloError, match=r"^text\.mp4: ") as error:
        session.ask(text)
    assert str(tmp_path) not in str(error.value)


def test_a_class_without_a_usable_clip_is_not_made(session, tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("hello")
    assert len(session.add("red", [text])) == 1
    assert session.classes == {}


def test_clips_that_are_too_long_or_too_large_are_refused_before_they_are_decoded(
    videos, tmp_path, monkeypatch
):
    session = PageSession(ColorEmbedder(), Limits(seconds=2))
    long = write_color(tmp_path / "long.mp4", "red", frames=36)
    assert session.add("red", [long, videos / "red0.mp4"]) == [
        "long.mp4: it lasts 0:03, and a clip here at most 0:02; cut the action out"
    ]
    session = PageSession(ColorEmbedder(), Limits(megabytes=2))
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(3_000_000))
    assert session.add("red", [large]) == ["large.mp4: it has 3 MB, and a clip here at most 2"]
    assert session.classifier.embedder.embedded == 0


def test_a_page_takes_no_more_clips_than_its_limit(videos):
    session = PageSession(ColorEmbedder(), Limits(clips=4))
    session.add("red", [videos / f"red{n}.mp4" for n in range(3)])
    with pytest.raises(MoloError, match="That would be 5 clips, and a page takes at most 4; remov"):
        session.add("green", [videos / "green0.mp4", videos / "green1.mp4"])
    assert list(session.classes) == ["red"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "needs a name"),
        ("  ", "needs a name"),
        ("x" * (LONGEST_NAME + 1), "cannot be the name of a class"),
        ("a\x00b", "cannot be the name of a class"),
        (UNKNOWN, "is what the page says of clips of no class"),
    ],
)
def test_what_cannot_be_a_name_is_refused_with_the_reason(filled, videos, name, message):
    with pytest.raises(MoloError, match=message):
        filled.add(name, [videos / "blue0.mp4"])
    assert list(filled.classes) == ["red", "green"]


def test_names_in_any_script_are_kept_and_spaces_are_joined():
    assert checked_name("  жим   лёжа\n") == "жим лёжа"


def test_what_is_asked_too_early_is_answered_with_what_to_do(session, tmp_path):
    with pytest.raises(MoloError, match="drop videos into the field first"):
        session.add("red", [])
    with pytest.raises(MoloError, match="There is no clip yet"):
        session.add_clip("red")
    with pytest.raises(MoloError, match="nothing to save yet"):
        session.save(tmp_path / "x.molo")
    with pytest.raises(MoloError, match="nothing to explain yet"):
        session.explain(write_page, tmp_path / "x.html")
    assert session.advice() == []
    assert list(tmp_path.iterdir()) == []


def test_the_classes_go_into_a_file_and_come_back_in_another_session(filled, videos, tmp_path):
    path = tmp_path / "gym.molo"
    filled.ask(videos / "red3.mp4")
    filled.save(path)
    assert str(videos).encode() not in path.read_bytes()
    other = PageSession(ColorEmbedder(), Limits())
    other.ask(videos / "red3.mp4")
    other.load(path)
    assert {name: len(clips) for name, clips in other.classes.items()} == {"red": 3, "green": 3}
    assert other.prediction.distances == pytest.approx(filled.prediction.distances)
    assert other.classifier.embedder.embedded == 1


def test_a_file_that_does_not_fit_is_refused_and_the_classes_stay(filled, tmp_path):
    path = tmp_path / "gym.molo"

    def refusal(session):
        with pytest.raises(MoloError) as error:
            session.load(path)
        assert str(tmp_path) not in str(error.value)
        return str(error.value)

    filled.save(path)
    other = PageSession(ColorEmbedder(digest="d" * 64), Limits())
    assert refusal(other) == (
        "gym.molo was saved with another network (colors <of> tests), and this page uses colors"
        " <of> tests"
    )
    assert "at most 4" in refusal(PageSession(ColorEmbedder(), Limits(clips=4)))
    path.write_text("hello")
    assert refusal(filled).startswith("gym.molo is damaged, or no file of a classifier: ")
    write_archive(path, record(digest="c" * 64))
    assert refusal(filled).startswith("gym.molo does not fit its own settings: ")
    write_archive(path, record(digest="c" * 64, clips={}))
    assert refusal(filled) == "gym.molo has no classes"
    assert list(filled.classes) == ["red", "green"]


def test_the_explanation_is_that_of_the_last_answer(filled, videos, tmp_path):
    filled.ask(videos / "green3.mp4")
    filled.explain(write_page, tmp_path / "x.html")
    assert "nearest is green" in (tmp_path / "x.html").read_text()


def test_sessions_share_the_network_and_nothing_else(videos):
    embedder = ColorEmbedder()
    one, other = PageSession(embedder, Limits()), PageSession(embedder, Limits())
    one.add("red", [videos / "red0.mp4"])
    one.ask(videos / "red1.mp4")
    assert (other.classes, other.clip, other.prediction) == ({}, None, None)
    assert np.array_equal(one.classifier.classes_, ["red"])


def test_with_a_real_network_a_clip_is_classified_and_explained(small_networks, videos, tmp_path):
    session = PageSession(Embedder(small_networks("bi_mhm")), Limits())
    for color in ("red", "green"):
        assert session.add(color, [videos / f"{color}{n}.mp4" for n in range(2)]) == []
    session.ask(videos / "green3.mp4")
    assert session.prediction.nearest == "green"
    session.explain(write_explanation, tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text()
    assert "green3.mp4" in page
    assert str(videos) not in page
    session.save(tmp_path / "gym.molo")
    session.load(tmp_path / "gym.molo")
    assert session.prediction.nearest == "green"


def test_an_upload_that_is_gone_is_said_and_the_others_are_taken(session, videos, tmp_path):
    (problem,) = session.add("red", [videos / "red0.mp4", tmp_path / "gone.mp4"])
    assert "gone.mp4" in problem
    assert "the upload is gone; drop it again" in problem
    assert [clip.name for clip in session.classes["red"]] == ["red0.mp4"]
    with pytest.raises(MoloError, match="the upload is gone; drop it again"):
        session.ask(tmp_path / "gone.mp4")


def test_too_many_clips_are_refused_before_any_is_read(videos):
    session = PageSession(ColorEmbedder(), Limits(clips=2))
    with pytest.raises(MoloError, match="2"):
        session.add("red", [videos / f"red{n}.mp4" for n in range(3)])
    assert session.classifier.embedder.embedded == 0


def test_files_of_a_visitor_who_is_forgotten_are_removed(tmp_path):
    session = PageSession(ColorEmbedder(), Limits())
    (tmp_path / "one").mkdir()
    path = tmp_path / "one" / "gym.molo"
    path.touch()
    session.offer(path)
    del session
    gc.collect()
    assert list(tmp_path.iterdir()) == []
