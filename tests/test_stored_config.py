import json

from molo_jax.config import base_config
from molo_jax.stored_config import changes, flattened


def test_values_have_dotted_keys_and_are_as_json_gives_them_back():
    stored = {"seed": 1, "eval": {"shots": (1, 5), "deep": {"x": None}}}
    assert flattened(stored) == {"seed": 1, "eval.shots": [1, 5], "eval.deep.x": None}


def test_a_checkpoint_from_before_a_key_existed_has_its_default():
    now, defaults = (base_config().to_dict() for _ in range(2))
    stored = json.loads(json.dumps(now))
    del stored["init_from"], stored["optimizer"]["boundaries"]
    assert changes(stored, now, defaults) == []
    now["init_from"], now["eval"]["shots"] = "x.pth", (5,)
    assert changes(stored, now, defaults) == [
        "eval.shots was [1, 5], is [5]",
        "init_from was '', is 'x.pth'",
    ]


def test_a_key_that_nothing_tells_was_none():
    assert changes({}, {"train": {"new": 3}}, {}) == ["train.new was None, is 3"]
