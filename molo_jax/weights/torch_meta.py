"""What a checkpoint says of its training, as the text `cfg` of an official PyTorch file.

The official code writes its own configuration there and never reads it. A network that was trained
here takes its record along, so that a file which comes back still names its data and its step.
"""

import json
from collections.abc import Mapping
from typing import Any

# The one key of the text, by which a record is known.
_MARK = "molo_jax"
# What is of the folder of a training, not of its network.
_LEFT_OUT = ("source", "epoch", "official_cfg", "unlogged")
_LARGEST_STEP = 2**62
_SECTIONS = ("dataset", "model", "data", "eval")
# Sections that old records lack, or new ones.
_OTHER_SECTIONS = ("method", "loss", "optimizer", "train")


def to_cfg(meta: Mapping[str, Any]) -> str:
    """Returns a checkpoint's record as text; nothing for one that says nothing of a training."""
    if not meta.get("config"):
        return ""
    record = {key: value for key, value in meta.items() if key not in _LEFT_OUT}
    return json.dumps({_MARK: record}, sort_keys=True)


def from_cfg(cfg: str) -> dict[str, Any]:
    """Returns the record that `to_cfg` made a text of; an empty one for any other text."""
    try:
        meta = json.loads(cfg)[_MARK]
        good = type(meta["step"]) is int and 0 <= meta["step"] <= _LARGEST_STEP
        good = good and all(isinstance(meta["config"][name], dict) for name in _SECTIONS)
        good = good and all(isinstance(meta["config"].get(n, {}), dict) for n in _OTHER_SECTIONS)
        good = good and isinstance(meta["architecture"], dict)
        good = good and isinstance(meta["architecture"].get("method", ""), str)
    # Whatever a text that is no such record can be.
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return {}
    return meta if good else {}
