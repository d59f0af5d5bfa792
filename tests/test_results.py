"""Result files: names of classes in them, and what is never replaced silently."""

import dataclasses
import json

import pytest

from molo_jax import results
from molo_jax.data.lists.splits import Split, Video

SPLIT = Split.of("test", "x", [Video("a/1", 4, 1), Video("b/1", 7, 2), Video("c/1", 9, 3)])
RECORD = {
    "way": 5,
    "shot": 1,
    "accuracy": 0.5,
    "ci95": 0.01,
    "per_class": {"a": 0.5},
    "bad_videos": {},
    "checkpoint": "runs/x/best/200",
    "checkpoint_step": 200,
    "list_digest": "01ab",
    "config": {
        "seed": 0,
        "data": {"num_frames": 8, "workers": 1},
        "eval": {"shots": (1, 5), "controls": ()},
    },
}


def test_classes_are_called_by_their_names_and_by_numbers_where_they_have_none():
    assert results.class_keys(SPLIT) == ["a", "b", "c"]
    named = dataclasses.replace(SPLIT, names=("wave", "", "jump"))
    assert results.class_keys(named) == ["wave", "7", "jump"]


def test_no_two_classes_share_a_key():
    twice = dataclasses.replace(SPLIT, names=("wave", "wave", "jump"))
    assert results.class_keys(twice) == ["wave (class 4)", "wave (class 7)", "jump"]
    like_a_number = dataclasses.replace(SPLIT, names=("7", "", "jump"))
    assert results.class_keys(like_a_number) == ["7 (class 4)", "7", "jump"]


def changed(record, **changes):
    """A record with other values, those of the configuration by their last name."""
    config = json.loads(json.dumps(record["config"]))
    for section in (config, *(v for v in config.values() if isinstance(v, dict))):
        section |= {key: changes.pop(key) for key in tuple(changes) if key in section}
    return record | changes | {"config": config}


@pytest.mark.parametrize(
    "changes",
    [
        {"num_frames": 3},
        {"seed": 1},
        {"checkpoint_step": 400},
        {"list_digest": "02cd"},
        {"way": 3},
    ],
)
def test_the_result_of_other_settings_is_kept_under_another_name(tmp_path, caplog, changes):
    path = tmp_path / "eval_test_5way_1shot.json"
    results.write_result(path, RECORD)
    other = changed(RECORD, accuracy=0.25, **changes)
    results.write_result(path, other)
    kept = tmp_path / "eval_test_5way_1shot.json.old-1"
    assert json.loads(kept.read_text())["accuracy"] == 0.5
    assert json.loads(path.read_text()) == json.loads(json.dumps(other))
    assert f"it is kept as {kept}" in caplog.text
    results.write_result(path, RECORD)
    assert json.loads(kept.read_text())["accuracy"] == 0.5
    again = tmp_path / "eval_test_5way_1shot.json.old-2"
    assert json.loads(again.read_text())["accuracy"] == 0.25


def test_the_same_evaluation_replaces_its_result_however_fast_it_is(tmp_path, caplog):
    path = tmp_path / "x.json"
    results.write_result(path, RECORD)
    results.write_result(path, changed(RECORD, workers=7, shots=(1,), controls=("static",)))
    assert json.loads(path.read_text())["config"]["data"]["workers"] == 7
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]
    assert caplog.text == ""


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_what_is_no_result_is_kept_as_well(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content, encoding="latin-1")
    results.write_result(path, RECORD)
    assert (tmp_path / "x.json.old-1").read_text(encoding="latin-1") == content
    assert json.loads(path.read_text())["accuracy"] == 0.5
