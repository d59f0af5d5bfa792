"""The papers' experiments: the configurations of `configs/*_1shot.py` and `configs/*_5shot.py`.

What a benchmark's record does not set is as in `config.base_config`. "5-shot" of MoLo is trained on
1-shot episodes too and differs in the test alone; HyRSM and HyRSM++ train with as many shots as
they are tested with.
"""

from ml_collections import ConfigDict

from molo_jax.benchmarks import BENCHMARKS, benchmark
from molo_jax.benchmarks.record import Benchmark
from molo_jax.config import base_config
from molo_jax.errors import UsageError
from molo_jax.methods.settings import DEFAULT_METHOD
from molo_jax.weights.imagenet import IMAGENET

# Nothing is published for these in this setting: as HyRSM, without its auxiliary classifier.
_AS_HYRSM = ("protonet", "bi_mhm", "otam")


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
    if method == "trx":
        _train_trx(config, shots)
    else:
        _train(config, known, method, shots)
    config.eval.shots = (shots,)
    return config


def _train(config: ConfigDict, known: Benchmark, method: str, shots: int) -> None:
    trained_as = "hyrsm" if method in _AS_HYRSM else method
    if trained_as not in known.trainings:
        raise UsageError(
            f"there are no published settings of the method {method!r} on a benchmark; start from"
            f" another configuration file, for example configs/folder.py:{method}"
        )
    published = known.trainings[trained_as]
    if method not in _AS_HYRSM:
        config.method.update(published.settings)
    config.train.n_shot = 1 if method == DEFAULT_METHOD else shots
    config.train.n_query = 6 if method == DEFAULT_METHOD else 7 if shots == 1 else 3
    config.train.steps = published.iterations // published.accumulation

    config.optimizer.accumulation = published.accumulation
    config.optimizer.base_lr = published.base_lr
    config.optimizer.warmup_start_lr = published.warmup_start_lr
    config.optimizer.steps_iter = published.steps_iter
    config.optimizer.boundaries = published.boundaries
    config.optimizer.factors = published.factors


def _train_trx(config: ConfigDict, shots: int) -> None:
    """TRX as its own paper trains it (Perrett et al., CVPR 2021, section 4.1)."""
    config.train.n_shot, config.train.n_query = shots, 5
    config.optimizer.name, config.optimizer.weight_decay = "sgd", 0.0
    # 0.001 for a loss that is summed over the 25 queries of an episode; here it is their mean.
    config.optimizer.base_lr = config.optimizer.warmup_start_lr = 0.025
    config.optimizer.accumulation = 1
    config.optimizer.boundaries, config.optimizer.factors = (0,), (1.0,)
