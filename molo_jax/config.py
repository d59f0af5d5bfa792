"""Every key of the configuration: its default and its meaning; its limits are in `config_checks`.

`configs/*.py` start from `base_config()` and change values; the command line changes single
ones (`--config.train.steps=50`). The configuration is locked, so a misspelt key is an error,
and a test fails on a key that no code reads.

The defaults are those of the official SSv2 setting where the paper has one.
"""

import dataclasses
from collections.abc import Mapping

from ml_collections import ConfigDict

from molo_jax.errors import UsageError
from molo_jax.methods.settings import DEFAULT_METHOD, Settings, own_fields, settings_class

REFUSE = "refuse"


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
            "runtime": _runtime(),
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
        **{field: each.default for field, each in own_fields(known_method(name)).items()},
    }


def with_settings(config: ConfigDict, **values: object) -> None:
    """Sets those of the given settings that the method has; the others are another method's."""
    for name, value in values.items():
        if name in config.method:
            config.method[name] = value


def known_method(method: str) -> type[Settings]:
    """Returns the settings of a method.

    Raises:
        UsageError: there is no such method.
    """
    try:
        return settings_class(method)
    except ValueError as error:
        raise UsageError(str(error)) from error


def method_settings(config: ConfigDict, num_classes: int) -> Settings:
    """Returns the settings of the method; `num_classes` counts the training classes."""
    section = config.method
    known = settings_class(section.name)
    own = {name: section[name] for name in own_fields(known)}
    if "frames" in {field.name for field in dataclasses.fields(known)}:
        own["frames"] = config.data.num_frames
    return known(num_classes=num_classes, backbone=config.model.backbone, **own)


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
        # Steps whose computation is traced for TensorBoard's profiler, for example 10:15; empty:
        # none. The first step compiles, so begin later.
        "profile_steps": "",
        # Episodes of a validation; they have the way and shot of the training. Of two equally
        # accurate networks the earlier one stays the best.
        "val_episodes": 400,
        # float32: true float32. tf32: convolutions in TF32 on a GPU that has it, matrix products in
        # float32, as the published numbers were computed (PyTorch's default); on a CPU the same as
        # float32. bf16: activations in bfloat16, the rest in float32.
        "precision": "tf32",
        # What is computed again for the gradient instead of being kept. none: nothing. blocks:
        # residual blocks, stages of the decoder, motion step and temporal encoders keep their
        # inputs alone. full: of the backbone, the inputs of its four stages alone. Less memory, a
        # slower step, the same numbers.
        "remat": "none",
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
        # Several numbers of classes, each with every number of shots, in place of n_way. On the
        # command line, ways and shots may also be ranges: --config.eval.ways=5:10.
        "ways": (),
        # Queries of a class.
        "n_query": 1,
        # Episodes of each result.
        "episodes": 10000,
        # episode: frames are drawn anew in every episode (official); video: once for a video, so
        # that its features are computed once, and kept in the work folder for any number of
        # episodes and evaluations.
        "frame_draw": "episode",
        # With frame_draw=video: independent draws of the frames of each video; an episode shows one
        # of them.
        "draws": 1,
        # Another data set to evaluate on: its name; empty: dataset.name. Then prepared is the
        # folder of its prepared frames (data.source=prepared), or root that of its videos and
        # split_dir that of its lists (data.source=videos; empty: the official ones).
        "dataset": "",
        "prepared": "",
        "root": "",
        "split_dir": "",
        # Evaluated beside the trained network: untrained, static (one frame repeated).
        "controls": (),
        # Clips embedded at once, and episodes matched at once, on each device.
        "clip_batch": 16,
        "episode_batch": 64,
        # Bound on the embedded clips kept in memory, in MiB.
        "cache_mib": 1024,
        # As train.precision, of evaluations and of the validations in a training.
        "precision": "tf32",
    }


def _runtime() -> dict:
    return {
        # On a GPU: the same bits from run to run, and slower. A CPU gives the same bits anyway.
        "deterministic": False,
        # Folder of compiled programs, so that a second start does not compile again. user: one in
        # the user's cache folder; empty: none. JAX_COMPILATION_CACHE_DIR comes first.
        "compilation_cache": "user",
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


def value_of(config: ConfigDict, name: str) -> object:
    """Returns the value of the key with a dotted name."""
    section, _, key = name.rpartition(".")
    return config[section][key] if section else config[key]
