"""Configurations as checkpoints and result files hold them: nested dictionaries of JSON values."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from molo_jax.old_checkpoints import config_of_now


def flattened(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values by their dotted keys, as they are when they come back from JSON."""
    return dict(_flat(json.loads(json.dumps(config)), ""))


def _flat(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def changes(
    stored: Mapping[str, Any], now: Mapping[str, Any], defaults: Mapping[str, Any]
) -> list[str]:
    """Names the values that differ from those of a checkpoint: `train.steps was 7, is 8`.

    Args:
        stored: the configuration of the checkpoint.
        now: that of now.
        defaults: what is younger than the checkpoint had its default value then.
    """
    before = flattened(defaults) | flattened(config_of_now(stored))
    return [
        f"{key} was {before.get(key)!r}, is {value!r}"
        for key, value in flattened(now).items()
        if before.get(key) != value
    ]
