import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch

from molo_jax import build
from molo_jax.data import synthetic
from parity_tests import jax_backend, training
from parity_tests.training_checks import (
    DOUBLE_LOSS,
    JAX,
    JAX_DOUBLE,
    RUNS,
    TORCH,
    TORCH_DOUBLE,
    Comparison,
    checks,
    predictions,
    relative_difference,
)
from parity_tests.training_data import (
    Settings,
    make_config,
    read_test_episodes,
    training_batches,
)
from parity_tests.training_report import write_report
from parity_tests.training_runs import JaxRun, TorchRun, torch_threads

# Small clips and few classes, so that all of this takes a minute. Steps over several episodes are
# in test_update.py.
SETTINGS = Settings(steps=40, episodes_per_step=1, way=3, frames=2, backbone="narrow18")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    synthetic.generate(folder, videos_per_class={"train": 2, "val": 1, "test": 3})
    return folder


@pytest.fixture(scope="module")
def trained(data):
    # Each program runs forty times and more.
    with jax_backend.optimized():
        return training.compare(SETTINGS, data)


def _failed(comparison):
    return [check.name for check in checks(comparison) if not check.fine]


def test_forty_float64_steps_give_the_same_losses_and_the_same_predictions(trained):
    assert len(trained.losses[JAX_DOUBLE]["loss"]) == 40
    assert trained.labels.shape == (200, 5)
    assert _failed(trained) == []
    for term, values in trained.losses[JAX_DOUBLE].items():
        np.testing.assert_allclose(
            values, trained.losses[TORCH_DOUBLE][term], rtol=10 * DOUBLE_LOSS
        )
    assert predictions(trained)["float64"].differing == 0
    assert trained.accuracy(JAX_DOUBLE) == trained.accuracy(TORCH_DOUBLE)


def test_the_forty_steps_train_the_network(trained):
    losses = trained.losses[TORCH_DOUBLE]["loss"]
    assert np.mean(losses[-10:]) < 0.95 * np.mean(losses[:10])


def test_forty_float32_steps_drift_apart_as_rounding_explains(trained):
    assert _failed(trained) == []
    assert predictions(trained)["float32, same weights"].differing == 0
    single = trained.loss_difference(JAX, TORCH)
    double = trained.loss_difference(JAX_DOUBLE, TORCH_DOUBLE)
    # The drift is there, and float64 removes it.
    assert single.max() > 1e-5
    assert double.max() < 1e-5 * single.max()


@pytest.fixture(scope="module")
def tensors(data):
    # As in `trained`: the first weights are rounded otherwise without optimizations.
    with jax_backend.optimized():
        return JaxRun(make_config(SETTINGS, data), 64).tensors()


def _double_losses(data, tensors, alter, steps=2):
    """The float64 losses of the reference's first steps, with one thing altered."""
    config = make_config(SETTINGS, data)
    dataset = build.open_split(config, "train")
    with torch_threads():
        run = TorchRun(config, 64, tensors, double=True)
        alter(run)
        batches = itertools.islice(training_batches(config, dataset), steps)
        return [run.step(batch)["loss"] for batch in batches]


def _decay_everything(run):
    run.optimizer = torch.optim.Adam(run.model.parameters(), weight_decay=1e-3)


def _decouple_the_decay(run):
    groups = run.optimizer.param_groups
    run.optimizer = torch.optim.AdamW(
        [{"params": g["params"], "weight_decay": g["weight_decay"]} for g in groups]
    )


def _divide_the_reconstruction(run):
    reconstruction = run.coefficients.reconstruction / 4
    run.coefficients = dataclasses.replace(run.coefficients, reconstruction=reconstruction)


@pytest.mark.parametrize(
    "alter", [_decay_everything, _decouple_the_decay, _divide_the_reconstruction]
)
def test_another_optimizer_or_loss_is_beyond_the_bound_at_the_second_step(
    data, tensors, trained, alter
):
    expected = trained.losses[JAX_DOUBLE]["loss"][:2]
    differences = relative_difference(_double_losses(data, tensors, alter), expected)
    assert differences.max() > 10 * DOUBLE_LOSS


def test_the_unaltered_reference_repeats_its_first_steps(data, tensors, trained):
    losses = _double_losses(data, tensors, alter=lambda run: None)
    np.testing.assert_allclose(losses, trained.losses[TORCH_DOUBLE]["loss"][:2], rtol=1e-12)


def test_clips_embedded_once_give_the_logits_of_whole_episodes(data, tensors):
    config = make_config(dataclasses.replace(SETTINGS, test_episodes=2), data)
    episodes = read_test_episodes(config)
    run = TorchRun(config, 64, tensors, double=True)
    logits = run.logits(episodes)
    for number in range(2):
        support, query = (
            torch.from_numpy(episodes.clips[positions[number]]).movedim(-1, 2).double()
            for positions in (episodes.support, episodes.query)
        )
        labels = torch.from_numpy(episodes.support_labels[number])
        with torch.no_grad():
            output = run.model(support, query, labels, 5, reconstruct=False)
        np.testing.assert_allclose(logits[number], output.logits, rtol=1e-12)


def _made_up(**changes):
    """A comparison of two steps and three queries whose runs are all the same."""
    logits = np.array([[[1.0, 0.5], [0.2, 0.8], [0.6, 0.6 + 1e-9]]])
    same = {
        "losses": {run: {"loss": [2.0, 1.0], "match": [1.0, 0.5]} for run in RUNS},
        "logits": dict.fromkeys(RUNS, logits),
        "same_weights": logits,
        "labels": np.array([[0, 1, 0]]),
        "seconds": dict.fromkeys(RUNS, 1.0),
    }
    return Comparison(**same | changes)


def test_runs_that_are_the_same_are_within_all_bounds():
    assert _failed(_made_up()) == []
    assert _made_up().accuracy(JAX) == pytest.approx(2 / 3)


def test_a_float32_loss_beyond_25_times_the_yardstick_is_found():
    losses = dict(_made_up().losses)
    losses[TORCH] = {"loss": [2.0, 1.0001]}
    losses[JAX] = {"loss": [2.0, 1.0001 * (1 + 2.49e-3)]}
    assert _failed(_made_up(losses=losses)) == []
    losses[JAX] = {"loss": [2.0, 1.0001 * (1 + 2.51e-3)]}
    assert _failed(_made_up(losses=losses)) == ["loss, float32, step 2"]


def test_a_difference_in_float64_is_found_in_losses_and_logits():
    losses, logits = dict(_made_up().losses), dict(_made_up().logits)
    losses[JAX_DOUBLE] = {"loss": [2.0, 1.0 + 1e-6]}
    assert _failed(_made_up(losses=losses)) == ["loss, float64"]
    logits[JAX_DOUBLE] = logits[JAX_DOUBLE] + np.array([1e-5, 0])
    assert "logits, float64" in _failed(_made_up(logits=logits))


def test_a_prediction_may_differ_only_where_rounding_can_decide():
    reference = _made_up().same_weights
    flipped = reference.copy()
    flipped[0, 2] = flipped[0, 2, ::-1]
    compared = predictions(_made_up(same_weights=flipped))["float32, same weights"]
    assert (compared.differing, compared.fine) == (1, True)
    assert compared.widest == pytest.approx(1e-9, rel=1e-3)
    flipped[0, 0] = flipped[0, 0, ::-1]
    compared = predictions(_made_up(same_weights=flipped))["float32, same weights"]
    assert (compared.differing, compared.fine) == (2, False)


def test_the_report_holds_losses_predictions_and_versions(tmp_path, trained):
    found = write_report(tmp_path, SETTINGS, trained)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "result.json"]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["fine"] == all(check.fine for check in found)
    assert result["losses"][JAX]["loss"] == trained.losses[JAX]["loss"]
    predicted = np.array(result["predictions"][TORCH])
    assert (predicted == np.array(result["labels"])).mean() == trained.accuracy(TORCH)
    assert result["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--steps=0", "--steps is 0; expected at least 1"),
        ("--steps=many", "argument --steps: invalid int value: 'many'"),
        ("--frames=20", "--frames is 20; expected 2 to 19"),
        ("--lr=0", "--lr is 0.0; expected a number between 0 and 1"),
        ("--step=3", "unrecognized arguments: --step=3"),
        ("--data=nowhere", "--data=nowhere has no folder videos; make the dataset with"),
    ],
)
def test_a_wrong_flag_is_answered_in_one_line_with_exit_code_2(tmp_path, capsys, flag, message):
    arguments = ["--steps=1", f"--out={tmp_path}", flag]
    assert training.main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_a_folder_that_cannot_be_made_is_answered_with_exit_code_2(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert training.main(["--steps=1", f"--out={tmp_path / 'file' / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert error == f"error: --out={tmp_path / 'file' / 'out'} cannot be made: Not a directory\n"


def test_the_number_of_torch_threads_is_given_back():
    before = torch.get_num_threads()
    with torch_threads():
        assert torch.get_num_threads() >= 1
    assert torch.get_num_threads() == before
