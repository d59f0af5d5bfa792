"""A training around a stand-in for the network: lines, signals, and what stops it."""

import json
import os
import shutil
import signal
import time
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from event_files import events
from training_stand_in import StandIn, best_meta, crash, lines, small_config, weights

from molo_jax import build, train
from molo_jax.analysis.outcome import Outcome
from molo_jax.engine.evaluation import Score
from molo_jax.engine.metrics import MetricLog
from molo_jax.errors import MoloError
from molo_jax.stopping import Interrupted


@pytest.fixture
def stand_in():
    return StandIn()


@pytest.fixture
def config(motion_data):
    return small_config(motion_data)


def test_each_step_gets_the_next_episodes_and_lines_are_means_over_steps(
    stand_in, config, tmp_path
):
    stand_in.train(config, tmp_path)
    assert stand_in.episodes == [[2 * step, 2 * step + 1] for step in range(7)]
    found = [(line["step"], line["kind"], line["loss"], line["match"]) for line in lines(tmp_path)]
    assert found == [(3, "train", 5, 2), (6, "train", 17, 5), (7, "train", 25, 7)]
    step, kernel = weights(tmp_path / "checkpoints")
    assert step == 7
    expected = np.float32(4)
    for episodes in stand_in.episodes:
        expected = np.float32(expected + np.float32(sum(episodes) / 3))
    np.testing.assert_allclose(kernel, expected, rtol=1e-6)


def test_a_run_that_died_goes_on_and_ends_as_one_that_did_not(stand_in, config, tmp_path):
    stand_in.train(config, tmp_path / "whole")
    whole = stand_in.episodes
    stand_in.episodes = []
    stand_in.at_step = {6: crash}
    with pytest.raises(RuntimeError, match="power cut"):
        stand_in.train(config, tmp_path / "died")
    stand_in.at_step = {}
    stand_in.train(config, tmp_path / "died")
    # The last checkpoint was that of step 4, so steps 5 and 6 are done again.
    assert stand_in.episodes == whole[:6] + whole[4:]
    assert lines(tmp_path / "died") == lines(tmp_path / "whole")
    for mine, theirs in zip(
        weights(tmp_path / "died/checkpoints"),
        weights(tmp_path / "whole/checkpoints"),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_a_finished_run_does_nothing_more(stand_in, config, tmp_path, caplog):
    stand_in.train(config, tmp_path)
    before = lines(tmp_path)
    stand_in.episodes.clear()
    stand_in.train(config, tmp_path)
    assert stand_in.episodes == []
    assert lines(tmp_path) == before


def test_a_loss_that_is_not_finite_stops_with_step_and_term_and_saves_nothing(
    stand_in, config, tmp_path
):
    stand_in.at_step = {4: lambda state, metrics: (state, metrics | {"match": jnp.float32("nan")})}
    with pytest.raises(MoloError, match="step 4: the loss term 'match' is nan"):
        stand_in.train(config, tmp_path)
    assert weights(tmp_path / "checkpoints")[0] == 2
    assert [line["step"] for line in lines(tmp_path)] == [3]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_current_step_and_ends_in_one_message(
    stand_in, config, tmp_path, number, code
):
    def kill(state, metrics):
        os.kill(os.getpid(), number)
        return state, metrics

    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(number)
    stand_in.at_step = {3: kill}
    with pytest.raises(Interrupted, match="after step 3, which is saved") as stopped:
        stand_in.train(config, tmp_path)
    assert stopped.value.exit_code == code
    assert signal.getsignal(number) == before
    assert weights(tmp_path / "checkpoints")[0] == 3
    stand_in.at_step = {}
    stand_in.train(config, tmp_path)
    assert [episodes[0] // 2 for episodes in stand_in.episodes] == [0, 1, 2, 3, 4, 5, 6]
    assert [line["match"] for line in lines(tmp_path)] == [2, 5, 7]


@pytest.mark.parametrize(
    ("step", "what"),
    [
        (1, "saving; the first step is still compiling, which can take minutes. A second"),
        (2, "saving. A second SIGINT (Ctrl-C) stops at once, without saving"),
    ],
)
def test_a_signal_is_acknowledged_with_what_happens_until_the_training_has_stopped(
    stand_in, config, tmp_path, caplog, step, what
):
    def kill(state, metrics):
        kill_and_wait(caplog)
        return state, metrics

    caplog.set_level("INFO", logger="absl")
    stand_in.at_step = {step: kill}
    with pytest.raises(Interrupted):
        stand_in.train(config, tmp_path)
    assert f"SIGTERM received: stopping after this step and {what}" in caplog.text
    assert "the first step compiles the network" in caplog.text


def test_a_second_interrupt_names_the_checkpoint_that_there_is():
    assert train.lost(None).endswith("without saving; there is no checkpoint")
    assert train.lost(7).endswith("without saving; the last checkpoint is that of step 7")


def test_a_signal_during_a_validation_says_that_the_validation_ends_first(
    stand_in, config, tmp_path, caplog
):
    def scored(params, batch_stats):
        kill_and_wait(caplog)
        return Score(0.5, 0.01, 400, {})

    caplog.set_level("INFO", logger="absl")
    config.train.eval_every = 3
    with pytest.raises(Interrupted, match="after step 3, which is saved"):
        stand_in.train(config, tmp_path, scored=scored)
    assert "; a validation is running, which ends first. A second" in caplog.text
    assert best_meta(tmp_path)[0] == 3


def test_a_validation_goes_to_tensorboard_with_its_episode_classes_and_margins(
    stand_in, config, tmp_path
):
    config.train.eval_every = 3
    made = build.training(config)
    first = next(iter(made.validation_data.samplers.values()))
    episode = first(0)
    videos = np.stack([order[: first.need] for order in episode.orders])[None]
    zeros = np.zeros((1, 3, videos.shape[2] - 1))
    outcome = Outcome(episode.classes[None], videos, 1, zeros.astype(int), zeros - 1)
    score = SimpleNamespace(accuracy=0.5, ci95=0.01, episodes=1, per_class={}, outcome=outcome)
    stand_in.train(config, tmp_path, scored=lambda *_: score)
    shown = [
        (event.step, value.tag)
        for event in events(tmp_path)
        for value in event.summary.value
        if value.tag.startswith("val")
    ]
    names = sorted(made.validation_data.dataset.split.class_names[c] for c in episode.classes)
    tags = ["val/accuracy", "val/ci95", *(f"val_class/{name}" for name in names)]
    tags += ["val/episode", "val/classes", "val/margin", "val/accuracy_of_classes"]
    assert shown == [(step, tag) for step in (3, 6, 7) for tag in tags]


def kill_and_wait(caplog):
    """Sends SIGTERM, and waits until the thread that answers it has said so."""
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(1000):
        if "SIGTERM" not in caplog.text:
            time.sleep(0.01)


def test_a_training_that_fails_before_its_first_line_leaves_nothing(stand_in, config, tmp_path):
    stand_in.at_step = {1: crash}
    with pytest.raises(RuntimeError, match="power cut"):
        stand_in.train(config, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_gradient_that_is_not_finite_stops_the_training_though_the_loss_is(
    stand_in, config, tmp_path
):
    spoilt = {"grad_norm": jnp.float32("inf")}
    stand_in.at_step = {4: lambda state, metrics: (state, metrics | spoilt)}
    with pytest.raises(MoloError, match="step 4: the gradient norm is inf"):
        stand_in.train(config, tmp_path)
    assert weights(tmp_path / "checkpoints")[0] == 2


def test_an_unusable_video_stops_the_training_unless_it_may_be_skipped(
    stand_in, config, tmp_path, motion_data, caplog
):
    videos = tmp_path / "videos"
    shutil.copytree(motion_data / "videos", videos)
    (videos / "train_motion5/2.mp4").write_text("not a video")
    config.data.source = "videos"
    config.data.root = str(videos)
    with pytest.raises(MoloError, match=r"train_motion5/2\.mp4"):
        stand_in.train(config, tmp_path / "fail")
    config.data.on_bad_video = "skip"
    stand_in.train(config, tmp_path / "skip")
    assert "1 videos of the train split were left out" in caplog.text


def test_metrics_are_json_numbers(stand_in, config, tmp_path):
    stand_in.train(config, tmp_path)
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    rate = float(build.schedule(config)(jnp.int32(2)))
    assert first["learning_rate"] == pytest.approx(rate)
    assert first["episodes_per_second"] > 0


def test_beside_the_progress_bar_stand_the_numbers_that_the_method_has(tmp_path):
    method = SimpleNamespace(losses=("spread",))
    parts = SimpleNamespace(steps=5, episodes_per_step=2, method=method, schedule=lambda step: 0.25)
    with MetricLog(tmp_path, 0) as metrics:
        display = train.Display(parts, metrics, 0)
        display.bar.disable, shown = False, []
        display.bar.set_postfix_str = shown.append
        display.write(1, {"loss": 3.0, "spread": 2.0}, 4.0)
        display.bar.disable = True
    assert shown == ["loss 3  learning_rate 0.25  episodes_per_second 8"]
