"""The page of a report, from made work folders: numbers, names that are no harmless text, size."""

import json
import re

import numpy as np
import pytest
from html_page import HtmlPage
from made_results import (
    HOSTILE,
    LONG,
    confusion_of,
    header_of,
    made_outcome,
    record_of,
    write_work_folder,
)

from molo_jax.analysis.outcome_file import write_outcomes
from molo_jax.analysis.summary import summarize
from molo_jax.errors import MoloError
from molo_jax.reporting import page as pages
from molo_jax.reporting.confusion import drawing, luminance, shade
from molo_jax.reporting.embedding_map import embedding_map
from molo_jax.reporting.illustrations import Example, Illustrations, Query, hard_clips
from molo_jax.reporting.matching import Line, Pairing, StreamDrawing
from molo_jax.reporting.page import Pictures, details_of, write_page
from molo_jax.reporting.strips import Strips
from molo_jax.reporting.work_folder import read_work_folder

NAMES = [HOSTILE, LONG, "a\x00b", *(f"class {i}" for i in range(9))]


def made_pictures(folder, missing=()):
    """Pictures of clips without a network: colored frames, and lines between them."""
    strips = Strips(10**6)
    evaluated = folder.evaluated[0]
    outcome, _, names = details_of(evaluated)
    random = np.random.default_rng(0)
    clips = [
        strips.add(number, random.integers(0, 255, (8, 40, 30, 3), np.uint8)) for number in range(3)
    ]
    lines = [Line(36.0, 108.0, 2.5, True, "1 and 2: distance 0.5")]
    stream = StreamDrawing("appearance", 0.7, lines, "Frames matched by appearance.")
    pairing = Pairing("its class", names[0], 1.5, clips[0], "A note.", [stream])
    queries = [Query(names[0], names[1], clips[1], f"{HOSTILE}.mp4", -0.4, [pairing])]
    example = Example(0, 5, 1, [(names[0], clips[0], "video.mp4")], queries)
    vectors = random.normal(size=(40, 6))
    classes = np.arange(40) % len(names)
    found = embedding_map(vectors, classes, [f"{HOSTILE} {i}" for i in range(40)], names, 99)
    hard = hard_clips(outcome, names, evaluated.header["video_names"], strips, None)
    return Pictures(strips, hard, Illustrations([example], found, "MoLo", ("motion",)), missing)


def write(path, workdir, pictures=None, defaults=None):
    folder = read_work_folder(workdir)
    drawn = pictures(folder) if pictures else Pictures(Strips(0))
    write_page(path, folder, drawn, defaults=defaults or {})
    return HtmlPage(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A page with everything on it, and its outcomes."""
    workdir = tmp_path_factory.mktemp("whole")
    made = write_work_folder(workdir, NAMES)
    line = {
        "time": "2026-01-01",
        "command": "python -m molo_jax.main '<i>'",
        "versions": {"x": "1"},
    }
    (workdir / "commands.jsonl").write_text(json.dumps(line) + "\n")
    return write(workdir / "report.html", workdir, made_pictures, {"seed": 7}), made


def test_the_page_is_whole_and_has_no_script(whole):
    page, _ = whole
    assert page.problems() == []
    policy = next(each["content"] for each in page.all("meta") if "http-equiv" in each)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("img")) == 3


def test_a_hostile_name_is_text_wherever_it_stands(whole):
    page, _ = whole
    assert page.all("script") == []
    text = page.text()
    assert "a�b" in text
    assert "\x00" not in text
    # In tables, titles of cells and labels, and at the example.
    assert text.count(HOSTILE) > 20
    alternatives = [each["aria-label"] for each in page.all("svg") if "aria-label" in each]
    assert f"Frames of the query {HOSTILE}.mp4" in alternatives


def test_the_headline_numbers_have_their_intervals_and_their_source(whole):
    page, made = whole
    text = page.text()
    accuracy = made[5, 1].accuracies
    half = 100 * 1.96 * accuracy.std(ddof=1) / np.sqrt(len(accuracy))
    assert (
        f"5-way 1-shot accuracy {100 * accuracy.mean():.1f} % ± {half:.1f} over episodes"
        " ± 4.1 over videos ± 5.0 over classes 400 episodes; chance 20.0 %"
        " eval_test_5way_1shot.json"
    ) in text
    name, *head = page.rows(0)[0]
    assert (name, head) == ("Trained", ["1-shot", "5-shot"])
    assert page.rows(0)[1][:2] == ["5-way", f"{100 * accuracy.mean():.1f} ± {half:.1f} (± 4.1)"]
    assert {"open": None} in page.all("details")
    head, one, five = page.rows(1)
    assert head[:5] == ["Way", "Shots", "Network", "Accuracy", "Over episodes"]
    assert one[:3] == ["5", "1", "trained"]
    assert one[5:] == ["± 4.1", "± 5.0", "400", "2.5", "eval_test_5way_1shot.json"]
    assert five[3] == f"{100 * made[5, 5].accuracies.mean():.1f}"


def test_classes_are_listed_from_the_best_to_the_worst(whole):
    page, made = whole
    head, *rows = page.rows(2)
    assert head == [
        *("Class", "0 to 100 %", "Accuracy", "Interval", "Queries (videos)"),
        "Most often taken for",
    ]
    values = [float(row[2]) for row in rows]
    assert values == sorted(values, reverse=True)
    # The first class is right half as often as the others.
    assert rows[-1][0] == HOSTILE
    outcome = made[5, 1]
    own = outcome.correct[outcome.classes == 0]
    assert rows[-1][2] == f"{100 * own.mean():.1f}"
    assert rows[-1][4] == f"{own.size} (12)"


def test_every_cell_of_the_confusion_says_its_names_and_numbers(whole):
    page, made = whole
    counts = confusion_of(made[5, 1], len(NAMES))
    text = page.text()
    total = counts[1].sum()
    share = f"{counts[1, 1]:,} of {total:,} queries ({100 * counts[1, 1] / total:.1f} %)"
    assert f"{LONG}: {share} are classified correctly" in text
    wrong = counts[3, 4]
    both = sum((3 in row) and (4 in row) for row in made[5, 1].classes.tolist())
    said = f"class 0, taken for class 1: {wrong:,} of {counts[3].sum():,} queries"
    assert said in text
    assert f"it was among the classes for {both:,} of them" in text


def test_pairs_hardest_queries_episodes_and_map_are_there(whole):
    page, _ = whole
    head, *rows = page.rows(3)
    assert head == ["Class", "Taken for", "Queries", "Share"]
    shares = [float(row[3].removesuffix(" %")) for row in rows]
    assert shares == sorted(shares, reverse=True)
    assert len(rows) == 15
    assert len([1 for each in page.all("line") if "stroke-width" in each]) == 1
    assert "Query, predicted" in page.text()
    assert "Appearance: adds +0.70 to the distance" in page.text()
    assert "A line of the motion begins and ends between two frames" in page.text()
    assert "40 of 99 usable clips" in page.text()
    assert [f"{HOSTILE} {i}" in page.text() for i in range(40)] == [True] * 40
    # The pictures are in the page once, and used wherever they are shown.
    assert len(page.all("image")) == 3
    assert len(page.all("use")) == 2 + 2
    assert len(page.all("ol")) == 1
    assert len(page.all("li")) > 12


def test_configuration_versions_and_command_are_there(whole):
    page, _ = whole
    text = page.text()
    assert "python -m molo_jax.main '<i>'" in text
    assert "When the command ran: x 1." in text
    assert re.search(r"jax \d+\.\d+", text)
    assert "seed = 0" in text
    # Its default is said to be 7, so 0 is marked as changed.
    assert {"class": "changed"} in page.all("span")


def test_an_older_run_has_a_page_with_what_it_has(tmp_path):
    write_work_folder(tmp_path, NAMES, new=False, outcomes=False)
    page = write(tmp_path / "report.html", tmp_path)
    assert page.problems() == []
    text = page.text()
    assert "no interval over videos" in text
    assert "evaluate again to get it" in text
    assert "There is no confusion matrix" in text
    assert "The command was not recorded" in text
    assert not page.all("image")


def test_outcomes_complete_what_a_result_file_lacks(tmp_path):
    made = write_work_folder(tmp_path, NAMES, shots=(1,), new=False)
    page = write(tmp_path / "report.html", tmp_path)
    half = re.search(r"± ([\d.]+) over videos", page.text())[1]
    cell = summarize(made[5, 1], np.full(len(NAMES), 12))
    assert half == f"{100 * cell.intervals.ci95_videos:.1f}"
    assert "taken for" in page.text()
    assert "There is no confusion matrix" not in page.text()


def test_the_reason_why_there_is_no_interval_over_videos_is_said(tmp_path):
    why = "a class has 4 videos, and 1-shot needs 5 for an interval over videos"
    write_work_folder(tmp_path, NAMES, new=False, outcomes=False, no_ci95_videos=why)
    text = write(tmp_path / "report.html", tmp_path).text()
    assert f"There is no interval over videos: {why}." in text
    assert "older evaluation; evaluate again" not in text


def test_outcomes_of_another_network_are_not_used(tmp_path):
    made = write_work_folder(tmp_path, NAMES, shots=(1,), new=False)
    path = tmp_path / "eval_test_outcomes.npz"
    write_outcomes(path, header_of(NAMES, step=80), made)
    page = write(tmp_path / "report.html", tmp_path)
    assert "There is no confusion matrix" in page.text()
    assert "eval_test_outcomes.npz is of another network" in page.text()


def test_curves_alone_make_a_page(tmp_path):
    write_work_folder(tmp_path, NAMES, outcomes=False)
    for path in tmp_path.glob("eval_*"):
        path.unlink()
    page = write(tmp_path / "report.html", tmp_path)
    assert page.problems() == []
    assert "Nothing has been evaluated" in page.text()
    assert [each["alt"] for each in page.all("img")] == [
        "The loss falls from 5 at step 10 to 1.25 at step 40; its terms are drawn beside it.",
        "The accuracy over the steps; the best of 4 validations is 80.0 % at step 40.",
    ]


def test_lines_of_metrics_without_numbers_are_left_out_of_the_curves(tmp_path):
    write_work_folder(tmp_path, NAMES)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 50, "kind": "train", "loss": "x", "accuracy": NaN}\n')
        file.write('{"step": 50, "kind": "val", "accuracy": 0.9, "ci95": null}\n')
    page = write(tmp_path / "report.html", tmp_path)
    assert "80.0 % at step 40" in page.all("img")[-1]["alt"]


def test_notes_warn_of_classes_that_are_not_new_and_of_bad_videos(tmp_path):
    bad = {f"/data/{HOSTILE}{i}.mp4": "no frame" for i in range(9)}
    changes = {"data.crop": {"training": 32, "now": 64}}
    write_work_folder(
        tmp_path,
        NAMES,
        trained_classes_tested=["class 0"],
        validated_classes_tested=None,
        settings_not_as_in_training=changes,
        bad_videos=bad,
    )
    page = write(tmp_path / "report.html", tmp_path)
    text = page.text()
    assert "Warning: the network was trained on 1 of the tested classes" in text
    assert "Whether the network was validated on classes that are tested here is not known" in text
    assert "Warning: settings are not as in training: data.crop was 32, is 64." in text
    assert "9 videos were left out as unusable" in text
    assert "; and 1 more." in text
    assert page.problems() == []


def test_whatever_a_result_file_holds_there_is_a_page_or_an_error_that_names_it(tmp_path):
    write_work_folder(tmp_path, NAMES, shots=(1,))
    (tmp_path / "metrics.jsonl").unlink()
    path, out = tmp_path / "eval_test_5way_1shot.json", tmp_path / "report.html"
    good = json.loads(path.read_text())
    odd = (None, -0.5, "x", [3], {"a": 3}, {"a": {"training": []}})
    damaged = [good | {name: value} for name in good for value in odd]
    damaged += [good | {"config": good["config"] | {name: 3}} for name in good["config"]]
    refused = []
    for record in damaged:
        path.write_text(json.dumps(record))
        try:
            write(out, tmp_path)
        except MoloError as error:
            refused.append(str(error))
    assert all(str(path) in message for message in refused)
    assert 0 < len(refused) < len(damaged)


def test_a_sweep_with_controls_is_a_grid_and_its_long_table_is_folded(tmp_path):
    write_work_folder(tmp_path, NAMES, shots=(1, 2, 5))
    for way, shot, variant in ((6, 1, "trained"), *((5, k, "static") for k in (5, 1, 2, 3, 4))):
        record = record_of(made_outcome(12), NAMES, way=way, shot=shot, variant=variant)
        suffix = "_static" if variant == "static" else ""
        path = tmp_path / f"eval_test_{way}way_{shot}shot{suffix}.json"
        path.write_text(json.dumps(record | {"accuracy": way / 10 + shot / 100}))
    page = write(tmp_path / "report.html", tmp_path)
    assert page.problems() == []
    rows = page.rows(0)
    assert [row[0] for row in rows] == ["Trained", "5-way", "6-way", "One repeated frame", "5-way"]
    assert rows[0][1:] == ["1-shot", "2-shot", "5-shot"]
    assert rows[2][1].startswith("61.0 ±")
    assert rows[2][2:] == ["–", "–"]
    assert [cell[:4] for cell in rows[4][1:]] == ["51.0", "52.0", "53.0", "54.0", "55.0"]
    assert page.all("details") == [{}]
    # 5-way 1-shot and 5-shot come first.
    cards = re.findall(r"(\d+-way \d+-shot) accuracy", page.text())
    assert cards == ["5-way 1-shot", "5-way 5-shot", "5-way 2-shot", "6-way 1-shot"]


def test_several_splits_have_their_own_parts(tmp_path):
    write_work_folder(tmp_path, NAMES)
    record = record_of(made_outcome(12), NAMES, dataset="other")
    (tmp_path / "eval_other_test_5way_1shot.json").write_text(json.dumps(record))
    page = write(tmp_path / "report.html", tmp_path)
    assert page.problems() == []
    seconds = [text.strip() for level, text in page.headings if level == 2]
    assert seconds[:2] == ["Results: made, test split", "Results: other, test split"]


@pytest.mark.parametrize("count", [5, 30, 100])
def test_a_page_of_so_many_classes_stays_small_and_legible(tmp_path, count):
    names = [f"{i} {LONG}"[:90] for i in range(count)]
    write_work_folder(tmp_path, names, shots=(1,))
    # Every class is taken for every other one, which is the most that there can be.
    path = tmp_path / "eval_test_5way_1shot.json"
    counts = np.full((count, count), 3) + np.eye(count, dtype=int) * 500
    path.write_text(json.dumps(json.loads(path.read_text()) | {"confusion": counts.tolist()}))
    out = tmp_path / "report.html"
    page = write(out, tmp_path, made_pictures)
    assert page.problems() == []
    assert out.stat().st_size < 15e6 - pages.MOST_PICTURE_BYTES
    drawn = drawing(read_work_folder(tmp_path).evaluated[0].shown)
    assert len(drawn.cells) == count**2
    # A name does not overlap the next one.
    assert drawn.side >= drawn.font
    assert bool(drawn.cells[0].number) == (count <= 30)


def test_numbers_in_the_confusion_have_contrast_on_every_color():
    for color in ((11, 79, 52), (150, 40, 10), (255, 0, 0), (0, 0, 255)):
        for level in np.linspace(0, 1, 41):
            fill, ink = shade(float(level), color)
            ground = luminance([int(fill[i : i + 2], 16) for i in (1, 3, 5)])
            letters = 0.0 if ink == "#000" else 1.0
            high, low = max(ground, letters), min(ground, letters)
            assert (high + 0.05) / (low + 0.05) >= 4.5


def test_pictures_beyond_the_room_are_left_out_and_counted():
    random = np.random.default_rng(0)
    clips = [random.integers(0, 255, (8, 64, 64, 3), np.uint8) for _ in range(4)]
    one = Strips(10**7)
    one.add(0, clips[0])
    strips = Strips(int(1.5 * len(one.pictures["clip-1"][0])))
    found = [strips.add(number, clip) for number, clip in enumerate(clips)]
    assert [bool(each.name) for each in found] == [True, False, False, False]
    assert strips.left_out == 3
    assert strips.add(0, clips[1]) is found[0]
    assert found[0].width == 8 * 72
    assert Strips(10**6).add(0, np.zeros((40, 8, 8, 3), np.uint8)).frames == 14


def test_a_page_that_cannot_be_written_is_named_and_leaves_the_old_one(tmp_path, monkeypatch):
    write_work_folder(tmp_path, NAMES)
    out = tmp_path / "report.html"
    out.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pages.Path, "write_bytes", full)
    with pytest.raises(MoloError, match=r"report\.html cannot be written: No space left"):
        write(out, tmp_path)
    assert out.read_text() == "old"
