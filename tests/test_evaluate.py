import numpy as np
import pytest

from molo_jax import build, evaluate, evaluation_output
from molo_jax.analysis.intervals import Intervals
from molo_jax.analysis.summary import Cell, WrongQuery
from molo_jax.config import base_config
from molo_jax.engine.checkpoint import Checkpoints
from molo_jax.errors import MoloError
from molo_jax.methods.settings import MoLoSettings
from molo_jax.provenance import ListRecord, Overlap, Provenance
from molo_jax.results import Comparison

SETTINGS = MoLoSettings(num_classes=3, backbone="resnet18")


def cell(way, shot, accuracy, ci95, ci95_videos=None):
    found = Intervals(accuracy, ci95, ci95_videos, None)
    nothing = np.zeros((0, 0), int)
    return Cell(way, shot, 1000, found, 0.0, {}, nothing, nothing, ())


def test_several_ways_have_a_row_each():
    ways = {("trained", way, 1): cell(way, 1, 0.5, 0.01) for way in (5, 6)}
    lines = evaluate.format_table("the head", ways).splitlines()
    assert [line[:15] for line in lines[5:7]] == ["trained, 5-way ", "trained, 6-way "]


def test_the_table_has_a_row_for_each_variant_and_a_column_for_each_number_of_shots():
    results = {
        ("trained", 5, 1): cell(5, 1, 0.6123, 0.0101, 0.0234),
        ("trained", 5, 5): cell(5, 5, 1.0, 0.0, 0.0),
        ("static", 5, 1): cell(5, 1, 0.2, 0.0051),
        ("static", 5, 5): cell(5, 5, 0.21, 0.005),
    }
    assert evaluate.format_table("the head", results).splitlines() == [
        "",
        "the head",
        "-" * 68,
        "                                         1-shot               5-shot",
        "-" * 68,
        "trained                      61.2 ± 1.0 (± 2.3)  100.0 ± 0.0 (± 0.0)",
        "trained, one repeated frame          20.0 ± 0.5           21.0 ± 0.5",
        "-" * 68,
    ]


def test_notes_stand_below_the_table():
    results = {("trained", 5, 1): cell(5, 1, 0.5, 0.01)}
    lines = evaluate.format_table("the head", results, ["warning: x"]).splitlines()
    assert lines[-1] == "warning: x"
    assert set(lines[-2]) == {"-"}


@pytest.fixture
def config(motion_data):
    config = base_config()
    config.data.source = "videos"
    config.data.root = str(motion_data / "videos")
    config.data.split_dir = str(motion_data / "splits")
    config.eval.n_way, config.eval.shots = 3, (1,)
    return config


def test_a_result_file_has_the_evaluations_own_way_and_queries_and_the_names_of_classes(config):
    config.init_from = "runs/x"
    config.train.n_way, config.train.n_shot, config.train.n_query = 5, 4, 6
    config.eval.n_query, config.eval.precision = 2, "bf16"
    network = evaluate.Network(SETTINGS, None, None, None, "runs/x/best/7", 7)
    comparison = Comparison("runs/x/best/7", Overlap(["a"], None), {"data.crop": {}}, "01ab")
    each = {c: Intervals(value, 0.5, None, None) for c, value in ((0, 0.125), (2, 0.375))}
    confusion = np.int64([[1, 0, 7], [0, 0, 0], [0, 5, 3]])
    wrong = WrongQuery(2, 1, 9, 1)
    score = Cell(
        3,
        1,
        1000,
        Intervals(0.5, 0.25, 0.3, None, "", "few classes"),
        1.5,
        each,
        confusion,
        np.full((3, 3), 8),
        (wrong,),
    )
    evaluation = build.evaluation(config)
    record = evaluation_output.record_of(evaluation, network, comparison, "static", score)
    name = evaluation_output.file_name(evaluation.name, record)
    assert name == "eval_test_3way_1shot_static.json"
    other = record | {"variant": "trained", "shot": 5}
    assert evaluation_output.file_name(evaluation.name, other) == "eval_test_3way_5shot.json"
    assert (record["way"], record["shot"], record["query"]) == (3, 1, 2)
    assert (record["ci95"], record["ci95_videos"], record["ci95_classes"]) == (0.25, 0.3, None)
    assert (record["no_ci95_classes"], record["seconds"]) == ("few classes", 1.5)
    assert record["classes"] == ["test_motion3", "test_motion5", "test_motion8"]
    assert record["confusion"] == [[1, 0, 7], [0, 0, 0], [0, 5, 3]]
    pairs = [(pair["true"], pair["predicted"], pair["rate"]) for pair in record["confused_pairs"]]
    assert pairs == [
        ("test_motion3", "test_motion8", 7 / 8),
        ("test_motion8", "test_motion5", 5 / 8),
    ]
    assert record["always_wrong"] == [
        {
            "class": "test_motion8",
            "video": "test_motion8/1.mp4",
            "asked": 9,
            "taken_for": "test_motion5",
        }
    ]
    assert record["per_class"] == {"test_motion3": 0.125, "test_motion8": 0.375}
    assert record["trained_classes_tested"] == ["a"]
    assert record["validated_classes_tested"] is None
    assert record["settings_not_as_in_training"] == {"data.crop": {}}
    assert record["list_digest"] == "01ab"
    assert record["method"] == "molo"
    assert record["precision"] == record["config"]["eval"]["precision"] == "bf16"
    assert record["config"]["init_from"] == "runs/x"


def test_a_training_that_would_be_tested_on_classes_of_its_first_weights_does_not_begin(
    config, tmp_path
):
    test = build.open_split(config, "test").split
    origin = Provenance().followed_by(ListRecord.of("folder", test), None, {})
    with Checkpoints(tmp_path / "first/checkpoints") as checkpoints:
        checkpoints.save(3, meta=origin.to_meta(), model={"w": np.zeros(2)})
    config.init_from = str(tmp_path / "first")
    message = r"first/checkpoints/3 was trained on 3 classes \('test_motion3', 'test_motion5', 'te"
    with pytest.raises(MoloError, match=message):
        evaluate.check_data(build.evaluation(config), tmp_path / "second")
    # A work folder that has a checkpoint goes on from that.
    config.init_from = ""
    with pytest.raises(MoloError, match=message):
        evaluate.check_data(build.evaluation(config), tmp_path / "first")
    config.eval.on_trained_classes = "warn"
    evaluate.check_data(build.evaluation(config), tmp_path / "first")


def test_evaluation_data_are_checked_for_every_number_of_shots(config):
    config.eval.shots = (1, 3)
    assert list(build.evaluation(config).data.samplers) == [(3, 1), (3, 3)]
    config.eval.shots = (1, 5)
    with pytest.raises(MoloError, match="5-shot with 1 query needs 6"):
        build.evaluation(config)
    config.eval.n_way, config.eval.shots = 4, (1,)
    with pytest.raises(MoloError, match="3 classes"):
        build.evaluation(config)
