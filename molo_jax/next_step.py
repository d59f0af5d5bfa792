"""What comes after a preparation: the command that trains, and the weights that it starts from."""

import shlex
from collections.abc import Container

from absl import flags
from ml_collections import ConfigDict

from molo_jax import cli, config_files
from molo_jax.backbones import backbone_info
from molo_jax.benchmarks import default_sampling
from molo_jax.presets import config_file
from molo_jax.weights.imagenet import IMAGENET

# The keys of the configuration that a flag of the preparation speaks of.
_KEYS = {
    "n_way": ("train.n_way", "eval.n_way"),
    "train_n_shot": ("train.n_shot",),
    "train_n_query": ("train.n_query",),
    "n_shot": ("eval.shots",),
    "n_query": ("eval.n_query",),
    "resize": ("data.resize",),
    "num_frames": ("data.num_frames",),
}
# Stands for the network of somebody who has test classes only.
_TRAINED = "TRAINED"


def next_step(splits: Container[str], has_losses: bool) -> str:
    """The lines that say how it goes on.

    Args:
        splits: the splits that were prepared.
        has_losses: whether there are videos that could not be prepared.
    """
    lines = [f"next      {_command(splits, has_losses)}"]
    if "train" not in splits:
        lines.append(f"{_TRAINED}   the work folder or the weights of a trained network")
    else:
        lines += _about_weights()
    return "\n".join(lines)


def _command(splits: Container[str], has_losses: bool) -> str:
    """The command that trains on the prepared data, with what is not as in the configuration."""
    value = {name: flags.FLAGS[name].value for name in ("dataset", "out", "keep", *_KEYS)}
    changed = [name for name in _KEYS if value[name] != flags.FLAGS[name].default]
    overrides = {"data.prepared": shlex.quote(str(value["out"]))}
    overrides |= {key: value[name] for name in changed for key in _KEYS[name]}
    if (config := _config()) and value["resize"]:
        # Crops are divisible by it.
        stride = backbone_info(config.model.backbone).stride
        if config.data.crop > value["resize"] >= stride:
            overrides["data.crop"] = value["resize"] // stride * stride
    if has_losses:
        overrides["data.on_bad_video"] = "skip"
    if value["keep"] == "window" and default_sampling(value["dataset"]) != "window":
        overrides["data.sampling"] = "window"
    mode = ""
    if "train" not in splits:
        mode, overrides["init_from"] = " --mode=eval", _TRAINED
    else:
        mode = "" if "test" in splits else " --mode=train"
        overrides |= {} if "val" in splits else {"train.eval_every": 0}
    arguments = " ".join(f"--config.{key}={value}" for key, value in overrides.items())
    return f"python -m molo_jax.main --config={_config_file()}{mode} {arguments}"


def _config_file() -> str:
    return config_file(flags.FLAGS["dataset"].value)


def _config() -> ConfigDict | None:
    """The configuration of the command; None of a data set that none is packaged for."""
    return cli.load_config(_config_file()) if config_files.find(_config_file()) else None


def _about_weights() -> list[str]:
    """What to do where the ImageNet weights of the configuration are not there yet."""
    config = _config()
    if config is None or config.model.pretrained != IMAGENET:
        return []
    from molo_jax.weights import imagenet

    address, path = imagenet.imagenet_place(config.model.backbone)
    if path.exists():
        return []
    return [
        "weights   the training starts from ImageNet weights, which it will download; without"
        " internet, one of these:",
        f"  put {address} at {path}",
        "  --config.model.pretrained=PATH   such a file elsewhere",
        "  --config.model.pretrained=       random weights",
    ]
