"""What is recorded of a benchmark: its lists, its videos, and how the methods are trained on it.

The lists are those of MoLo's official code, pinned to one commit; a class is a number of one list,
so `train0` and `test0` are different classes. The settings of training are those of the
configuration files of that code and of HyRSM++'s; see also arXiv 2304.00946, section 4.1.
"""

import dataclasses
from collections.abc import Mapping

# Factors of the learning rate that several published schedules have.
TENTHS = (1.0, 0.1, 0.01)
HALVES = (1.0, 0.5, 0.1, 0.01)


@dataclasses.dataclass(frozen=True)
class ListSize:
    """How much a split list holds.

    Attributes:
        videos: number of its lines.
        classes: number of its classes.
        smallest: number of videos of its smallest class.
    """

    videos: int
    classes: int
    smallest: int

    def __str__(self) -> str:
        return f"{self.videos} videos of {self.classes} classes, the smallest of {self.smallest}"


@dataclasses.dataclass(frozen=True)
class OfficialList:
    """An official split list.

    Attributes:
        size: how much it holds.
        sha256: of the file at the official address.
    """

    size: ListSize
    sha256: str


@dataclasses.dataclass(frozen=True)
class PublishedTraining:
    """The published training of a method on a benchmark.

    Attributes:
        base_lr, warmup_start_lr: learning rates.
        steps_iter: iterations of a unit of the schedule.
        boundaries, factors: of the schedule.
        iterations: episodes on each of 4 GPUs; a step takes `accumulation` of them.
        settings: of the method, where they are not the defaults. MoLo's `reconstruction` is 4 times
            the number in the official file, which the official code multiplies by its accumulation.
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


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        name: on the command line, in configurations and in result files.
        title: the name that papers use.
        list_folder: where its lists are, below the official address.
        videos: where its videos are to be had.
        layout: how the lists name the videos, by an example.
        root: folder of the videos unless the user names another one.
        lists: the official list of each split.
        seed: of everything that is random in a training.
        trainings: how each method was trained; "hyrsm" also stands for the methods that nothing is
            published of.
        sampling: which frames make a clip.
    """

    name: str
    title: str
    list_folder: str
    videos: str
    layout: str
    root: str
    lists: Mapping[str, OfficialList]
    seed: int
    trainings: Mapping[str, PublishedTraining]
    sampling: str = "segments"

    @property
    def how_to_get(self) -> str:
        """What to tell a user whose videos are not there."""
        return (
            f"Download the videos of {self.title} from {self.videos} into one folder, in any"
            f" layout; the lists name them as {self.layout}."
        )
