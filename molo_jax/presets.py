"""The papers' experiments: the configurations of `configs/*_1shot.py` and `configs/*_5shot.py`.

What a benchmark's record does not set is as in `config.base_config`. How a method is trained on
a benchmark is said by the benchmark's record (`trainings`) and by the method's settings
(`trained_as`, `training`).
"""

from ml_collections import ConfigDict

from molo_jax.benchmarks import BENCHMARKS, benchmark
from molo_jax.benchmarks.record import Benchmark
from molo_jax.config import base_config
from molo_jax.errors import UsageError
from molo_jax.methods.settings import DEFAULT_METHOD, settings_class
from molo_jax.weights.imagenet import IMAGENET


def config_file(dataset: str, *, shots: int = 5) -> str:
    """Returns the path of a data set's configuration; a benchmark has one for 1 and for 5 shots."""
    return f"configs/{dataset}_{shots}shot.py" if dataset in BENCHMARKS else f"configs/{dataset}.py"


def preset_config(name: str, method: str = DEFAULT_METHOD, *, shots: int) -> ConfigDict:
    """Returns the configuration of a benchmark, tested with `shots` shots.

    Raises:
        UsageError: there is no such benchmark or no such method.
    """
    known = benchmark(name)
    config = base_config(method)
    config.seed = known.seed

    config.dataset.name = name
    config.dataset.how_to_get = known.how_to_get
    # Without preparation.
    config.data.root = known.root
    # The official lists, fetched.
    config.data.split_dir = ""
    config.data.sampling = known.sampling

    config.model.pretrained = IMAGENET
    _train(config, known, method, shots)
    config.eval.shots = (shots,)
    return config


def _train(config: ConfigDict, known: Benchmark, method: str, shots: int) -> None:
    settings = settings_class(method)
    # One episode of ResNet-50 at crop 224 then fits on a card with 24 GB.
    config.train.remat = "blocks"
    config.train.n_shot, config.train.n_query = shots, 7 if shots == 1 else 3
    if settings.trained_as:
        _train_as(config, known, method, settings.trained_as)
    for key, value in settings.training.items():
        section, _, name = key.rpartition(".")
        config[section][name] = value


def _train_as(config: ConfigDict, known: Benchmark, method: str, trained_as: str) -> None:
    if trained_as not in known.trainings:
        raise UsageError(
            f"there are no published settings of the method {method!r} on a benchmark; start from"
            f" another configuration file, for example configs/folder.py:{method}"
        )
    published = known.trainings[trained_as]
    if method == trained_as:
        config.method.update(published.settings)
    config.train.steps = published.iterations // published.accumulation

    config.optimizer.accumulation = published.accumulation
    config.optimizer.base_lr = published.base_lr
    config.optimizer.warmup_start_lr = published.warmup_start_lr
    config.optimizer.steps_iter = published.steps_iter
    config.optimizer.boundaries = published.boundaries
    config.optimizer.factors = published.factors
