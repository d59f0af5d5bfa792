import jax
import jax.numpy as jnp
import numpy as np
import pytest

from molo_jax import assembly
from molo_jax.config import base_config
from molo_jax.errors import MoloError, UsageError
from molo_jax.model import LossWeights, MoLoConfig


def test_the_networks_configuration_takes_every_field_from_its_section():
    config = base_config()
    config.model.update(
        backbone="resnet34",
        positional_a=7.0,
        positional_b=0.5,
        motion_weight=0.2,
        single_direction=True,
        dropout_position=0.01,
        dropout_attention=0.02,
        dropout_feedforward=0.03,
    )
    assert assembly.model_config(config, 31) == MoLoConfig(
        num_classes=31,
        backbone="resnet34",
        positional_a=7.0,
        positional_b=0.5,
        motion_weight=0.2,
        single_direction=True,
        dropout_position=0.01,
        dropout_attention=0.02,
        dropout_feedforward=0.03,
    )


def test_the_loss_weights_take_every_field_from_their_section():
    config = base_config()
    config.loss.update(classification=0.5, contrast=0.25, reconstruction=0.125, accumulation=3)
    assert assembly.loss_weights(config) == LossWeights(0.5, 0.25, 0.125, accumulation=3)


def test_the_official_schedule_counts_accumulation_iterations_a_step():
    config = base_config()
    config.loss.accumulation = 2
    config.optimizer.update(base_lr=0.8, warmup_start_lr=0.4, steps_iter=10)
    # Step 2 ends with iteration 5, halfway from 0.4 to 0.8.
    assert assembly.schedule(config)(jnp.int32(2)) == np.float32(0.6)


def test_the_cosine_schedule_ends_with_the_training():
    config = base_config()
    config.optimizer.update(schedule="cosine", base_lr=0.8, warmup_steps=4)
    config.train.steps = 10
    rates = jax.vmap(assembly.schedule(config))(jnp.array([1, 7, 10]))
    np.testing.assert_allclose(rates, [0.4, 0.4, 0], atol=1e-7)


def test_a_microbatch_that_does_not_divide_the_step_is_refused_with_both_numbers():
    config = base_config()
    config.train.episodes_per_step, config.train.microbatch = 16, 3
    with pytest.raises(UsageError, match=r"episodes_per_step is 16; it must be divisible by .* 3"):
        assembly.train_mesh(config)


@pytest.mark.parametrize(
    ("episodes", "microbatch", "available", "used"),
    [(16, 2, 8, 8), (16, 4, 8, 4), (6, 1, 4, 3), (1, 1, 8, 1), (12, 1, 8, 6)],
)
def test_as_many_devices_are_used_as_share_the_episodes_evenly(
    monkeypatch, episodes, microbatch, available, used
):
    monkeypatch.setattr(jax, "devices", lambda: list(range(available)))
    monkeypatch.setattr(assembly, "make_mesh", list)
    config = base_config()
    config.train.episodes_per_step, config.train.microbatch = episodes, microbatch
    assert assembly.train_mesh(config) == list(range(used))


def test_a_window_is_in_the_middle_outside_training_and_its_clips_are_the_same_everywhere(
    motion_data,
):
    config = base_config()
    config.data.root, config.data.split_dir = (
        str(motion_data / "videos"),
        str(motion_data / "splits"),
    )
    dataset = assembly.open_split(config, "test")
    assert assembly.eval_sampling(config) == "segments"
    assert assembly.eval_sampler(config, dataset, n_way=3, n_shot=2).frame_draw == "episode"
    config.data.sampling = "window"
    assert assembly.eval_sampling(config) == "window_middle"
    assert assembly.eval_sampler(config, dataset, n_way=3, n_shot=2).frame_draw == "video"


def test_a_split_with_too_few_videos_for_the_shots_is_refused_before_training(motion_data):
    config = base_config()
    config.data.root, config.data.split_dir = (
        str(motion_data / "videos"),
        str(motion_data / "splits"),
    )
    dataset = assembly.open_split(config, "test")
    with pytest.raises(MoloError, match=r"class 3 .*4 .*4-shot with 1 query needs 5"):
        assembly.eval_sampler(config, dataset, n_way=3, n_shot=4)


def test_augmentation_takes_its_strengths_from_the_configuration():
    config = base_config()
    config.data.crop = 32
    for name in ("flip", "brightness", "contrast", "saturation", "hue", "grey"):
        config.augment[name] = 0.0
    arrays = {
        "support": np.full((2, 3, 32, 32, 3), 51, np.uint8),
        "query": np.full((4, 3, 32, 32, 3), 102, np.uint8),
        "support_labels": np.int32([1, 0]),
        "query_labels": np.int32([0, 0, 1, 1]),
        "support_classes": np.int32([9, 7]),
        "query_classes": np.int32([7, 7, 9, 9]),
    }
    episode = assembly.train_preprocess(config)(arrays, assembly.train_key(config)(5))
    np.testing.assert_allclose(episode.support, (0.2 - 0.45) / 0.225, rtol=1e-5)
    np.testing.assert_allclose(episode.query, (0.4 - 0.45) / 0.225, rtol=1e-5)
    np.testing.assert_array_equal(episode.query_classes, [7, 7, 9, 9])
    config.augment.brightness = 0.5
    brightened = assembly.train_preprocess(config)(arrays, assembly.train_key(config)(5))
    assert not np.allclose(brightened.query, episode.query)
    np.testing.assert_array_equal(brightened.support, episode.support)
