"""The settings of the papers' experiments, from which `configs/*_1shot.py` and `_5shot.py` come.

Source: the configuration files of MoLo's official code, commit f7f73b6, and of HyRSM++'s; arXiv
2304.00946, section 4.1. "5-shot" of MoLo is trained on 1-shot episodes too and differs in the test
alone; HyRSM and HyRSM++ train with as many shots as they are tested with.
"""

import dataclasses
from collections.abc import Mapping

from ml_collections import ConfigDict

from molo_jax.config import IMAGENET, base_config
from molo_jax.data.lists.official import benchmark
from molo_jax.errors import UsageError
from molo_jax.methods.settings import DEFAULT_METHOD

_TENTHS = (1.0, 0.1, 0.01)
_HALVES = (1.0, 0.5, 0.1, 0.01)


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What all methods have in common on a benchmark.

    Attributes:
        seed: of everything.
        sampling: which frames make a clip.
    """

    seed: int
    sampling: str = "segments"


@dataclasses.dataclass(frozen=True)
class Preset:
    """The published training of a method on a benchmark.

    Attributes:
        base_lr, warmup_start_lr: learning rates.
        steps_iter: iterations of a unit of the schedule.
        boundaries, factors: of the schedule.
        iterations: episodes on each of 4 GPUs; a step takes `accumulation` of them.
        settings: of the method, where they are not the defaults.
        accumulation: iterations of a step.
    """

    base_lr: float
    warmup_start_lr: float
    steps_iter: int
    boundaries: tuple[int, ...]
    factors: tuple[float, ...]
    iterations: int
    settings: Mapping[str, float]
    accumulation: int = 4


BENCHMARKS = {
    "ssv2": Benchmark(8),
    "ssv2_small": Benchmark(18),
    "kinetics100": Benchmark(18, sampling="window"),
    "ucf101": Benchmark(18),
    "hmdb51": Benchmark(18),
}


def _molo(classification: float, reconstruction: float, **position: float) -> dict[str, float]:
    # The official code multiplies the weight of the reconstruction by its accumulation, 4.
    return {
        "classification": classification,
        "contrast": 0.05,
        "reconstruction": 4 * reconstruction,
        **position,
    }


def _hyrsm_pp(*values: float) -> dict[str, float]:
    names = ("classification", "window", "temporal", "balance", "apart_weight")
    return dict(zip(names, values, strict=True))


_FAR = {"positional_a": 2048.0}
_HYRSM = {
    "ssv2": Preset(1e-4, 2e-5, 3000, (0, 6, 9), _TENTHS, 40000, {"classification": 0.6}),
    "ssv2_small": Preset(1e-4, 2e-5, 1500, (0, 4, 8), _TENTHS, 20000, {"classification": 0.15}),
    "kinetics100": Preset(
        *(2.2e-5, 5e-6, 100, (0, 4, 6, 9), (1.0, 0.5, 0.1, 0.05), 1200),
        {"classification": 0.4, "positional_b": 0.01} | _FAR,
    ),
    "ucf101": Preset(5e-5, 1e-5, 700, (0, 3, 5, 7), _HALVES, 2500, {"classification": 0.15}),
    "hmdb51": Preset(
        *(5e-5, 1e-5, 300, (0, 2, 3, 7), _HALVES, 2000, {"classification": 0.15}), accumulation=2
    ),
}
# Settings and iterations; the schedule is that of HyRSM.
_HYRSM_PP = {
    "ssv2": (_hyrsm_pp(0.6, 1, 0.3, 51, 10), 40000),
    "ssv2_small": (_hyrsm_pp(0.2, 3, 0.3, 23, 10), 20000),
    "kinetics100": (_hyrsm_pp(0.1, 3, 0.1, 23, 10), 1500),
    "ucf101": (_hyrsm_pp(0.6, 3, 0.1, 23, 10), 2500),
    "hmdb51": (_hyrsm_pp(0.15, 1, 0.2, 51, 20) | {"positional_a": 50.0}, 2000),
}
# Method -> benchmark -> its published training.
PRESETS: dict[str, dict[str, Preset]] = {
    "molo": {
        "ssv2": Preset(1e-4, 2e-5, 6000, (0, 6, 9), _TENTHS, 50000, _molo(0.8, 0.1)),
        "ssv2_small": Preset(1e-4, 2e-5, 1500, (0, 4, 8), _TENTHS, 20000, _molo(0.15, 0.05)),
        "kinetics100": Preset(
            *(2e-5, 5e-6, 350, (0, 4, 6), _TENTHS, 5000),
            _molo(0.1, 0.1, positional_b=0.02, **_FAR),
        ),
        "ucf101": Preset(5e-5, 1e-5, 2000, (0, 3, 6), _TENTHS, 6000, _molo(0.6, 0.05)),
        "hmdb51": Preset(5e-5, 1e-5, 500, (0, 3, 5, 7), _HALVES, 2000, _molo(0.4, 0.05)),
    },
    "hyrsm": _HYRSM,
    "hyrsm_pp": {
        name: dataclasses.replace(_HYRSM[name], settings=settings, iterations=iterations)
        for name, (settings, iterations) in _HYRSM_PP.items()
    },
}
# Nothing is published for these in this setting: as HyRSM, without its auxiliary classifier.
_AS_HYRSM = ("protonet", "bi_mhm", "otam")


def preset_config(name: str, method: str = DEFAULT_METHOD, *, shots: int) -> ConfigDict:
    """Returns the configuration of a benchmark, tested with `shots` shots.

    Raises:
        UsageError: there is no such benchmark or no such method.
    """
    how_to_get, common = benchmark(name).how_to_get, BENCHMARKS[name]
    config = base_config(method)
    config.seed = common.seed

    config.dataset.name = name
    config.dataset.how_to_get = how_to_get
    config.data.source, config.data.prepared = "prepared", "data/prepared"
    # Without preparation. The two SSv2 benchmarks have the same videos.
    config.data.root = f"data/{name.removesuffix('_small')}/videos"
    # The official lists, fetched.
    config.data.split_dir = ""
    config.data.sampling = common.sampling

    config.model.backbone = "resnet50"
    config.model.pretrained = IMAGENET

    config.train.n_way, config.train.episodes_per_step = 5, 16
    if method == "trx":
        _train_trx(config, shots)
    else:
        _train(config, name, method, shots)

    config.eval.shots = (shots,)
    config.eval.n_way, config.eval.n_query = 5, 1
    config.eval.episodes = 10000
    return config


def _train(config: ConfigDict, name: str, method: str, shots: int) -> None:
    preset = _HYRSM[name] if method in _AS_HYRSM else _published(method)[name]
    if method not in _AS_HYRSM:
        config.method.update(preset.settings)
    config.train.n_shot = 1 if method == DEFAULT_METHOD else shots
    config.train.n_query = 6 if method == DEFAULT_METHOD else 7 if shots == 1 else 3
    config.train.steps = preset.iterations // preset.accumulation

    config.optimizer.schedule = "official"
    config.optimizer.accumulation = preset.accumulation
    config.optimizer.base_lr = preset.base_lr
    config.optimizer.warmup_start_lr = preset.warmup_start_lr
    config.optimizer.steps_iter = preset.steps_iter
    config.optimizer.boundaries = preset.boundaries
    config.optimizer.factors = preset.factors
    config.optimizer.weight_decay = 1e-3


def _published(method: str) -> dict[str, Preset]:
    if method not in PRESETS:
        raise UsageError(
            f"there are no published settings of the method {method!r} on a benchmark; start from"
            f" another configuration file, for example configs/folder.py:{method}"
        )
    return PRESETS[method]


def _train_trx(config: ConfigDict, shots: int) -> None:
    """TRX as its own paper trains it (Perrett et al., CVPR 2021, section 4.1)."""
    config.train.n_shot, config.train.n_query = shots, 5
    config.optimizer.name, config.optimizer.weight_decay = "sgd", 0.0
    # 0.001 for a loss that is summed over the 25 queries of an episode; here it is their mean.
    config.optimizer.base_lr = config.optimizer.warmup_start_lr = 0.025
    config.optimizer.schedule, config.optimizer.accumulation = "official", 1
    config.optimizer.boundaries, config.optimizer.factors = (0,), (1.0,)
