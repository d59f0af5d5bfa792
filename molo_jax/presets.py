"""The settings of the paper's experiments, from which `configs/*_1shot.py` and `_5shot.py` come.

Source: the configuration files of the official code, commit f7f73b6, and arXiv 2304.00946,
section 4.1. "5-shot" is trained on 1-shot episodes too and differs in the test alone.
"""

import dataclasses

from ml_collections import ConfigDict

from molo_jax.config import IMAGENET, base_config
from molo_jax.data.official import benchmark

_ACCUMULATION = 4


@dataclasses.dataclass(frozen=True)
class Preset:
    """What differs between the benchmarks.

    Attributes:
        seed: of everything.
        classification, contrast, reconstruction: weights of the losses.
        base_lr, warmup_start_lr: learning rates.
        steps_iter: iterations of a unit of the schedule.
        boundaries, factors: of the schedule.
        iterations: episodes on each of 4 GPUs; a step takes 4 of them.
        sampling: which frames make a clip.
        position: A and B of the positional encoding.
    """

    seed: int
    classification: float
    contrast: float
    reconstruction: float
    base_lr: float
    warmup_start_lr: float
    steps_iter: int
    boundaries: tuple[int, ...]
    factors: tuple[float, ...]
    iterations: int
    sampling: str = "segments"
    position: tuple[float, float] = (10.0, 1.0)


_TENTHS = (1.0, 0.1, 0.01)
PRESETS = {
    "ssv2": Preset(8, 0.8, 0.05, 0.1, 1e-4, 2e-5, 6000, (0, 6, 9), _TENTHS, 50000),
    "ssv2_small": Preset(18, 0.15, 0.05, 0.05, 1e-4, 2e-5, 1500, (0, 4, 8), _TENTHS, 20000),
    "kinetics100": Preset(
        *(18, 0.1, 0.05, 0.1, 2e-5, 5e-6, 350, (0, 4, 6), _TENTHS, 5000),
        sampling="window",
        position=(2048.0, 0.02),
    ),
    "ucf101": Preset(18, 0.6, 0.05, 0.05, 5e-5, 1e-5, 2000, (0, 3, 6), _TENTHS, 6000),
    "hmdb51": Preset(
        18, 0.4, 0.05, 0.05, 5e-5, 1e-5, 500, (0, 3, 5, 7), (1.0, 0.5, 0.1, 0.01), 2000
    ),
}


def preset_config(name: str, *, shots: int) -> ConfigDict:
    """Returns the configuration of a benchmark, tested with `shots` shots.

    Raises:
        UsageError: there is no such benchmark.
    """
    how_to_get, preset = benchmark(name).how_to_get, PRESETS[name]
    config = base_config()
    config.seed = preset.seed

    config.dataset.name = name
    config.dataset.how_to_get = how_to_get
    config.data.source, config.data.prepared = "prepared", "data/prepared"
    # Without preparation. The two SSv2 benchmarks have the same videos.
    config.data.root = f"data/{name.removesuffix('_small')}/videos"
    # The official lists, fetched.
    config.data.split_dir = ""
    config.data.sampling = preset.sampling

    config.model.backbone = "resnet50"
    config.model.pretrained = IMAGENET

    config.method.positional_a, config.method.positional_b = preset.position
    config.method.classification = preset.classification
    config.method.contrast = preset.contrast
    config.method.reconstruction = _ACCUMULATION * preset.reconstruction

    config.train.n_way, config.train.n_shot, config.train.n_query = 5, 1, 6
    config.train.episodes_per_step = 16
    config.train.steps = preset.iterations // _ACCUMULATION

    config.optimizer.schedule = "official"
    config.optimizer.accumulation = _ACCUMULATION
    config.optimizer.base_lr = preset.base_lr
    config.optimizer.warmup_start_lr = preset.warmup_start_lr
    config.optimizer.steps_iter = preset.steps_iter
    config.optimizer.boundaries = preset.boundaries
    config.optimizer.factors = preset.factors
    config.optimizer.weight_decay = 1e-3

    config.eval.shots = (shots,)
    config.eval.n_way, config.eval.n_query = 5, 1
    config.eval.episodes = 10000
    return config
