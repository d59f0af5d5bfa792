"""What is read of a work folder, and how damaged files are named."""

import json

import numpy as np
import pytest
from made_results import confusion_of, header_of, made_outcome, record_of, write_work_folder

from molo_jax.analysis.outcome_file import write_outcomes
from molo_jax.errors import MoloError
from molo_jax.reporting.work_folder import read_work_folder

NAMES = [f"class {i}" for i in range(8)]


def test_results_outcomes_and_curves_are_read(tmp_path):
    made = write_work_folder(tmp_path, NAMES)
    folder = read_work_folder(tmp_path)
    (test,) = folder.evaluated
    assert test.name == "test"
    assert [each.cell for each in test.results] == [(5, 1), (5, 5)]
    one = test.results[0]
    assert one.accuracy == made[5, 1].accuracies.mean()
    assert (one.ci95_videos, one.ci95_classes, one.seconds) == (0.041, 0.05, 2.5)
    assert one.source == "eval_test_5way_1shot.json"
    np.testing.assert_array_equal(one.confusion, confusion_of(made[5, 1], 8))
    assert one.classes == tuple(NAMES)
    np.testing.assert_array_equal(test.outcomes[5, 5].predicted, made[5, 5].predicted)
    assert test.outcomes_source == "eval_test_outcomes.npz"
    assert len(folder.metrics) == 8


def test_an_older_result_has_what_it_has(tmp_path):
    write_work_folder(tmp_path, NAMES, new=False, outcomes=False)
    one = read_work_folder(tmp_path).evaluated[0].results[0]
    assert one.confusion is one.ci95_videos is one.seconds is None
    assert set(one.per_class) == set(NAMES)


def test_controls_other_splits_and_kept_results_are_told_apart(tmp_path):
    write_work_folder(tmp_path, NAMES, shots=(1,))
    outcome = made_outcome(8)
    for name, variant in (("test_5way_1shot_static", "static"), ("ucf101_test_5way_1shot", "")):
        record = record_of(outcome, NAMES, variant=variant or "trained")
        (tmp_path / f"eval_{name}.json").write_text(json.dumps(record))
    (tmp_path / "eval_test_5way_1shot.json.old-1").write_text("damaged")
    head = "way,shot,episodes,accuracy,ci95\n5,1,400,0.2,0.01\n"
    (tmp_path / "eval_test_static.csv").write_text(head)
    (tmp_path / "eval_test_untrained_outcomes.npz").write_text("not read")
    found = read_work_folder(tmp_path).evaluated
    assert [each.name for each in found] == ["test", "ucf101_test"]
    assert [each.variant for each in found[0].controls] == ["static"]
    assert len(found[0].results) == 1


def test_a_table_adds_the_cells_that_have_no_result_file(tmp_path):
    write_work_folder(tmp_path, NAMES, shots=(1,))
    head = "way,shot,episodes,accuracy,ci95,ci95_videos,seconds\n"
    rows = "5,1,400,0.1,0.01,,\n10,2,300,0.4,0.02,0.03,1.5\n10,1,300,0.35,0.02,,\n"
    (tmp_path / "eval_test.csv").write_text(head + rows)
    results = read_work_folder(tmp_path).evaluated[0].results
    assert [each.cell for each in results] == [(5, 1), (10, 1), (10, 2)]
    # The result file says more, so its numbers stay.
    assert results[0].accuracy != 0.1
    last = results[-1]
    assert (last.accuracy, last.ci95_videos, last.seconds) == (0.4, 0.03, 1.5)
    assert last.source == "eval_test.csv"
    assert results[1].ci95_videos is None


def test_what_is_shown_is_5_way_1_shot_or_else_the_first_result_file(tmp_path):
    write_work_folder(tmp_path, NAMES)
    assert read_work_folder(tmp_path).evaluated[0].shown.cell == (5, 1)
    (tmp_path / "eval_test_5way_1shot.json").unlink()
    head = "way,shot,episodes,accuracy,ci95\n2,1,300,0.4,0.02\n"
    (tmp_path / "eval_test.csv").write_text(head)
    assert read_work_folder(tmp_path).evaluated[0].shown.cell == (5, 5)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"accuracy": "high"}, "accuracy is 'high'; expected a number from 0 to 1"),
        ({"accuracy": 1.5}, "accuracy is '1.5'; expected a number from 0 to 1"),
        ({"accuracy": float("nan")}, "accuracy is 'nan'; expected a number from 0 to 1"),
        ({"accuracy": True}, "accuracy is 'True'; expected a number from 0 to 1"),
        ({"ci95": -1}, "ci95 is '-1'; expected a number from 0 on"),
        ({"ci95_videos": 10**400}, "ci95_videos is '1000"),
        ({"way": 5.0}, "way is '5.0'; expected a whole number from 1 on"),
        ({"episodes": None}, "episodes is 'None'; expected a whole number from 1 on"),
        ({"per_class": {"a": 2}}, "per_class is \"{'a': 2}\"; expected a number from 0 to 1"),
        ({"config": []}, "config is '[]'; expected an object"),
        ({"classes": ["a"]}, "confusion is"),
        ({"classes": [1, 2]}, "classes is '[1, 2]'; expected the names of the classes"),
        ({"variant": 3}, "variant is '3'; expected a text"),
    ],
)
def test_a_damaged_result_is_named_with_what_is_wrong(tmp_path, changes, problem):
    write_work_folder(tmp_path, NAMES)
    path = tmp_path / "eval_test_5way_5shot.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(MoloError) as error:
        read_work_folder(tmp_path)
    assert str(error.value).startswith(f"{path}: {problem}")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("eval_test_5way_1shot.json", b"{", "is damaged"),
        ("eval_test_5way_1shot.json", b"[1]", "is no result file: it holds no object"),
        ("eval_test_5way_1shot.json", b"[" * 100_000, "is damaged"),
        ("eval_test.csv", b"way,shot\n5,1\n", "has no column episodes, accuracy, ci95"),
        ("eval_test.csv", b"\xff\xfe", "is no table"),
        (
            "eval_test.csv",
            b"way,shot,episodes,accuracy,ci95\n5,one,1,0,0\n",
            ", line 2: shot is 'one'; expected a whole number from 1 on",
        ),
        ("eval_test_outcomes.npz", b"PK", "is damaged"),
        ("metrics.jsonl", b"[1]\n", ", line 1 is '[1]', no object"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, problem):
    write_work_folder(tmp_path, NAMES)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MoloError) as error:
        read_work_folder(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / name}")
    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"class_names": NAMES[:3]}, "does not name its classes and videos"),
        ({"video_names": [["a"]] * 8}, "has episodes with videos that it does not name"),
        ({"class_names": [*NAMES[:7], 5]}, "has names that are no texts"),
        ({"class_sizes": [0] * 8}, "or sizes below 1"),
    ],
)
def test_outcomes_without_their_names_are_refused(tmp_path, changes, problem):
    made = write_work_folder(tmp_path, NAMES)
    path = tmp_path / "eval_test_outcomes.npz"
    write_outcomes(path, header_of(NAMES, **changes), made)
    with pytest.raises(MoloError, match=problem):
        read_work_folder(tmp_path)


def test_a_folder_with_nothing_to_report_says_what_was_expected(tmp_path):
    with pytest.raises(MoloError, match=r"neither metrics\.jsonl nor results"):
        read_work_folder(tmp_path)
    with pytest.raises(MoloError, match="absent is no folder"):
        read_work_folder(tmp_path / "absent")


def test_the_commands_are_read_and_a_cut_line_is_left_out(tmp_path):
    write_work_folder(tmp_path, NAMES)
    lines = ['{"command": "first", "versions": 3}', '{"other": 1}', '{"command": "second", "ver']
    (tmp_path / "commands.jsonl").write_text("\n".join(lines))
    (found,) = read_work_folder(tmp_path).commands
    assert (found["command"], found["versions"]) == ("first", {})
