"""How older checkpoints name settings and tensors.

Before every method had a section of its own, all checkpoints were of MoLo. Its settings stood in
the section `model`, and the weights of its loss in the section `loss`.

Later than that, modules still had the names that they have in the official PyTorch code.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from molo_jax.methods.settings import MoLoSettings, own_fields

_OLD_SECTION, _SECTION = "model.", "method."
# Path of a module, or of a parameter that belongs to none -> its former one; applied in order.
_FORMER = {
    # MoLo
    "contrast_scale": "scale",
    "motion_contrast_scale": "scale_motion",
    "motion_class_token": "class_token_motion",
    "motion_encoder": "temporal_atte_before_motion",
    "motion_reduction": "motion_reduce",
    "motion_convolution": "motion_conv",
    "motion_expansion": "motion_up",
    "motion_decoder/blocks/0": "up1",
    "motion_decoder/blocks/1": "up2",
    "motion_decoder/blocks/2": "up3",
    "motion_decoder/output": "outc",
    # HyRSM
    "relation/query_projection": "temporal_atte/w_qs",
    "relation/key_projection": "temporal_atte/w_ks",
    "relation/value_projection": "temporal_atte/w_vs",
    "relation/norm": "temporal_atte/layer_norm",
    "relation/output_projection": "temporal_atte/fc",
    "fusion": "layer2",
    # MoLo and HyRSM
    "frame_encoder": "temporal_atte_before",
    "qkv_projection": "to_qkv",
    "output_projection": "to_out",
    "classifier": "classification_layer",
    # TRX
    "cross_transformers": "transformers",
    "key_projection": "k_linear",
    "value_projection": "v_linear",
    "key_norm": "norm_k",
    "value_norm": "norm_v",
}
# Whole names between slashes only.
_FORMER_RULES = tuple((re.compile(f"(?<![^/]){now}(?![^/])"), old) for now, old in _FORMER.items())


def key_of_now(key: str) -> str:
    """Returns the dotted key that a setting of the network has now: `method.…` for `model.…`."""
    old = key.startswith(_OLD_SECTION)
    return f"{_SECTION}{key.removeprefix(_OLD_SECTION)}" if old else key


def former_path(path: Sequence[str]) -> tuple[str, ...]:
    """Returns the path of a tensor in checkpoints from before its modules were renamed.

    Args:
        path: names from the root of a stored tree, of weights or of an optimizer's moments.
    """
    name = "/".join(path)
    for rule, old in _FORMER_RULES:
        name = rule.sub(old, name)
    return tuple(name.split("/"))


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
