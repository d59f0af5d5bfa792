"""How checkpoints named their settings before every method had a section of its own.

Those checkpoints are all of MoLo. Its settings stood in the section `model`, and the weights of its
loss in the section `loss`.
"""

from collections.abc import Mapping
from typing import Any

from molo_jax.methods.settings import MoLoSettings, own_fields

_OLD_SECTION, _SECTION = "model.", "method."


def key_of_now(key: str) -> str:
    """Returns the dotted key that a setting of the network has now: `method.…` for `model.…`."""
    old = key.startswith(_OLD_SECTION)
    return f"{_SECTION}{key.removeprefix(_OLD_SECTION)}" if old else key


def config_of_now(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration of a checkpoint with the keys that it would have now.

    The weight of the reconstruction was multiplied by the accumulation in the loss; now the
    configuration has the product. A configuration that has a method is returned as it is.
    """
    if "method" in stored or "loss" not in stored:
        return dict(stored)
    own, loss = own_fields(MoLoSettings), dict(stored["loss"])
    accumulation = loss.pop("accumulation", None)
    if accumulation is not None and "reconstruction" in loss:
        loss["reconstruction"] *= accumulation
    model = stored.get("model", {})
    values = {key: value for key, value in {**model, **loss}.items() if key in own}
    optimizer = dict(stored.get("optimizer", {}))
    if accumulation is not None:
        optimizer["accumulation"] = accumulation
    return {key: value for key, value in stored.items() if key != "loss"} | {
        "model": {key: value for key, value in model.items() if key not in own},
        "method": {"name": MoLoSettings.method, **values},
        "optimizer": optimizer,
    }
