"""An evaluation by a bank of features gives what an evaluation episode by episode gives."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from molo_jax import build, evaluate
from molo_jax.analysis.outcome_file import read_outcomes
from molo_jax.cli import load_config
from molo_jax.engine.mesh import make_mesh
from molo_jax.errors import MoloError
from molo_jax.evaluated import untrained
from molo_jax.evaluator import Evaluator

ROOT = Path(__file__).parents[1]
METHODS = ("molo", "protonet", "hyrsm")
EPISODES = 70


@pytest.fixture
def config(motion_data):
    config = load_config(f"{ROOT}/configs/synthetic.py")
    return small(config, motion_data)


def small(config, motion_data):
    config.data.update(source="videos", num_frames=2)
    config.data.root, config.data.split_dir = (str(motion_data / n) for n in ("videos", "splits"))
    config.eval.update(ways=(2, 3), shots=(1, 2), n_query=2, episodes=EPISODES, controls=())
    return config


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("draws", [1, 2])
def test_every_prediction_is_that_of_the_episode_by_itself(method, draws, motion_data, tmp_path):
    config = small(load_config(f"{ROOT}/configs/synthetic.py:{method}"), motion_data)
    config.eval.draws = draws
    evaluation = build.evaluation(config)
    data = evaluation.data
    network = untrained(dataclasses.replace(evaluation.method, num_classes=3), 0, make_mesh())
    evaluator = Evaluator(data, network.graphdef)
    one_by_one = evaluator.scores(
        network.params, network.batch_stats, episodes=EPISODES, title="one by one"
    )
    found = evaluate._scores(evaluation, tmp_path, evaluator, network, "trained")
    assert list(found) == list(one_by_one) == [(2, 1), (2, 2), (3, 1), (3, 2)]
    for cell, score in found.items():
        ours, direct = score.outcome, one_by_one[cell].outcome
        for name in ("classes", "videos", "predicted"):
            assert np.array_equal(getattr(ours, name), getattr(direct, name)), (cell, name)
        np.testing.assert_allclose(ours.margins, direct.margins, rtol=1e-4, atol=1e-4)
        assert score.accuracy == one_by_one[cell].accuracy
        assert score.per_class == one_by_one[cell].per_class
    # A bank that is there is used.
    again = evaluate._scores(evaluation, tmp_path, evaluator, network, "trained")
    assert np.array_equal(again[3, 2].outcome.margins, found[3, 2].outcome.margins)


def test_a_bad_video_that_the_bank_finds_is_left_out_of_the_episodes(config, motion_data, tmp_path):
    import shutil

    shutil.copytree(motion_data / "videos", tmp_path / "videos")
    (tmp_path / "videos/test_motion5/2.mp4").write_bytes(b"no video")
    config.data.root = str(tmp_path / "videos")
    config.data.on_bad_video = "skip"
    config.eval.update(ways=(3,), shots=(1,))
    evaluation = build.evaluation(config)
    network = untrained(dataclasses.replace(evaluation.method, num_classes=3), 0, make_mesh())
    evaluator = Evaluator(evaluation.data, network.graphdef)
    score = evaluate._scores(evaluation, tmp_path, evaluator, network, "trained")[3, 1]
    position = evaluation.data.dataset.split.class_names.index("test_motion5")
    shown = score.outcome.videos[score.outcome.classes == position]
    assert set(np.unique(shown)) == {0, 1, 3}
    # Of a second evaluation, the bank says it from the start.
    again = build.evaluation(config)
    before = evaluate._scores(again, tmp_path, evaluator, network, "trained")[3, 1]
    assert np.array_equal(before.outcome.predicted, score.outcome.predicted)
    assert again.data.dataset.bad_count == 1


def test_all_files_of_a_sweep_say_the_same(config, tmp_path, monkeypatch, capsys):
    config.eval.controls = ("untrained",)
    network = untrained(
        dataclasses.replace(build.evaluation(config).method, num_classes=3), 0, make_mesh()
    )
    monkeypatch.setattr(evaluate, "load_network", lambda *arguments: network)
    # What a killed evaluation of a control has left.
    (tmp_path / ".control-old/bank").mkdir(parents=True)
    evaluate.evaluate(build.evaluation(config), tmp_path)
    with (tmp_path / "eval_test.csv").open() as file:
        lines = list(csv.DictReader(file))
    header, outcomes = read_outcomes(tmp_path / "eval_test_outcomes.npz")
    assert [(int(x["way"]), int(x["shot"])) for x in lines] == list(outcomes)
    for line in lines:
        way, shot = int(line["way"]), int(line["shot"])
        record = json.loads((tmp_path / f"eval_test_{way}way_{shot}shot.json").read_text())
        outcome = outcomes[way, shot]
        assert record["accuracy"] == float(line["accuracy"]) == outcome.accuracies.mean()
        assert record["ci95"] == float(line["ci95"])
        assert np.sum(record["confusion"]) == outcome.predicted.size == EPISODES * way * 2
        assert np.trace(record["confusion"]) == outcome.correct.sum()
    assert header["class_names"] == ["test_motion3", "test_motion5", "test_motion8"]
    assert header["class_sizes"] == [4, 4, 4]
    assert header["video_names"][1][0] == "test_motion5/0.mp4"
    assert (header["variant"], header["frame_draw"], header["draws"]) == ("trained", "video", 1)
    # The control left its results, and no bank.
    assert (tmp_path / "eval_test_untrained.csv").exists()
    assert len(list((tmp_path / "bank").iterdir())) == 1
    assert not list(tmp_path.glob(".*"))
    printed = capsys.readouterr().out
    assert "trained, 2-way" in printed
    assert "untrained network, 3-way" in printed
    reason = "no interval over videos: the split has 3 classes; an interval over videos needs 5"
    assert f"{reason} (trained 2-way 1-shot and 7 more)" in printed


def test_another_data_set_is_evaluated_under_its_name(config, motion_data, tmp_path, monkeypatch):
    config.eval.dataset = "other set"
    config.eval.root, config.eval.split_dir = config.data.root, config.data.split_dir
    config.data.root, config.data.split_dir = "absent", "absent"
    evaluation = build.evaluation(config)
    assert (evaluation.dataset, evaluation.trained_dataset) == ("other set", "synthetic")
    network = untrained(dataclasses.replace(evaluation.method, num_classes=3), 0, make_mesh())
    monkeypatch.setattr(evaluate, "load_network", lambda *arguments: network)
    evaluate.evaluate(evaluation, tmp_path)
    record = json.loads((tmp_path / "eval_other-set_test_2way_1shot.json").read_text())
    assert record["dataset"] == "other set"
    header, _ = read_outcomes(tmp_path / "eval_other-set_test_outcomes.npz")
    assert header["dataset"] == "other set"
    assert (tmp_path / "eval_other-set_test.csv").exists()


def test_a_class_with_too_few_videos_for_the_shots_is_refused_with_both_numbers(config):
    config.eval.shots = (1, 4)
    with pytest.raises(MoloError, match=r"has 4 usable videos; 4-shot with 2 queries needs 6"):
        build.evaluation(config)
