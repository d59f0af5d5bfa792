"""Where a training begins or goes on, and which of its networks it keeps."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_stand_in import StandIn, best_meta, crash, lines, small_config, weights

from molo_jax import resume
from molo_jax.engine.checkpoint import Checkpoints
from molo_jax.errors import MoloError
from molo_jax.provenance import Provenance


@pytest.fixture
def stand_in():
    return StandIn()


@pytest.fixture
def config(motion_data):
    return small_config(motion_data)


def given_weights(value):
    """Stands in for the reading of files; returns the part, and the list of its calls."""
    asked = []

    def first_weights(params, batch_stats):
        asked.append(value)
        return jax.tree.map(lambda x: jnp.full_like(x, value), (params, batch_stats))

    return first_weights, asked


def test_a_training_starts_from_the_given_weights_once_and_then_from_its_checkpoint(
    stand_in, config, tmp_path, caplog
):
    caplog.set_level("INFO", logger="absl")
    first_weights, asked = given_weights(100)
    config.init_from, config.train.steps = "x.pth", 1
    stand_in.train(config, tmp_path, first_weights=first_weights)
    step, kernel = weights(tmp_path / "checkpoints")
    assert step == 1
    np.testing.assert_allclose(kernel, 100 + 1 / 3, rtol=1e-6)
    config.train.steps = 2
    stand_in.train(config, tmp_path, first_weights=first_weights)
    assert asked == [100]
    assert "init_from is not used again" in caplog.text
    np.testing.assert_allclose(weights(tmp_path / "checkpoints")[1], 100 + 6 / 3, rtol=1e-6)


def test_a_best_network_is_on_disk_before_the_state_behind_it(
    stand_in, config, tmp_path, monkeypatch
):
    opened, save, seen = {}, Checkpoints.save, []
    stand_in.accuracies = iter((0.5, 0.7))

    def noted(self, step, **items):
        opened[self.folder.name] = self
        if self.folder.name == "checkpoints" and "best" in opened:
            seen.append((step, opened["best"]._writing, opened["best"].saved_step))
        save(self, step, **items)

    monkeypatch.setattr(Checkpoints, "save", noted)
    config.train.steps, config.train.eval_every, config.train.checkpoint_every = 2, 1, 1
    stand_in.train(config, tmp_path)
    # Of each step: nothing is being written, and its network is kept.
    assert seen == [(1, None, 1), (2, None, 2)]


def test_going_on_reads_no_imagenet_weights(stand_in, config, tmp_path):
    stand_in.train(config, tmp_path)
    config.model.pretrained, config.train.steps = "/nowhere/resnet18.pth", 8
    stand_in.train(config, tmp_path)
    assert weights(tmp_path / "checkpoints")[0] == 8
    with pytest.raises(MoloError, match=r"/nowhere/resnet18\.pth does not exist"):
        stand_in.train(config, tmp_path / "new")
    assert not list((tmp_path / "new").glob("*"))


@pytest.mark.parametrize("place", ["best", "checkpoints"])
def test_a_converted_checkpoint_in_the_work_folder_is_left_alone(stand_in, config, tmp_path, place):
    model = {"params": {"outc": {"kernel": jnp.zeros((2, 3))}}}
    meta = {"architecture": {"backbone": "resnet18", "num_classes": 3}, "config": {}}
    with Checkpoints(tmp_path / place) as checkpoints:
        checkpoints.save(0, meta=meta | {"source": "x.pyth"}, model=model)
    message = rf"{place}/0 was converted from x\.pyth .* with --config\.init_from=FOLDER"
    with pytest.raises(MoloError, match=message):
        stand_in.train(config, tmp_path)
    with Checkpoints(tmp_path / place, read_only=True) as checkpoints:
        assert checkpoints.latest_step() == 0


def test_weights_that_are_not_finite_are_not_saved(stand_in, config, tmp_path):
    def spoil(state, metrics):
        params = jax.tree.map(lambda x: x.at[1, 2].set(jnp.inf), state.params)
        return dataclasses.replace(state, params=params), metrics

    stand_in.at_step = {4: spoil}
    with pytest.raises(MoloError, match="step 4: params/outc/kernel is not finite"):
        stand_in.train(config, tmp_path)
    assert weights(tmp_path / "checkpoints")[0] == 2


def test_a_checkpoint_that_is_not_finite_is_refused_when_training_goes_on(
    stand_in, config, tmp_path
):
    stand_in.train(config, tmp_path)
    with resume.open_training(stand_in.parts(config), tmp_path) as (start, _):
        items = resume._items(start.state)
    items["model"]["params"] = jax.tree.map(lambda x: x * jnp.inf, items["model"]["params"])
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(8, meta=checkpoints.meta(7), **items)
    config.train.steps = 9
    message = r"checkpoints/8 is of no use: its model .* not finite .*outc/kernel"
    with pytest.raises(MoloError, match=message):
        stand_in.train(config, tmp_path)


def test_validation_keeps_the_best_weights_not_the_last(stand_in, config, tmp_path):
    config.train.eval_every = 3
    stand_in.accuracies = iter([0.25, 0.75, 0.5])
    stand_in.train(config, tmp_path)
    val = [(line["step"], line["accuracy"]) for line in lines(tmp_path) if line["kind"] == "val"]
    assert val == [(3, 0.25), (6, 0.75), (7, 0.5)]
    assert weights(tmp_path / "best")[0] == 6
    with Checkpoints(tmp_path / "best", read_only=True) as best:
        meta = best.meta(6)
    assert meta["val_accuracy"] == 0.75
    assert meta["architecture"]["num_classes"] == 3
    assert meta["config"]["train"]["steps"] == 7


def test_of_equally_accurate_networks_the_first_stays_the_best(stand_in, config, tmp_path):
    config.train.eval_every = 3
    stand_in.accuracies = iter([0.75, 0.75, 0.75])
    stand_in.train(config, tmp_path)
    assert weights(tmp_path / "best")[0] == 3


def go_on(stand_in, config, tmp_path, accuracies):
    """Trains to step 7 at an easy validation, then two more steps with the present settings."""
    easy = config.copy_and_resolve_references()
    easy.train.n_way, easy.train.eval_every = 2, 7
    stand_in.accuracies = iter([1.0])
    stand_in.train(easy, tmp_path)
    assert best_meta(tmp_path)[0] == 7
    config.train.steps, config.train.eval_every = 9, 9
    stand_in.accuracies = iter(accuracies)
    stand_in.train(config, tmp_path)
    assert next(stand_in.accuracies, None) is None
    return best_meta(tmp_path)


def test_a_network_that_was_best_at_an_easier_task_is_validated_again_and_may_be_replaced(
    stand_in, config, tmp_path, caplog
):
    step, meta = go_on(stand_in, config, tmp_path, accuracies=[0.75, 0.8125])
    assert (step, meta["val_accuracy"]) == (9, 0.8125)
    message = "best/7 was the best at another validation (train.n_way was 2, is 3); at that of now"
    assert f"{message} it has 0.7500 instead of 1.0000" in caplog.text


def test_a_network_that_is_still_the_best_stays_so_with_its_new_accuracy(
    stand_in, config, tmp_path, caplog
):
    step, meta = go_on(stand_in, config, tmp_path, accuracies=[0.875, 0.8125])
    assert (step, meta["val_accuracy"], meta["validation"]["train.n_way"]) == (7, 0.875, 3)
    # At the same task it is not validated once more.
    caplog.clear()
    config.train.steps = 10
    stand_in.accuracies = iter([0.5])
    stand_in.train(config, tmp_path)
    assert best_meta(tmp_path) == (7, meta)
    assert "another validation" not in caplog.text


def test_a_best_network_that_does_not_say_how_it_was_validated_is_validated_again(
    stand_in, config, tmp_path, caplog
):
    config.train.eval_every = 7
    stand_in.accuracies = iter([0.75])
    stand_in.train(config, tmp_path)
    step, meta = best_meta(tmp_path)
    with Checkpoints(tmp_path / "best") as best:
        best.replace_meta(step, {key: meta[key] for key in meta if key != "validation"})
    config.train.steps = config.train.eval_every = 8
    stand_in.accuracies = iter([0.25, 0.5])
    stand_in.train(config, tmp_path)
    assert best_meta(tmp_path)[0] == 8
    assert "of which it does not say how it was done" in caplog.text


def test_without_validation_it_is_said_that_the_old_best_network_stays(
    stand_in, config, tmp_path, caplog
):
    config.train.eval_every = 7
    stand_in.accuracies = iter([0.75])
    stand_in.train(config, tmp_path)
    config.train.steps, config.train.eval_every = 8, 0
    stand_in.train(config, tmp_path)
    assert best_meta(tmp_path)[0] == 7
    assert "best/7 stays what an evaluation uses" in caplog.text


def swapped_lists(motion_data, folder):
    """Copies the lists; class 5 of train and class 5 of val have changed places."""
    folder.mkdir()
    for split, other in (("train", "val"), ("val", "train"), ("test", "test")):
        text = (motion_data / f"splits/{split}_few_shot.txt").read_text()
        text = text.replace(f"{split}_motion5/", f"{other}_motion5/")
        (folder / f"{split}_few_shot.txt").write_text(text)
    return str(folder)


def test_a_checkpoint_remembers_its_classes_and_refuses_to_go_on_with_others(
    stand_in, config, tmp_path, motion_data
):
    config.train.eval_every = 7
    stand_in.accuracies = iter([0.75])
    stand_in.train(config, tmp_path / "run")
    meta = best_meta(tmp_path / "run")[1]
    origin = Provenance.of_meta(meta)
    (trained,), (validated,) = origin.trained, origin.validated
    assert [each.name for each in trained.classes] == [f"train_motion{n}" for n in (3, 5, 8)]
    assert [each.name for each in validated.classes] == [f"val_motion{n}" for n in (3, 5, 8)]
    assert origin.init_from == ""
    assert origin.seen["data.num_frames"] == 2
    config.data.split_dir = swapped_lists(motion_data, tmp_path / "lists")
    config.train.steps = 8
    message = "checkpoints/7 was trained on other classes: 'train_motion5' then, 'val_motion5' in"
    with pytest.raises(MoloError, match=message):
        stand_in.train(config, tmp_path / "run")
    assert weights(tmp_path / "run/checkpoints")[0] == 7


def test_a_training_does_not_begin_with_weights_that_were_trained_on_its_val_classes(
    stand_in, config, tmp_path, motion_data, caplog
):
    stand_in.train(config, tmp_path / "first")
    first_weights, _ = given_weights(1)
    config.data.split_dir = swapped_lists(motion_data, tmp_path / "lists")
    config.init_from, config.train.eval_every = str(tmp_path / "first"), 7
    message = r"first/checkpoints/7 was trained on 1 class \('train_motion5'\), which the val split"
    with pytest.raises(MoloError, match=message):
        stand_in.train(config, tmp_path / "second", first_weights=first_weights)
    assert not (tmp_path / "second").exists()
    config.eval.on_trained_classes, config.data.num_frames = "warn", 3
    stand_in.accuracies = iter([0.75])
    stand_in.train(config, tmp_path / "second", first_weights=first_weights)
    source = tmp_path / "first/checkpoints/7"
    assert f"not as in the training of {source}: data.num_frames was 2, is 3" in caplog.text
    assert "was trained on 1 class ('train_motion5'), which the val split holds" in caplog.text
    origin = Provenance.of_meta(best_meta(tmp_path / "second")[1])
    assert origin.init_from == str(tmp_path / "first")
    names = [[each.name for each in stage.classes] for stage in origin.trained]
    assert names == [
        ["train_motion3", "train_motion5", "train_motion8"],
        ["train_motion3", "val_motion5", "train_motion8"],
    ]


def test_the_best_of_a_run_that_died_is_remembered(stand_in, config, tmp_path):
    config.train.eval_every = 2
    stand_in.accuracies, stand_in.at_step = iter([0.75]), {4: crash}
    with pytest.raises(RuntimeError):
        stand_in.train(config, tmp_path)
    stand_in.accuracies, stand_in.at_step = iter([0.5, 0.25, 0.5]), {}
    stand_in.train(config, tmp_path)
    assert weights(tmp_path / "best")[0] == 2


def test_a_best_network_from_after_the_last_checkpoint_is_found_again(stand_in, config, tmp_path):
    config.train.eval_every, config.train.checkpoint_every = 3, 2
    stand_in.accuracies, stand_in.at_step = iter([0.75]), {4: crash}
    with pytest.raises(RuntimeError):
        stand_in.train(config, tmp_path)
    assert weights(tmp_path / "best")[0] == 3
    # Step 3 is done again, and what it gives this time is what counts.
    stand_in.accuracies, stand_in.at_step = iter([0.25, 0.5, 0.125]), {}
    stand_in.train(config, tmp_path)
    assert weights(tmp_path / "best")[0] == 6


def test_the_best_network_before_one_that_is_not_found_again_is_kept(stand_in, config, tmp_path):
    config.train.eval_every, config.train.checkpoint_every = 2, 4
    stand_in.accuracies, stand_in.at_step = iter([0.5, 0.25, 0.75]), {7: crash}
    with pytest.raises(RuntimeError):
        stand_in.train(config, tmp_path)
    assert weights(tmp_path / "best")[0] == 6
    # From step 4 on, as on a GPU that adds in another order.
    stand_in.accuracies, stand_in.at_step = iter([0.25, 0.125]), {}
    stand_in.train(config, tmp_path)
    assert weights(tmp_path / "best")[0] == 2
    assert best_meta(tmp_path)[1]["val_accuracy"] == 0.5


def test_a_best_network_of_other_settings_without_a_checkpoint_is_refused(
    stand_in, config, tmp_path
):
    config.train.eval_every = 7
    stand_in.accuracies = iter([0.75])
    stand_in.train(config, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    config.seed = 5
    with pytest.raises(MoloError, match=r"best/7 is of a training with other settings.* remove"):
        stand_in.train(config, tmp_path)
    assert weights(tmp_path / "best")[0] == 7


def test_another_architecture_in_the_folder_is_refused_before_training(stand_in, config, tmp_path):
    stand_in.train(config, tmp_path)
    config.model.backbone = "resnet34"
    message = "backbone is resnet18 in the checkpoint and resnet34 here"
    with pytest.raises(MoloError, match=message):
        stand_in.train(config, tmp_path)


def test_changed_values_are_named_in_one_warning(stand_in, config, tmp_path, caplog):
    stand_in.train(config, tmp_path)
    config.train.steps = 8
    config.optimizer.factors = (1.0, 0.5, 0.25)
    stand_in.train(config, tmp_path)
    warnings = [record.getMessage() for record in caplog.records if "changed" in record.msg]
    assert len(warnings) == 1
    assert "train.steps was 7, is 8" in warnings[0]
    assert "optimizer.factors was [1.0, 0.1, 0.01], is [1.0, 0.5, 0.25]" in warnings[0]
    assert weights(tmp_path / "checkpoints")[0] == 8
