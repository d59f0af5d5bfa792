"""The limits of the values of the configuration, checked before anything slow is imported."""

import math
import os
from pathlib import Path

from ml_collections import ConfigDict

from molo_jax.backbones import BACKBONES, backbone_info
from molo_jax.config import REFUSE, config_keys, known_method, value_of
from molo_jax.data.clips.episodes import FRAME_DRAWS
from molo_jax.data.clips.source import BAD_VIDEO_POLICIES
from molo_jax.data.lists.splits import STANDARD_SPLITS
from molo_jax.data.video.frames import TRAINING_SAMPLINGS
from molo_jax.engine.runtime import parse_steps
from molo_jax.errors import UsageError
from molo_jax.methods.settings import own_fields
from molo_jax.nn.precision import PRECISIONS
from molo_jax.nn.remat import REMATS
from molo_jax.weights.imagenet import IMAGENET
from molo_jax.weights.torch_files import SUFFIXES, is_torch_path

_CHOICES = {
    "model.backbone": BACKBONES,
    "data.source": ("prepared", "videos"),
    "data.sampling": TRAINING_SAMPLINGS,
    "data.on_bad_video": BAD_VIDEO_POLICIES,
    "train.precision": PRECISIONS,
    "train.remat": REMATS,
    "optimizer.name": ("adam", "sgd"),
    "optimizer.schedule": ("official", "cosine"),
    "eval.frame_draw": FRAME_DRAWS,
    "eval.on_trained_classes": (REFUSE, "warn"),
    "eval.split": STANDARD_SPLITS,
    "eval.precision": PRECISIONS,
}
_CONTROLS = ("untrained", "static")
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
    "eval.draws": 1,
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
    "eval.draws": (1_000, "each is embedded"),
    "eval.episodes": (10_000_000, _PRECISE),
}


def validate(config: ConfigDict, *, here: bool = True) -> None:
    """Checks the values that need no data and no devices.

    Args:
        config: the configuration.
        here: whether it is for this machine, whose memory is looked at then.

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
    if here:
        _check_memory(config)
    _check_products(config)
    _check_chunks(config)
    _check_profile(config)
    _check_draws(config)
    _check_other_dataset(config)


def _check_draws(config: ConfigDict) -> None:
    draws = config.eval.draws
    expected = "with frame_draw=episode frames are drawn anew in every episode; set 1, or"
    expected += " --config.eval.frame_draw=video"
    _require(draws == 1 or config.eval.frame_draw == "video", "eval.draws", draws, expected)
    expected = "the window in the middle of a video (data.sampling=window) has one draw only; set 1"
    _require(draws == 1 or config.data.sampling != "window", "eval.draws", draws, expected)


def _check_other_dataset(config: ConfigDict) -> None:
    """Checks that another data set to evaluate on has a name and a place."""
    places = ("root", "split_dir") if config.data.source == "videos" else ("prepared",)
    for name in ("prepared", "root", "split_dir"):
        value = config.eval[name]
        expected = "it is the place of the data set eval.dataset, which is empty"
        _require(bool(config.eval.dataset) or not value, f"eval.{name}", value, expected)
        expected = f"with data.source={config.data.source} set {' and '.join(places)} of eval alone"
        _require(not value or name in places, f"eval.{name}", value, expected)
    if config.eval.dataset:
        expected = f"it must be the place of the data set {config.eval.dataset!r} that is evaluated"
        _require(bool(config.eval[places[0]]), f"eval.{places[0]}", "", expected)


def _check_profile(config: ConfigDict) -> None:
    value, steps = config.train.profile_steps, config.train.steps
    expected = (
        "it must be FIRST:LAST, two numbers of steps with 1 <= FIRST <= LAST <= train.steps,"
        f" {steps}, or empty"
    )
    try:
        traced = parse_steps(value)
    except ValueError:
        traced = 0, 0
    good = traced is None or 1 <= traced[0] <= traced[1] <= steps
    _require(good, "train.profile_steps", value, expected)


def _require(good: bool, name: str, value: object, expected: str) -> None:
    if not good:
        raise UsageError(f"config.{name} is {value!r}; {expected}")


def _check_choices(config: ConfigDict) -> None:
    for name, choices in _CHOICES.items():
        value = value_of(config, name)
        _require(value in choices, name, value, f"choose one of {', '.join(choices)}")
    for control in config.eval.controls:
        expected = f"it may hold {' and '.join(_CONTROLS)}, one flag for each on the command line"
        _require(control in _CONTROLS, "eval.controls", config.eval.controls, expected)


def _check_method(config: ConfigDict) -> None:
    """Checks the settings of the method, whose limits stand beside them."""
    known = known_method(config.method.name)
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
    good = pretrained in ("", IMAGENET) or is_torch_path(Path(pretrained))
    expected = f"it must be {IMAGENET}, a path that ends in {', '.join(SUFFIXES)}, or empty"
    _require(good, "model.pretrained", pretrained, expected)
    anew = config.init_new_classifier
    expected = "it is for weights from --config.init_from, which is empty"
    _require(bool(config.init_from) or not anew, "init_new_classifier", anew, expected)


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


def _check_chunks(config: ConfigDict) -> None:
    episodes, microbatch = config.train.episodes_per_step, config.train.microbatch
    expected = f"it must be divisible by train.microbatch, {microbatch}"
    _require(episodes % microbatch == 0, "train.episodes_per_step", episodes, expected)


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
    room = _memory()
    for name, (value, count) in batches.items():
        needed = count * data.num_frames * data.resize**2 * 3 * (1 + data.prefetch)
        expected = (
            f"the frames of {1 + data.prefetch} batches (data.prefetch and the one in use) of"
            f" {count:,} clips would take {needed / 2**30:,.1f} GiB, and this machine has"
            f" {room / 2**30:,.1f} GiB of memory"
        )
        _require(needed <= room, name, value, expected)


def _memory() -> float:
    """Bytes of memory of this machine; infinity where the system does not tell."""
    try:
        pages = os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return math.inf
    return pages * os.sysconf("SC_PAGE_SIZE") if pages > 0 else math.inf


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
    _require(bool(config.eval.shots), "eval.shots", config.eval.shots, "it must hold a number")
    for name, least in (("shots", 1), ("ways", 2)):
        numbers = config.eval[name]
        good = all(type(number) is int and number >= least for number in numbers)
        expected = f"it must hold whole numbers of at least {least}"
        _require(good, f"eval.{name}", numbers, expected)
        good = all(number <= 10_000 for number in numbers)
        _require(good, f"eval.{name}", numbers, f"each must be at most 10,000: {_CLIPS}")
        expected = "each number may occur once"
        _require(len(set(numbers)) == len(numbers), f"eval.{name}", numbers, expected)


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
    known = known_method(config.method.name)
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
