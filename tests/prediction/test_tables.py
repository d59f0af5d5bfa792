import csv
import io
import json

import pytest
from colors import ColorEmbedder, clip

from molo_jax.data.video.containers import BadVideoError
from molo_jax.errors import MoloError
from molo_jax.prediction import tables
from molo_jax.prediction.classifier import Classifier
from molo_jax.prediction.inputs import Query
from molo_jax.prediction.results import UNKNOWN
from molo_jax.prediction.timeline import Segment

CLASSES = ["red", "blue"]


@pytest.fixture(scope="module")
def classifier():
    return Classifier(ColorEmbedder()).fit(
        {
            "red": [clip(200), clip(210), clip(220)],
            "blue": [clip(0, 0, 100), clip(0, 0, 110), clip(0, 0, 120)],
        }
    )


@pytest.fixture(scope="module")
def results(classifier):
    def one(path, folder, *color):
        return Query(path, folder), classifier.predict(clip(*color))

    return [
        one("q/red/1.mp4", "red", 212),
        one("q/red/2.mp4", "red", 0, 0, 108),
        one("q/green/3.mp4", "green", 0, 250),
        one("q/blue/4.mp4", "blue", 0, 250, 255),
        (Query("q/red/5.mp4", "red"), BadVideoError("q/red/5.mp4", "it is broken")),
    ]


def test_the_csv_has_a_line_for_each_clip_that_could_be_read(results, tmp_path):
    tables.write_csv(tmp_path / "out.csv", results, CLASSES)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert list(rows[0]) == [
        *("video", "predicted", "probability", "margin", "runner_up", "truth"),
        *("distance_red", "distance_blue"),
    ]
    assert [row["predicted"] for row in rows] == ["red", "blue", "none of these", "none of these"]
    assert [row["truth"] for row in rows] == ["red", "red", "green", "blue"]
    assert rows[0]["distance_red"] == "2"
    assert rows[0]["runner_up"] == "blue"
    assert float(rows[0]["margin"]) == pytest.approx(float(rows[0]["distance_blue"]) - 2, rel=1e-5)


def test_without_folders_of_classes_there_is_no_truth(results, tmp_path):
    bare = [(Query(query.path, "monday"), result) for query, result in results]
    tables.write_csv(tmp_path / "out.csv", bare, CLASSES)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert {row["truth"] for row in rows} == {""}
    assert tables.summary(bare, CLASSES) == ""
    assert "truth" not in tables.console_table(bare, CLASSES)


def test_accuracy_and_confusion_are_those_of_the_clips_that_could_be_read(results):
    text = tables.summary(results, CLASSES)
    assert "accuracy: 1 of 3 clips of the classes (33.3%); 1 called 'none of these'" in text
    assert "1 of 1 clips of other classes called 'none of these'" in text
    rows = [line.split() for line in text.splitlines()[-3:]]
    assert rows == [["red", "1", "1", "·"], ["blue", "·", "·", "1"], ["green", "·", "·", "1"]]


def test_the_console_marks_what_is_right(results):
    lines = tables.console_table(results, CLASSES).splitlines()
    assert lines[0].split() == ["clip", "predicted", "probability", "margin", "runner-up", "truth"]
    assert lines[2].split()[:2] == ["q/red/1.mp4", "red"]
    assert lines[2].endswith("✓")
    assert lines[3].endswith("✗ red")
    assert "none of these (nearest: blue)" in lines[4]
    assert lines[4].endswith("✓")
    assert lines[6].split() == ["q/red/5.mp4", "(not", "usable)"]


def test_wide_letters_and_long_names_keep_the_columns_in_line(classifier):
    prediction = classifier.predict(clip(212))
    names = ["動画.mp4", "a" * 90 + ".mp4", "b.mp4"]
    lines = tables.console_table([(Query(n), prediction) for n in names], CLASSES).splitlines()
    starts = [tables._width(line[: line.index("red")]) for line in lines[2:]]
    assert len(set(starts)) == 1
    assert "…" in lines[3]


def test_the_json_says_what_classified_and_what_could_not_be_used(results, classifier, tmp_path):
    tables.write_json(tmp_path / "out.json", results, classifier)
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["network"]["source"] == "colors"
    assert content["classes"] == {"red": ["array"] * 3, "blue": ["array"] * 3}
    assert content["unknown"]["threshold"] == classifier.threshold
    assert [each["predicted"] for each in content["predictions"]][:2] == ["red", "blue"]
    assert content["predictions"][2]["truth"] == "green"
    assert content["predictions"][0]["distances"]["red"] == 2
    assert content["predictions"][0]["frames"] == [0, 1]
    assert content["not_usable"] == [
        {"video": "q/red/5.mp4", "reason": "it is broken", "class": None}
    ]


def test_a_file_that_cannot_be_written_is_named_and_nothing_stays(results, tmp_path):
    blocked = tmp_path / "out.csv"
    blocked.mkdir()
    with pytest.raises(MoloError, match=r"out.csv cannot be written"):
        tables.write_csv(blocked, results, CLASSES)
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_names_that_cannot_be_printed_are_shown_with_what_they_hold(classifier, tmp_path):
    name = "q/\udcff\x1b[31m\n.mp4"
    shown = r"q/\xff\x1b[31m\n.mp4"
    bad = [(Query(name), BadVideoError(name, "broken"))]
    fine = [(Query(name), classifier.predict(clip(212)))]
    for results in (bad, fine):
        text = tables.console_table(results, CLASSES)
        assert shown in text
        assert len(text.encode().splitlines()) == 3
    tables.write_json(tmp_path / "out.json", bad, classifier)
    assert json.loads((tmp_path / "out.json").read_text())["not_usable"][0]["video"] == shown
    assert tables.segments_table(name, []).splitlines()[0] == shown


def test_the_segments_have_tenths_of_seconds():
    segments = [Segment(0.0, 2.6, "lunge", True, 0.75), Segment(2.6, 64.0, UNKNOWN, False, 0.5)]
    lines = tables.segments_table("long.mp4", segments).splitlines()
    assert lines[3].split() == ["0:00.0", "0:02.6", "lunge", "0.75"]
    assert lines[4].split() == ["0:02.6", "1:04.0", "none", "of", "these"]
