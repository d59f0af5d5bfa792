"""Checkpoints from before every method had a section: their settings by the names of now."""

import json

from molo_jax.config import base_config
from molo_jax.old_checkpoints import config_of_now, key_of_now
from molo_jax.stored_config import changes

OLD_MODEL = ("positional_a", "positional_b", "motion_weight", "single_direction")
OLD_MODEL += ("dropout_position", "dropout_attention", "dropout_feedforward")


def old_config(**loss):
    """The configuration that such a checkpoint holds, with the default values of then."""
    stored = json.loads(json.dumps(base_config().to_dict()))
    method = stored.pop("method")
    stored["model"] |= {name: method[name] for name in OLD_MODEL}
    del stored["optimizer"]["accumulation"]
    weights = {"classification": 0.8, "contrast": 0.05, "reconstruction": 0.1, "accumulation": 4}
    return stored | {"loss": weights | loss}


def test_the_defaults_of_then_are_those_of_now():
    now = base_config().to_dict()
    assert changes(old_config(), now, now) == []


def test_other_values_are_named_by_their_keys_of_now():
    stored = old_config(reconstruction=0.25, accumulation=2, contrast=0.1)
    stored["model"] |= {"positional_a": 512.0, "backbone": "resnet18"}
    now = base_config().to_dict()
    assert sorted(changes(stored, now, now)) == [
        "method.contrast was 0.1, is 0.05",
        "method.positional_a was 512.0, is 10.0",
        "method.reconstruction was 0.5, is 0.4",
        "model.backbone was 'resnet18', is 'resnet50'",
        "optimizer.accumulation was 2, is 4",
    ]


def test_a_configuration_of_now_and_one_without_a_loss_stay_as_they_are():
    now = json.loads(json.dumps(base_config().to_dict()))
    assert config_of_now(now) == now
    assert config_of_now({"data": {"crop": 32}}) == {"data": {"crop": 32}}
    assert (key_of_now("model.positional_a"), key_of_now("data.crop")) == (
        "method.positional_a",
        "data.crop",
    )
