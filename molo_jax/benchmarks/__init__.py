"""The benchmarks of few-shot action recognition: one record each, and its line in the table."""

from molo_jax.benchmarks.hmdb51 import HMDB51
from molo_jax.benchmarks.kinetics100 import KINETICS100
from molo_jax.benchmarks.record import Benchmark
from molo_jax.benchmarks.ssv2 import SSV2
from molo_jax.benchmarks.ssv2_small import SSV2_SMALL
from molo_jax.benchmarks.ucf101 import UCF101
from molo_jax.errors import UsageError

BENCHMARKS = {known.name: known for known in (SSV2, SSV2_SMALL, KINETICS100, UCF101, HMDB51)}
# The data sets that are no benchmarks, with what they are.
OTHER_DATASETS = {
    "synthetic": "Generated videos whose classes are motions.",
    "folder": "One's own videos, a folder for each class.",
}


def dataset_names() -> tuple[str, ...]:
    """Returns the names of all data sets that can be prepared."""
    return (*BENCHMARKS, *OTHER_DATASETS)


def benchmark(name: str) -> Benchmark:
    """Returns the record of a benchmark.

    Raises:
        UsageError: naming those that there are.
    """
    if name not in BENCHMARKS:
        raise UsageError(f"{name!r} is no benchmark; choose one of {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def default_sampling(dataset: str) -> str:
    """Returns how the frames of a clip are chosen where the user does not say it."""
    return BENCHMARKS[dataset].sampling if dataset in BENCHMARKS else "segments"
