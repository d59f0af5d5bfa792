"""The page: its numbers, names that are no harmless text, its pictures and its limits."""

import base64
import json
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from stick_figures import classifier_of, clip, gym

from molo_jax.errors import MoloError
from molo_jax.prediction import report
from molo_jax.prediction.explanation import explain
from molo_jax.prediction.report import write_report
from molo_jax.prediction.results import UNKNOWN, Failure

HOSTILE = '</script><script>alert("x")</script><img src=x onerror=alert(1)>'
LONG = "深蹲 " + "a very long name " * 12
# Elements without an end.
VOID = {"meta", "link", "img", "input", "br", "wbr"}


class Page(HTMLParser):
    """Takes a page apart: the text of every element with an id, its links, its data."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.tables, self._open = [], {}, [], []
        self.feed(text)
        self.close()
        assert self._open == [], "an element is not closed"
        self.data = json.loads(self.texts["data"])

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self._open.append((tag, attributes.get("id")))
            self.texts.setdefault(attributes.get("id"), "")

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, text):
        for _, name in self._open:
            self.texts[name] = self.texts.get(name, "") + text
        if self.tables and any(tag in ("td", "th") for tag, _ in self._open):
            self.tables[-1][-1][-1] += text

    def text(self, name):
        return " ".join(self.texts[name].split())

    def rows(self, number=0):
        return [[" ".join(cell.split()) for cell in row] for row in self.tables[number]]


def write(path, classifier, queries, **keywords):
    predictions = [classifier.predict(query) for query in queries]
    explanations = [explain(classifier, each) for each in predictions]
    write_report(path, classifier, predictions, explanations, **keywords)
    return predictions, explanations, Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def queries():
    return [clip(f"new/{name}.mp4", name, seed=50 + i) for i, name in enumerate(("squat", "wave"))]


def test_the_summary_has_a_row_for_each_clip_with_its_numbers(tmp_path, queries):
    predictions, _, page = write(tmp_path / "page.html", gym(), queries, truth=["squat", "lunge"])
    head, *rows = page.rows()
    assert head == ["Clip", "Predicted", "Probability", "Margin", "Runner-up", "Truth"]
    for row, each, truth in zip(rows, predictions, ("squat ✓ right", "lunge ✗ wrong"), strict=True):
        assert row == [
            each.name.removeprefix("new/"),
            each.nearest,
            report.percent(each.probability),
            f"{each.margin:.2f}",
            each.runner_up,
            truth,
        ]
    assert "50 % right: 1 of 2 whose truth is known" in page.text("summary")
    counts = page.rows(1)
    assert counts[1] == ["right class", "squat", "lunge", "wave"]
    assert counts[2:] == [
        ["squat", "1", "·", "·"],
        ["lunge", "·", "·", "1"],
        ["wave", "·", "·", "·"],
    ]


@pytest.mark.parametrize("method", ["molo", "otam", "protonet"])
def test_the_data_of_the_charts_are_those_of_the_explanations(tmp_path, queries, method):
    predictions, explanations, page = write(tmp_path / "page.html", gym(method), queries)
    for drawn, prediction, found in zip(page.data["clips"], predictions, explanations, strict=True):
        sums = {name: sum(parts.values()) for name, parts in drawn["shares"]}
        assert sums == pytest.approx(prediction.distances, abs=2e-4)
        assert sum(drawn["margin"].values()) == pytest.approx(prediction.margin, abs=2e-4)
        for match, of_page in zip((found.best, found.second), drawn["matches"], strict=True):
            assert of_page["name"] == match.name
            for key, stream in match.streams.items():
                there = of_page["streams"][key]
                assert [p[:2] for p in there["pairs"]] == [[p.query, p.other] for p in stream.pairs]
                if stream.frames is None:
                    assert there["frames"] is None
                else:
                    np.testing.assert_allclose(there["frames"], stream.frames, atol=1e-4)
        assert drawn["query"]["seconds"] == [0.12, 0.36, 0.6, 0.84, 1.08, 1.32, 1.56, 1.8]
        assert found.change in page.text("clips")


def test_pictures_are_the_clips_frames_and_each_is_there_once(tmp_path, queries):
    classifier = gym(shots=1)
    _, _, page = write(tmp_path / "page.html", classifier, [queries[0], queries[0]])
    # The query twice, and three support clips.
    assert len(page.data["images"]) == 8 * 4
    first, second = page.data["clips"]
    assert first["query"]["images"] == second["query"]["images"] == list(range(8))
    raw = np.frombuffer(base64.b64decode(page.data["images"][3]), np.uint8)
    found = cv2.cvtColor(cv2.imdecode(raw, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert found.shape == (90, 120, 3)
    assert np.abs(found.astype(int) - queries[0].thumbnails[3]).mean() < 4


def test_pictures_beyond_the_limit_are_left_out_and_that_is_said(tmp_path, queries):
    size = sum(len(x) for x in write(tmp_path / "a.html", gym(), queries)[2].data["images"])
    _, _, page = write(tmp_path / "page.html", gym(), queries, most_picture_bytes=size // 2)
    assert 0 < sum(len(x) for x in page.data["images"]) <= size // 2
    assert page.data["clips"][0]["query"]["images"]
    assert "shown without pictures" in page.text("summary")
    # Nothing else is missing.
    assert page.data["clips"][1]["matches"][0]["streams"]["motion"]["pairs"]
    _, _, bare = write(tmp_path / "bare.html", gym(), queries, most_picture_bytes=0)
    assert bare.data["images"] == []
    assert "11 clips are shown without pictures" in bare.text("summary")


def test_the_page_asks_for_nothing_from_elsewhere(tmp_path, queries):
    _, _, page = write(tmp_path / "page.html", gym(), queries)
    allowed = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    assert allowed.startswith("default-src 'none'; img-src data:;")
    for tag, attributes in page.tags:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)


def test_names_are_text_whatever_is_in_them(tmp_path):
    support = {
        HOSTILE: [clip(f"{HOSTILE}.mp4", "squat"), clip("b\udcff.mp4", "squat", seed=2)],
        LONG: [clip("c.mp4", "wave", seed=3), clip("سلام.mp4", "wave", seed=4)],
    }
    failure = Failure(f"{HOSTILE}.avi", "a <b>broken</b> file", HOSTILE)
    path = tmp_path / "page.html"
    query = clip(f"folder/{HOSTILE}", "squat", seed=9)
    _, _, page = write(path, classifier_of(support), [query], failures=[failure], truth=[HOSTILE])
    kinds = [tag for tag, _ in page.tags]
    assert kinds.count("script") == 2
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert "alert" not in path.read_text().partition('<script type="application/json"')[0].replace(
        "alert(&#34;x&#34;)", ""
    ).replace("onerror=alert(1)&gt;", "")
    assert page.data["clips"][0]["matches"][0]["name"] == HOSTILE
    assert page.rows()[1][1] == HOSTILE
    assert LONG.strip() in page.text("support")
    assert "سلام.mp4" in page.text("support")
    assert "\\udcff" in page.text("support")
    assert page.text("failures").endswith(
        f"{HOSTILE}.avi (example of “{HOSTILE}”): a <b>broken</b> file"
    )


def test_a_clip_of_no_class_says_how_far_it_is(tmp_path):
    jump = clip("jump.mp4", "jump", seed=5)
    predictions, _, page = write(tmp_path / "page.html", gym(limit=1.01), [jump])
    assert predictions[0].label == UNKNOWN
    text = page.text("clip-1")
    assert f"it is {predictions[0].strangeness:.2f} times as far from" in text
    assert "the limit is 1.01" in text
    assert page.rows()[1][1] == f"◌ none of these nearest: {predictions[0].nearest}"
    scale = predictions[0].distances[predictions[0].nearest] / predictions[0].strangeness
    assert page.data["clips"][0]["limit"] == pytest.approx(1.01 * scale, abs=1e-3)
    _, _, off = write(tmp_path / "off.html", gym(), [jump])
    assert off.data["clips"][0]["limit"] is None


def test_the_support_set_is_shown_with_its_confusion_and_advice(tmp_path, queries):
    classifier = gym()
    classifier.fit(classifier.support | {"wave": classifier.support["wave"][:1]})
    _, _, page = write(tmp_path / "page.html", classifier, queries)
    found = classifier.leave_one_out()
    right = int((found.predicted == found.labels).sum())
    text = page.text("support")
    assert f"{right} of 6 looked like their own class" in text
    assert "class “wave” has one clip, so it cannot be tested: add a second" in text
    assert "not tested: it is the only clip of its class" in text
    counts = page.rows(1)
    assert counts[2][1:] == [str(c) if c else "·" for c in found.confusion[0].tolist()]


def test_one_class_alone_makes_a_page(tmp_path, queries):
    classifier = classifier_of({"squat": [clip("a.mp4", "squat", timed=False)]})
    _, _, page = write(tmp_path / "page.html", classifier, queries[:1])
    assert "There is no other class to compare with." in page.text("clip-1")
    assert page.rows()[1][3:] == ["–", "–"]
    assert page.data["clips"][0]["matches"][0]["strip"]["seconds"] is None


def test_a_page_without_explanations_and_one_without_clips_are_made(tmp_path, queries):
    classifier = gym()
    predictions = [classifier.predict(queries[0])]
    write_report(tmp_path / "a.html", classifier, predictions, [None])
    page = Page((tmp_path / "a.html").read_text())
    assert page.data["clips"][0]["matches"] == []
    assert len(page.data["clips"][0]["shares"]) == 3
    write_report(tmp_path / "b.html", classifier, [], [], [Failure("x.mp4", "it is empty")])
    page = Page((tmp_path / "b.html").read_text())
    assert "No clip could be predicted." in page.text("clips")
    assert "x.mp4: it is empty" in page.text("failures")


def test_many_classes_are_cut_to_the_nearest_ones(tmp_path, monkeypatch, queries):
    monkeypatch.setattr(report, "_MOST_CLASSES", 2)
    monkeypatch.setattr(report, "_MOST_CONFUSED", 2)
    predictions, _, page = write(tmp_path / "page.html", gym(), queries[:1], truth=["squat"])
    drawn = page.data["clips"][0]
    nearest = sorted(predictions[0].distances, key=predictions[0].distances.get)[:2]
    assert [name for name, _ in drawn["shares"]] == nearest
    assert drawn["more"] == 1
    assert "There are too many classes for a table." in page.text("support")
    assert "Right and predicted classes" not in page.text("summary")


def test_names_are_shown_without_the_folder_that_all_have(tmp_path):
    names = ["/a/b/c/1.mp4", "/a/b/d/2.mp4"]
    assert report.folder_of_all(names) == "/a/b/"
    assert report.folder_of_all(["x/1.mp4", "x/2.mp4"]) == "x/"
    for others in (["1.mp4", "x/2.mp4"], ["/a/1.mp4", "b/2.mp4"], ["x/1.mp4", "y/2.mp4"], []):
        assert report.folder_of_all(others) == ""
    queries = [clip(name, "squat", seed=i) for i, name in enumerate(names)]
    _, _, page = write(tmp_path / "page.html", gym(), queries)
    assert [row[0] for row in page.rows()[1:]] == ["c/1.mp4", "d/2.mp4"]
    assert [a["title"] for _, a in page.tags if a.get("class") == "name" and "title" in a][
        :2
    ] == names
    assert page.data["folders"] == ["/a/b/", "gym/"]
    assert report.breakable("a_b<i>.mp4") == "a_<wbr>b&lt;i&gt;.<wbr>mp4"


def test_the_numbers_are_written_for_people():
    assert [report.number(x) for x in (0, 1.234, 0.0123, float("inf"))] == [
        *("0.00", "1.23", "0.012", "–"),
    ]
    assert [report.signed(x) for x in (0.123, -0.5)] == ["+0.12", "−0.50"]
    assert [report.percent(x) for x in (0.914, 0.9996, 1.0)] == ["91 %", "99.9 %", "100 %"]


def test_as_many_explanations_and_truths_as_predictions_are_needed(tmp_path, queries):
    classifier = gym()
    prediction = classifier.predict(queries[0])
    with pytest.raises(ValueError, match="explanations has 0 entries for 1 predictions"):
        write_report(tmp_path / "page.html", classifier, [prediction], [])
    with pytest.raises(ValueError, match="truth has 2 entries for 1 predictions"):
        write_report(tmp_path / "page.html", classifier, [prediction], [None], truth=["a", "b"])
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written_is_one_error_and_leaves_nothing(tmp_path, queries):
    missing = tmp_path / "missing/page.html"
    with pytest.raises(MoloError, match=r"page\.html cannot be written: No such file"):
        write(missing, gym(), queries[:1])
    old = tmp_path / "page.html"
    old.write_text("before")
    write(old, gym(), queries[:1])
    assert old.read_text().startswith("<!DOCTYPE html>")
    assert list(tmp_path.iterdir()) == [old]
