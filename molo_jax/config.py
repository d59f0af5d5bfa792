"""Every key of the configuration: its default, its meaning and its limits.

`configs/*.py` start from `base_config()` and change values; the command line changes single
ones (`--config.train.steps=50`). The configuration is locked, so a misspelt key is an error,
and a test fails on a key that no code reads.

The defaults are those of the official SSv2 setting where the paper has one.
"""

import math
from collections.abc import Mapping

from ml_collections import ConfigDict

from molo_jax.errors import UsageError

MAX_POSITIONS = 20
IMAGENET = "imagenet"
WEIGHT_FILES = (".pth", ".pyth", ".safetensors")
BACKBONES = ("resnet18", "resnet34", "resnet50")
SAMPLINGS = ("segments", "window")
BAD_VIDEO_POLICIES = ("fail", "skip")
DATA_SOURCES = ("prepared", "videos")
FRAME_DRAWS = ("episode", "video")
SCHEDULES = ("official", "cosine")
CONTROLS = ("untrained", "static")


def base_config() -> ConfigDict:
    """Returns the locked configuration that every `configs/*.py` starts from."""
    config = ConfigDict(
        {
            # Every random choice is a function of this number: weights, episodes, frames,
            # augmentation, dropout.
            "seed": 0,
            # Weights to begin with: a molo_jax checkpoint (work folder, folder of checkpoints, or
            # one of them) or an official .pth, .pyth or .safetensors file. With --mode=eval these
            # are evaluated; a training that has a checkpoint goes on from that instead.
            "init_from": "",
            # The auxiliary classifier begins anew, so that init_from may have been trained on
            # another number of classes.
            "init_new_classifier": False,
            "dataset": _dataset(),
            "model": _model(),
            "loss": _loss(),
            "data": _data(),
            "augment": _augment(),
            "train": _train(),
            "optimizer": _optimizer(),
            "eval": _eval(),
        }
    )
    return config.lock()


def _dataset() -> dict:
    return {
        # Name in logs and result files.
        "name": "folder",
        # What to do when the data are absent; part of the error message.
        "how_to_get": "Put the videos into DIR/<class>/, in any of the usual formats.",
    }


def _model() -> dict:
    return {
        # resnet18, resnet34 or resnet50.
        "backbone": "resnet50",
        # What the backbone's training begins with, unless there is an init_from: the path of a
        # torchvision checkpoint, imagenet (downloads torchvision's IMAGENET1K_V1 weights), or
        # nothing (random weights).
        "pretrained": "",
        # Positional encoding: tokens * sqrt(width / positional_a) + positional_b * encoding.
        "positional_a": 10.0,
        "positional_b": 1.0,
        # Weight of the motion distance beside the appearance distance.
        "motion_weight": 0.3,
        # Only the query-to-support half of the bidirectional distance.
        "single_direction": False,
        # Dropout rates after the positional encoding, the attention and in the feed-forward.
        "dropout_position": 0.1,
        "dropout_attention": 0.2,
        "dropout_feedforward": 0.05,
    }


def _loss() -> dict:
    return {
        # Weights of the auxiliary classifier, the long-short contrast and the reconstruction.
        "classification": 0.8,
        "contrast": 0.05,
        "reconstruction": 0.1,
        # Episodes that the official code accumulates on a GPU before an update. Quirk kept: it
        # multiplies the reconstruction weight and counts the iterations of its schedule. How
        # many episodes an update really averages is train.episodes_per_step.
        "accumulation": 4,
    }


def _data() -> dict:
    return {
        # prepared: the frames that `python -m molo_jax.prepare` has stored, several times as fast;
        # videos: the video files themselves.
        "source": "prepared",
        # prepared only: the folder that was its --out.
        "prepared": "data/prepared",
        # videos only: folder of the videos that the split lists name, in any layout.
        "root": "data/videos",
        # videos only: folder of train_few_shot.txt, val_few_shot.txt and test_few_shot.txt; empty:
        # the official ones of dataset.name, fetched once.
        "split_dir": "data/splits",
        # Frames are resized to a square of this side, whatever their aspect ratio.
        "resize": 256,
        # Side of the square cut out of it; divisible by 32.
        "crop": 224,
        # Frames of a clip.
        "num_frames": 8,
        # segments: one random frame of each of num_frames equal parts; window: equidistant
        # frames of a stretch that lasts as long at any frame rate (Kinetics).
        "sampling": "segments",
        # fail: stop at the first unusable video; skip: leave it out of its class and count it.
        "on_bad_video": "fail",
        # videos only: seconds after which a video that is still being read counts as unusable.
        "video_seconds": 600.0,
        # Videos decoded at the same time; 0: one for each CPU core.
        "workers": 0,
        # Batches decoded ahead of the one in use.
        "prefetch": 2,
    }


def _augment() -> dict:
    return {
        # Of query clips in training. Probability of a horizontal flip and of a greyscale step.
        "flip": 0.5,
        "grey": 0.3,
        # Brightness, contrast and saturation are multiplied by U(1 - x, 1 + x); the hue moves
        # by U(-x, x) of its circle.
        "brightness": 0.5,
        "contrast": 0.5,
        "saturation": 0.5,
        "hue": 0.25,
    }


def _train() -> dict:
    return {
        # An episode: classes, support videos of a class, query videos of a class.
        "n_way": 5,
        "n_shot": 1,
        "n_query": 6,
        # Optimizer steps, and the episodes that the gradient of one is averaged over.
        "steps": 12500,
        "episodes_per_step": 16,
        # Episodes a device processes at once; more is faster until the memory is full.
        "microbatch": 1,
        # Steps between log lines, validations (0: none) and checkpoints.
        "log_every": 10,
        "eval_every": 500,
        "checkpoint_every": 100,
        # Episodes of a validation; they have the way and shot of the training.
        "val_episodes": 400,
    }


def _optimizer() -> dict:
    return {
        # official: linear warm-up, then factors at boundaries, in units of steps_iter.
        # cosine: linear warm-up over warmup_steps, then half a cosine down to 0.
        "schedule": "official",
        "base_lr": 1e-4,
        # official only.
        "warmup_start_lr": 2e-5,
        "steps_iter": 6000,
        "boundaries": (0, 6, 9),
        "factors": (1.0, 0.1, 0.01),
        # cosine only.
        "warmup_steps": 0,
        # L2, added to the gradient (not decoupled as in AdamW).
        "weight_decay": 1e-3,
        # Adam.
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-8,
    }


def _eval() -> dict:
    return {
        # train, val or test.
        "split": "test",
        # One result for each number of shots.
        "shots": (1, 5),
        "n_way": 5,
        # Queries of a class.
        "n_query": 1,
        "episodes": 10000,
        # episode: frames are drawn anew in every episode (official); video: once for a video,
        # so that each is decoded and embedded once however many episodes it is in.
        "frame_draw": "episode",
        # Evaluated beside the trained network: untrained, static (one frame repeated).
        "controls": (),
        # Clips embedded at once, and episodes matched at once, on each device.
        "clip_batch": 16,
        "episode_batch": 64,
        # Bound on the embedded clips kept in memory, in MiB.
        "cache_mib": 1024,
    }


def config_keys(config: Mapping, prefix: str = "") -> list[str]:
    """Returns the dotted names of all values of `config`, in their order."""
    names = []
    for key, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            names += config_keys(value, f"{prefix}{key}.")
        else:
            names.append(f"{prefix}{key}")
    return names


def validate(config: ConfigDict) -> None:
    """Checks the values that need no data and no devices.

    Raises:
        UsageError: naming the first wrong value and what it should be.
    """
    _check_choices(config)
    _check_weights(config)
    _check_numbers(config)
    _check_clip(config)
    _check_schedule(config)


def _require(good: bool, name: str, value: object, expected: str) -> None:
    if not good:
        raise UsageError(f"config.{name} is {value!r}; {expected}")


def _check_choices(config: ConfigDict) -> None:
    for name, choices in {
        "model.backbone": BACKBONES,
        "data.source": DATA_SOURCES,
        "data.sampling": SAMPLINGS,
        "data.on_bad_video": BAD_VIDEO_POLICIES,
        "optimizer.schedule": SCHEDULES,
        "eval.frame_draw": FRAME_DRAWS,
        "eval.split": ("train", "val", "test"),
    }.items():
        value = _value(config, name)
        _require(value in choices, name, value, f"choose one of {', '.join(choices)}")
    for control in config.eval.controls:
        expected = f"it may hold {' and '.join(CONTROLS)}, one flag for each on the command line"
        _require(control in CONTROLS, "eval.controls", config.eval.controls, expected)


def _check_weights(config: ConfigDict) -> None:
    pretrained = config.model.pretrained
    good = pretrained in ("", IMAGENET) or pretrained.lower().endswith(WEIGHT_FILES)
    expected = f"it must be {IMAGENET}, a path that ends in {', '.join(WEIGHT_FILES)}, or empty"
    _require(good, "model.pretrained", pretrained, expected)
    anew = config.init_new_classifier
    expected = "it is for weights from --config.init_from, which is empty"
    _require(bool(config.init_from) or not anew, "init_new_classifier", anew, expected)


_AT_LEAST = {
    "seed": 0,
    "loss.accumulation": 1,
    "loss.classification": 0,
    "loss.contrast": 0,
    "loss.reconstruction": 0,
    "model.motion_weight": 0,
    "model.positional_b": 0,
    "data.num_frames": 2,
    "data.workers": 0,
    "data.prefetch": 1,
    "train.n_way": 2,
    "train.n_shot": 1,
    "train.n_query": 1,
    "train.steps": 1,
    "train.episodes_per_step": 1,
    "train.microbatch": 1,
    "train.log_every": 1,
    "train.eval_every": 0,
    "train.checkpoint_every": 1,
    "train.val_episodes": 2,
    "optimizer.warmup_start_lr": 0,
    "optimizer.warmup_steps": 0,
    "optimizer.steps_iter": 1,
    "optimizer.weight_decay": 0,
    "eval.n_way": 2,
    "eval.n_query": 1,
    "eval.episodes": 2,
    "eval.clip_batch": 1,
    "eval.episode_batch": 1,
    "eval.cache_mib": 1,
}
_ABOVE_ZERO = ("data.video_seconds", "model.positional_a", "optimizer.base_lr", "optimizer.eps")
_FRACTIONS = (
    "augment.flip",
    "augment.grey",
    "augment.brightness",
    "augment.contrast",
    "augment.saturation",
)
_BELOW_ONE = (
    "model.dropout_position",
    "model.dropout_attention",
    "model.dropout_feedforward",
    "optimizer.b1",
    "optimizer.b2",
)


def _check_numbers(config: ConfigDict) -> None:
    for name, least in _AT_LEAST.items():
        value = _value(config, name)
        _require(value >= least, name, value, f"it must be at least {least}")
    for name in _ABOVE_ZERO:
        value = _value(config, name)
        _require(0 < value < math.inf, name, value, "it must be above 0 and finite")
    for name in _FRACTIONS:
        value = _value(config, name)
        _require(0 <= value <= 1, name, value, "it must be between 0 and 1")
    for name in _BELOW_ONE:
        value = _value(config, name)
        _require(0 <= value < 1, name, value, "it must be at least 0 and below 1")
    hue = config.augment.hue
    _require(0 <= hue <= 0.5, "augment.hue", hue, "it must be between 0 and 0.5")
    shots = config.eval.shots
    good = bool(shots) and all(type(shot) is int and shot >= 1 for shot in shots)
    _require(good, "eval.shots", shots, "it must hold whole numbers of at least 1")
    _require(len(set(shots)) == len(shots), "eval.shots", shots, "each number may occur once")


def _check_clip(config: ConfigDict) -> None:
    crop, resize, frames = config.data.crop, config.data.resize, config.data.num_frames
    below, above = crop // 32 * 32, crop // 32 * 32 + 32
    nearest = f"{below} or {above}" if below else f"{above}"
    _require(
        crop > 0 and crop % 32 == 0,
        "data.crop",
        crop,
        f"it must be divisible by 32, the stride of the backbone; for example {nearest}",
    )
    _require(resize >= crop, "data.resize", resize, f"it must be at least data.crop, {crop}")
    _require(
        frames + 1 <= MAX_POSITIONS,
        "data.num_frames",
        frames,
        f"at most {MAX_POSITIONS - 1} fit: the class token and the frames share"
        f" {MAX_POSITIONS} positions",
    )


def _check_schedule(config: ConfigDict) -> None:
    optimizer = config.optimizer
    boundaries, factors = optimizer.boundaries, optimizer.factors
    ascending = list(boundaries) == sorted(set(boundaries))
    good = bool(boundaries) and boundaries[0] == 0 and ascending
    good = good and all(type(boundary) is int for boundary in boundaries)
    expected = "it must hold ascending whole numbers, the first of them 0"
    _require(good, "optimizer.boundaries", boundaries, expected)
    expected = f"it needs one value for each of the {len(boundaries)} optimizer.boundaries"
    _require(len(factors) == len(boundaries), "optimizer.factors", factors, expected)
    _require(all(f > 0 for f in factors), "optimizer.factors", factors, "all must be above 0")


def _value(config: ConfigDict, name: str) -> object:
    section, _, key = name.rpartition(".")
    return config[section][key] if section else config[key]
