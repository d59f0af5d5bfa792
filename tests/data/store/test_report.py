"""The report: numbers of every split and class, what is wrong, and whether it is enough."""

import json

import pytest

from molo_jax.data.lists.division import Division
from molo_jax.data.store.report import Need, Report, VideoState

NEEDS = {"train": Need(2, 1, 2), "test": Need(3, 5, 1)}


def states(split, class_id, *kinds, name=""):
    """The videos of a class: "." good, "m" missing, "u" unreadable, "s" short, "?" not counted."""
    made = []
    for number, kind in enumerate(kinds):
        video = f"{split}{class_id}_{number}"
        status = {"m": "missing", "u": "unreadable"}.get(kind, "good")
        made.append(
            VideoState(
                split=split,
                class_id=class_id,
                class_name=name,
                name=video,
                file="" if kind == "m" else f"/v/{video}.mp4",
                status=status,
                frames={".": 8, "s": 7, "u": 3}.get(kind),
                reason={"m": "missing", "u": "empty"}.get(kind, ""),
            )
        )
    return made


@pytest.fixture
def report():
    return Report(
        "demo",
        [
            *states("train", 8, *".mu.s.", name="run"),
            *states("train", 2, *".m?u"),
            *states("test", 0, *"......"),
            *states("test", 1, *"....?m"),
        ],
        NEEDS,
        short_below=8,
    )


def test_every_split_and_class_is_counted(report):
    splits = report.to_json()["splits"]
    assert list(splits) == ["train", "test"]
    train = splits["train"]
    classes = train.pop("classes")
    assert train == {
        "listed": 10,
        "found": 8,
        "missing": 2,
        "unreadable": 2,
        "short": 1,
        "usable": 6,
        "needs": {"n_way": 2, "n_shot": 1, "n_query": 2},
        "enough": False,
    }
    assert list(classes) == ["2", "8"]
    assert classes["8"] == {
        "name": "run",
        "listed": 6,
        "found": 5,
        "missing": 1,
        "unreadable": 1,
        "short": 1,
        "usable": 4,
        "enough": True,
    }
    assert [classes["2"][key] for key in ("name", "usable", "enough")] == ["", 2, False]
    assert splits["test"]["classes"]["0"]["enough"] is True


def test_every_problem_has_its_place_file_and_reason(report):
    problems = report.to_json()["problems"]
    assert len(problems) == 5
    missing = {"split": "train", "class": 8, "video": "train8_1", "file": "", "reason": "missing"}
    assert problems[0] == missing
    assert (problems[1]["file"], problems[1]["reason"]) == ("/v/train8_2.mp4", "empty")


def test_short_videos_and_remarks_are_notes():
    remark = VideoState("val", 3, "", "a", "/a.mp4", "good", 1, note="two files: b.mp4")
    notes = Report("demo", [remark, *states("val", 3, *".s?")], {}, 8).to_json()["notes"]
    short = "fewer than the 8 of a clip: some are repeated"
    assert [note["note"] for note in notes] == [f"two files: b.mp4; 1 frame, {short}",
                                                f"7 frames, {short}"]  # fmt: skip
    assert notes[0] | {"note": ""} == {
        "split": "val",
        "class": 3,
        "video": "a",
        "file": "/a.mp4",
        "note": "",
    }


def test_what_is_too_few_is_said_in_a_sentence_each(report):
    assert report.too_few() == [
        "class 2 of split train has 2 usable videos of 4 listed; 1-shot with 2 queries needs 3",
        "split test has 2 classes; 3-way needs 3",
        "class 1 of split test has 5 usable videos of 6 listed; 5-shot with 1 query needs 6",
    ]
    named = Report("demo", states("test", 4, ".", name="sit"), {"test": Need(1, 1, 1)}, 8)
    assert named.too_few() == [
        "class 4 (sit) of split test has 1 usable video; 1-shot with 1 query needs 2"
    ]


def test_a_split_that_is_asked_for_and_absent_has_too_few():
    report = Report("demo", states("train", 0, "."), {"val": Need(5, 1, 1)}, 8)
    assert report.too_few() == ["split val has 0 classes; 5-way needs 5"]
    splits = report.to_json()["splits"]
    assert (splits["val"]["listed"], splits["val"]["enough"]) == (0, False)
    # Nothing is asked of the train videos.
    assert (splits["train"]["needs"], splits["train"]["enough"]) == (None, True)
    assert splits["train"]["classes"]["0"]["enough"] is True


def test_exactly_what_an_episode_needs_is_enough():
    listed = [*states("test", 0, *"..u"), *states("test", 1, *"s.")]
    report = Report("demo", listed, {"test": Need(2, 1, 1)}, 8)
    assert report.too_few() == []
    assert report.to_json()["splits"]["test"]["enough"] is True
    assert report.format().endswith(
        "every class of test has enough videos for the episodes asked; without train and val"
        " nothing is trained or validated"
    )


def test_the_console_shows_splits_losses_problems_and_the_verdict(report):
    assert (
        report.format()
        == """\
demo:

  split  listed  found  missing  unreadable  short  usable  classes  enough
  train      10      8        2           2      1       6        2      NO
  test       12     11        1           0      0      11        2      NO

classes with losses (3):
  train 2: 2 of 4 usable (1 missing, 1 unreadable), TOO FEW
  test 1: 5 of 6 usable (1 missing), TOO FEW
  train 8 (run): 4 of 6 usable (1 missing, 1 unreadable)

videos that cannot be used (5):
  train 8 /v/train8_2.mp4: empty
  train 2 /v/train2_3.mp4: empty
  train 8 train8_1: missing
  train 2 train2_1: missing
  test 1 test1_5: missing

notes (1):
  train 8 /v/train8_4.mp4: 7 frames, fewer than the 8 of a clip: some are repeated

not enough for the episodes asked (3):
  class 2 of split train has 2 usable videos of 4 listed; 1-shot with 2 queries needs 3
  split test has 2 classes; 3-way needs 3
  class 1 of split test has 5 usable videos of 6 listed; 5-shot with 1 query needs 6
  what to do: add classes to test, or use --n_way=2; get the missing videos, replace the\
 unreadable videos, take these classes out of the lists or use --train_n_query=1 --n_shot=4"""
    )


def test_a_class_without_losses_is_not_among_those_with_losses():
    text = Report("demo", states("test", 4, *"..", name="sit"), {"test": Need(1, 5, 1)}, 8).format()
    assert "losses" not in text
    assert text.endswith("""\
not enough for the episodes asked (1):
  class 4 (sit) of split test has 2 usable videos; 5-shot with 1 query needs 6
  what to do: add videos, take these classes out of the lists or use --n_shot=1""")


def test_files_in_no_list_are_counted_by_reason_and_all_named_in_the_report():
    report = Report("demo", states("val", 0, "."), {}, 8)
    texts = {f"{n}.txt": ".txt is no extension of a video" for n in range(7)}
    second = {f"{n}.avi": f"a second file of that name; {n}.mp4 is used" for n in range(2)}
    report.leave_out({"x\n": "its path has control characters"} | second | texts)
    assert report.format(whole="r.json").split("\n\n")[-1] == (
        "in no list (10):\n"
        "  7 × .txt is no extension of a video: 0.txt, 1.txt, 2.txt, …\n"
        "  2 × a second file of that name: 0.avi, 1.avi\n"
        "  1 × its path has control characters: x\\n\n"
        "  all of them: r.json"
    )
    left_out = report.to_json()["left_out"]
    assert len(left_out) == 10
    assert left_out[1] == {"file": "0.avi", "reason": "a second file of that name; 0.mp4 is used"}


def test_the_report_tells_how_classes_were_divided():
    report = Report("demo", states("val", 0, "."), {}, 8)
    assert "division" not in report.to_json()
    report.explain(Division("ratio", {"val": ("run",)}, (0, 1, 0), 4))
    assert report.to_json()["division"] == {
        "by": "ratio",
        "ratio": (0, 1, 0),
        "seed": 4,
        "classes": {"val": ["run"]},
    }


def test_the_console_stays_short_for_many_classes_and_problems():
    listed = [s for c in range(100) for s in states("train", c, *"mu..s", name=f"class {c}")]
    text = Report("demo", listed, {"train": Need(5, 5, 1)}, 8).format(limit=4)
    lines = text.splitlines()
    assert len(lines) < 40
    assert "classes with losses (100):" in lines
    assert lines.count("  … and 96 more, see --report=FILE") == 3
    assert "  … and 196 more, see --report=FILE" in lines
    assert "unreadable" in text.split("videos that cannot be used")[0]
    problems = text.split("videos that cannot be used (200):\n")[1].splitlines()[:4]
    assert all(line.endswith("mp4: empty") for line in problems)


def test_a_whole_data_set_is_reported_without_its_classes():
    listed = [s for c in range(100) for s in states("train", c, *"....")]
    text = Report("demo", listed, {"train": Need(5, 1, 1)}, 8).format()
    assert text.splitlines() == [
        "demo:",
        "",
        "  split  listed  found  missing  unreadable  short  usable  classes  enough",
        "  train     400    400        0           0      0     400      100     yes",
        "",
        "every class of train has enough videos for the episodes asked; without val and test"
        " nothing is validated or tested",
    ]


def test_names_that_are_not_utf8_can_be_printed_and_written():
    odd = "\udcff\n.mp4"
    state = VideoState("val", 1, odd, odd, odd, "unreadable", None, f"bad {odd}", f"see {odd}")
    report = Report("demo", [state], {"val": Need(1, 1, 1)}, 8)
    text = report.format()
    # In the class, the problem with its reason, the note and what is too few.
    assert text.encode().count(rb"\xff\n.mp4") == 1 + 2 + 2 + 1
    report = json.loads(json.dumps(report.to_json(), ensure_ascii=False).encode())
    assert report["problems"][0]["file"] == r"\xff\n.mp4"
    assert report["problems"][0]["reason"] == r"bad \xff\n.mp4"
    assert report["notes"][0]["note"] == r"see \xff\n.mp4"
    assert report["splits"]["val"]["classes"]["1"]["name"] == r"\xff\n.mp4"
