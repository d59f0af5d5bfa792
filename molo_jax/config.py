"""Every key of the configuration: its default, its meaning and its limits.

`configs/*.py` start from `base_config()` and change values; the command line changes single
ones (`--config.train.steps=50`). The configuration is locked, so a misspelt key is an error,
and a test fails on a key that no code reads.

The defaults are those of the official SSv2 setting where the paper has one.
"""

import os
from collections.abc import Mapping

from ml_collections import ConfigDict

from molo_jax.backbones import BACKBONES, backbone_info
from molo_jax.errors import UsageError
from molo_jax.methods.settings import (
    DEFAULT_METHOD,
    Settings,
    own_fields,
    settings_class,
)
from molo_jax.weights.imagenet import IMAGENET, WEIGHT_FILES

SAMPLINGS = ("segments", "window")
BAD_VIDEO_POLICIES = ("fail", "skip")
DATA_SOURCES = ("prepared", "videos")
FRAME_DRAWS = ("episode", "video")
OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("official", "cosine")
CONTROLS = ("untrained", "static")
REFUSE = "refuse"
ON_TRAINED_CLASSES = (REFUSE, "warn")


def base_config(method: str = DEFAULT_METHOD) -> ConfigDict:
    """Returns the locked configuration that every `configs/*.py` starts from.

    Args:
        method: name of the method, whose settings are in the section `method`.

    Raises:
        UsageError: there is no such method.
    """
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
            "method": _method(method),
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
        # The network of single frames: resnet18, resnet34 or resnet50.
        "backbone": "resnet50",
        # What the backbone's training begins with, unless there is an init_from: the path of a
        # torchvision checkpoint, imagenet (downloads torchvision's IMAGENET1K_V1 weights), or
        # nothing (random weights).
        "pretrained": "",
    }


def _method(name: str) -> dict:
    return {
        # The method, which is chosen behind the name of the configuration file
        # (--config=configs/synthetic.py:NAME), for every method has settings of its own.
        "name": name,
        **{field: each.default for field, each in own_fields(_known(name)).items()},
    }


def with_settings(config: ConfigDict, **values: object) -> None:
    """Sets those of the given settings that the method has; the others are another method's."""
    for name, value in values.items():
        if name in config.method:
            config.method[name] = value


def _known(method: str) -> type[Settings]:
    try:
        return settings_class(method)
    except ValueError as error:
        raise UsageError(str(error)) from error


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
        # videos only: seconds after which the reading of one video is given up and the video counts
        # as unusable. Looked at after each packet and each frame that is decoded.
        "timeout": 600.0,
        # Videos decoded at the same time; 0: one for each CPU core.
        "workers": 0,
        # Batches decoded ahead of the one in use.
        "prefetch": 2,
    }


def _augment() -> dict:
    return {
        # Of query clips in training: probability of a horizontal flip and of a grayscale step.
        "flip": 0.5,
        "gray": 0.3,
        # Of the same: brightness, contrast and saturation times U(1 - x, 1 + x); the hue moves
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
        # Episodes of a validation; they have the way and shot of the training. Of two equally
        # accurate networks the earlier one stays the best.
        "val_episodes": 400,
    }


def _optimizer() -> dict:
    return {
        # adam, or sgd (without momentum).
        "name": "adam",
        # official: linear warm-up, then factors at boundaries, in units of steps_iter.
        # cosine: linear warm-up over warmup_steps, then half a cosine down to 0.
        "schedule": "official",
        # The highest learning rate.
        "base_lr": 1e-4,
        # official only: the rate that the warm-up begins with; iterations of a unit of the
        # schedule; from which unit on which factor multiplies base_lr.
        "warmup_start_lr": 2e-5,
        "steps_iter": 6000,
        "boundaries": (0, 6, 9),
        "factors": (1.0, 0.1, 0.01),
        # cosine only: optimizer steps over which the rate rises from 0 to base_lr.
        "warmup_steps": 0,
        # official only: iterations that are one optimizer step. The official code counts iterations
        # of one episode on each GPU, and accumulates so many before an update. How many episodes
        # an update really averages is train.episodes_per_step.
        "accumulation": 4,
        # L2, added to the gradient (not decoupled as in AdamW).
        "weight_decay": 1e-3,
        # Adam: decay rates of its two moments, and what is added to the root of the second.
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-8,
    }


def _eval() -> dict:
    return {
        # The split that is evaluated: train, val or test.
        "split": "test",
        # What to do where a class of the val or test split is one that the network was trained on,
        # or a class of the test split is one that it was chosen by, and where the lists of two
        # splits share a class or a video. refuse: stop; warn: go on, and name these classes in the
        # log, below the table and in the result files.
        "on_trained_classes": REFUSE,
        # One result for each number of shots.
        "shots": (1, 5),
        # Classes of an episode.
        "n_way": 5,
        # Queries of a class.
        "n_query": 1,
        # Episodes of each result.
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
    _check_method(config)
    _check_weights(config)
    _check_numbers(config)
    _check_finite(config)
    _check_most(config)
    _check_clip(config)
    _check_schedule(config)
    _check_memory(config)
    _check_products(config)


def _require(good: bool, name: str, value: object, expected: str) -> None:
    if not good:
        raise UsageError(f"config.{name} is {value!r}; {expected}")


def _check_choices(config: ConfigDict) -> None:
    for name, choices in {
        "model.backbone": tuple(BACKBONES),
        "data.source": DATA_SOURCES,
        "data.sampling": SAMPLINGS,
        "data.on_bad_video": BAD_VIDEO_POLICIES,
        "optimizer.name": OPTIMIZERS,
        "optimizer.schedule": SCHEDULES,
        "eval.frame_draw": FRAME_DRAWS,
        "eval.on_trained_classes": ON_TRAINED_CLASSES,
        "eval.split": ("train", "val", "test"),
    }.items():
        value = value_of(config, name)
        _require(value in choices, name, value, f"choose one of {', '.join(choices)}")
    for control in config.eval.controls:
        expected = f"it may hold {' and '.join(CONTROLS)}, one flag for each on the command line"
        _require(control in CONTROLS, "eval.controls", config.eval.controls, expected)


def _check_method(config: ConfigDict) -> None:
    """Checks the settings of the method, whose limits stand beside them."""
    known = _known(config.method.name)
    fields = own_fields(known)
    if set(config.method) - {"name"} != fields.keys():
        raise UsageError(
            f"config.method.name is {config.method.name!r}, and the section config.method has the"
            " settings of another method; choose the method behind the name of the file,"
            f" --config=FILE:{config.method.name}"
        )
    for field, each in fields.items():
        name, value, limits = f"method.{field}", config.method[field], each.metadata
        if "choices" in limits:
            choices = limits["choices"]
            _require(value in choices, name, value, f"choose one of {', '.join(choices)}")
        if "at_least" in limits and "below" not in limits:
            least = limits["at_least"]
            _require(value >= least, name, value, f"it must be at least {least}")
        if "above" in limits:
            _require(_SMALLEST <= value <= _FLOAT32, name, value, _ABOVE_ZERO_EXPECTED)
        if "below" in limits:
            good = limits["at_least"] <= value <= _BELOW_ONE_LIMIT
            _require(good, name, value, _BELOW_ONE_EXPECTED)


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
    "data.num_frames": 1,
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
    "optimizer.accumulation": 1,
    "optimizer.weight_decay": 0,
    "eval.n_way": 2,
    "eval.n_query": 1,
    "eval.episodes": 2,
    "eval.clip_batch": 1,
    "eval.episode_batch": 1,
    "eval.cache_mib": 1,
}
_ABOVE_ZERO = ("data.timeout", "optimizer.base_lr", "optimizer.eps")
_FRACTIONS = (
    "augment.flip",
    "augment.gray",
    "augment.brightness",
    "augment.contrast",
    "augment.saturation",
)
_BELOW_ONE = (
    "optimizer.b1",
    "optimizer.b2",
)


# What is larger cannot be meant or cannot be had, and would fail late, or without a clear reason.
_INT32 = 2**31 - 1
_KEPT_IN_32_BITS = _INT32, "it is kept in 32 bits"
_FLOAT32 = 3.4e38
_SMALLEST = 1.2e-38
# The largest number below 1 that 32 bits hold.
_BELOW_ONE_LIMIT = 1 - 2**-24
_BELOW_ONE_EXPECTED = "it must be at least 0 and below 1, also in 32 bits (at most 0.99999994)"
_ABOVE_ZERO_EXPECTED = "it must be above 0 and finite, and at least 1.2e-38, or 32 bits make it 0"
_PIXELS = "a larger square of pixels does not fit a network on any device"
_CLIPS = "no data set has so many for each episode"
_PRECISE = "its 95 % interval is below 0.05 % then"
_AT_MOST = {
    "seed": (2**32 - 1, "random keys are made of 32 bits"),
    "data.resize": (4096, _PIXELS),
    "data.workers": (1024, "each is a thread"),
    "data.prefetch": (1024, "each batch takes memory"),
    "train.n_way": (10_000, _CLIPS),
    "train.n_shot": (10_000, _CLIPS),
    "train.n_query": (10_000, _CLIPS),
    "train.val_episodes": (10_000_000, _PRECISE),
    "optimizer.steps_iter": (10_000_000, "the rate of each is computed before training"),
    "eval.n_way": (10_000, _CLIPS),
    "eval.n_query": (10_000, _CLIPS),
    "eval.episodes": (10_000_000, _PRECISE),
}


def _check_finite(config: ConfigDict) -> None:
    """Checks what holds for all numbers: they are finite, and 32 bits hold them."""
    for name in config_keys(config):
        value = value_of(config, name)
        for number in value if isinstance(value, tuple | list) else (value,):
            if isinstance(number, float):
                expected = "it must be finite, and below 3.4e38, the largest number of 32 bits"
                _require(abs(number) <= _FLOAT32, name, value, expected)


def _check_most(config: ConfigDict) -> None:
    for name in config_keys(config):
        value = value_of(config, name)
        if type(value) is int:
            most, reason = _AT_MOST.get(name, _KEPT_IN_32_BITS)
            least = f"{_AT_LEAST[name]} to " if name in _AT_LEAST else "at most "
            _require(value <= most, name, value, f"it must be {least}{most:,}: {reason}")


def _check_products(config: ConfigDict) -> None:
    """Checks numbers that the training counts to, each of them in 32 bits."""
    train, iterations = config.train, config.optimizer.accumulation
    most = _INT32 // train.episodes_per_step
    expected = (
        f"with train.episodes_per_step={train.episodes_per_step} it must be at most {most:,}:"
        " episodes are numbered in 32 bits"
    )
    _require(train.steps <= most, "train.steps", train.steps, expected)
    # The progress of the official schedule counts twice.
    most = _INT32 // (2 * iterations)
    expected = (
        f"with optimizer.accumulation={iterations} it must be at most {most:,}: the schedule counts"
        " the iterations in 32 bits"
    )
    _require(train.steps <= most, "train.steps", train.steps, expected)
    optimizer = config.optimizer
    most = _INT32 // optimizer.steps_iter
    expected = (
        f"with optimizer.steps_iter={optimizer.steps_iter} none may be above {most:,}: the schedule"
        " counts the iterations in 32 bits"
    )
    good = max(optimizer.boundaries) <= most
    _require(good, "optimizer.boundaries", optimizer.boundaries, expected)


def _check_memory(config: ConfigDict) -> None:
    """Compares the frames that are decoded ahead with the memory of this machine.

    It takes more than the frames; but a machine that has not even the room for them is too small.
    """
    train, data = config.train, config.data
    clips = train.episodes_per_step * train.n_way * (train.n_shot + train.n_query)
    batches = {
        "train.episodes_per_step": (train.episodes_per_step, clips),
        "eval.clip_batch": (config.eval.clip_batch, config.eval.clip_batch),
    }
    room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name, (value, count) in batches.items():
        needed = count * data.num_frames * data.resize**2 * 3 * (1 + data.prefetch)
        expected = (
            f"the frames of {1 + data.prefetch} batches (data.prefetch and the one in use) of"
            f" {count:,} clips would take {needed / 2**30:,.1f} GiB, and this machine has"
            f" {room / 2**30:,.1f} GiB of memory"
        )
        _require(needed <= room, name, value, expected)


def _check_numbers(config: ConfigDict) -> None:
    for name, least in _AT_LEAST.items():
        value = value_of(config, name)
        _require(value >= least, name, value, f"it must be at least {least}")
    for name in _ABOVE_ZERO:
        value = value_of(config, name)
        _require(_SMALLEST <= value <= _FLOAT32, name, value, _ABOVE_ZERO_EXPECTED)
    for name in _FRACTIONS:
        value = value_of(config, name)
        _require(0 <= value <= 1, name, value, "it must be between 0 and 1")
    for name in _BELOW_ONE:
        value = value_of(config, name)
        _require(0 <= value <= _BELOW_ONE_LIMIT, name, value, _BELOW_ONE_EXPECTED)
    hue = config.augment.hue
    _require(0 <= hue <= 0.5, "augment.hue", hue, "it must be between 0 and 0.5")
    shots = config.eval.shots
    good = bool(shots) and all(type(shot) is int and shot >= 1 for shot in shots)
    _require(good, "eval.shots", shots, "it must hold whole numbers of at least 1")
    _require(max(shots) <= 10_000, "eval.shots", shots, f"each must be at most 10,000: {_CLIPS}")
    _require(len(set(shots)) == len(shots), "eval.shots", shots, "each number may occur once")


def _check_clip(config: ConfigDict) -> None:
    crop, resize, frames = config.data.crop, config.data.resize, config.data.num_frames
    stride = backbone_info(config.model.backbone).stride
    below, above = crop // stride * stride, crop // stride * stride + stride
    nearest = f"{below} or {above}" if below else f"{above}"
    _require(
        crop > 0 and crop % stride == 0,
        "data.crop",
        crop,
        f"it must be divisible by {stride}, the stride of the backbone; for example {nearest}",
    )
    _require(resize >= crop, "data.resize", resize, f"it must be at least data.crop, {crop}")
    known = _known(config.method.name)
    least, most = known.least_frames, known.most_frames
    expected = f"{known.title} needs at least {least}"
    _require(frames >= least, "data.num_frames", frames, expected)
    expected = f"{known.title} takes at most {most}, for which it has positions"
    _require(most is None or frames <= most, "data.num_frames", frames, expected)


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
    good = all(factor >= _SMALLEST for factor in factors)
    _require(good, "optimizer.factors", factors, "all must be above 0, also in 32 bits")


def value_of(config: ConfigDict, name: str) -> object:
    """Returns the value of the key with a dotted name."""
    section, _, key = name.rpartition(".")
    return config[section][key] if section else config[key]
