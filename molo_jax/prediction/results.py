"""What a classifier says: predictions, its support set tested by itself, and unusable clips."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8

from molo_jax.data.lists.directory import printable
from molo_jax.data.video.containers import BadVideoError
from molo_jax.errors import MoloError
from molo_jax.prediction.calibration import confusion
from molo_jax.prediction.clips import ARRAY
from molo_jax.prediction.embedder import EmbeddedClip

# The label of a clip that is farther from every class than the support set's own clips are.
UNKNOWN = "none of these"


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a classifier says of a clip.

    Attributes:
        label: the class, or :data:`UNKNOWN`.
        nearest: the class with the smallest distance, also where the clip counts as unknown.
        runner_up: the class with the second smallest; empty where there is one class.
        probability: of `nearest`, given that the clip is of one of the classes.
        margin: distance of `runner_up` minus that of `nearest`; infinite where there is one class.
        distances: distance of each class, in the units of the method.
        probabilities: of each class, given that the clip is of one of them; their sum is 1.
        strangeness: distance to `nearest`, divided by the mean distance of the support set's own
            clips to theirs; NaN where that is not known.
        threshold: the largest strangeness of a known clip; None where the rule is off.
        clip: the clip, with its features.
    """

    label: str
    nearest: str
    runner_up: str
    probability: float
    margin: float
    distances: dict[str, float]
    probabilities: dict[str, float]
    strangeness: float
    threshold: float | None
    clip: EmbeddedClip

    @property
    def name(self) -> str:
        """The name of the clip."""
        return self.clip.name

    @property
    def known(self) -> bool:
        """Whether the clip counts as one of the classes."""
        return self.label != UNKNOWN

    @property
    def frames(self) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames that the network looked at, small."""
        return self.clip.thumbnails

    def __str__(self) -> str:
        return self.label


@dataclasses.dataclass(frozen=True)
class LeaveOneOut:
    """Each support clip, classified by all others.

    Attributes:
        clips: the clips, class by class.
        labels: the class of each, as a position in `classes`.
        classes: names of the classes.
        logits: scores of the classes; rows of NaN belong to clips that are alone in their class.
    """

    clips: Sequence[EmbeddedClip]
    labels: Int[np.ndarray, "s"]
    classes: Sequence[str]
    logits: Float[np.ndarray, "s n"]

    @property
    def predicted(self) -> Int[np.ndarray, "s"]:
        """The class that the others give each clip; -1 where a clip could not be tested."""
        untested = np.isnan(self.logits).any(axis=1)
        best = np.where(np.isnan(self.logits), -np.inf, self.logits).argmax(axis=1)
        return np.where(untested, -1, best)

    @property
    def confusion(self) -> Int[np.ndarray, "n n"]:
        """Number of clips by their class (rows) and the class that the others give them."""
        return confusion(self.logits, self.labels, len(self.classes))


@dataclasses.dataclass(frozen=True)
class Failure:
    """A clip that could not be used.

    Attributes:
        name: of the clip.
        reason: what is wrong with it.
        label: the class that it was to be an example of; empty for a query.
    """

    name: str
    reason: str
    label: str = ""


def failure_of(error: MoloError, label: str = "") -> Failure:
    """Returns what an error says of a clip."""
    if isinstance(error, BadVideoError):
        return Failure(printable(error.path), error.reason, label)
    return Failure(ARRAY, str(error), label)


def prediction_of(
    clip: EmbeddedClip,
    distances: np.ndarray,
    shares: np.ndarray,
    names: Sequence[str],
    threshold: float | None,
    scale: float | None,
) -> Prediction:
    """Makes a prediction of a clip from its distances.

    Args:
        clip: the clip.
        distances: of each class.
        shares: probability of each class.
        names: of the classes.
        threshold: the largest strangeness of a known clip; None: all are known.
        scale: mean distance within the support set; None where it is not known.
    """
    # Of equal distances the first class counts, as in an evaluation.
    order = np.argsort(distances, kind="stable")
    nearest, runner_up = names[order[0]], names[order[1]] if len(names) > 1 else ""
    smallest = float(distances[order[0]])
    strangeness = smallest / scale if scale else math.nan
    unknown = threshold is not None and strangeness > threshold
    return Prediction(
        label=UNKNOWN if unknown else nearest,
        nearest=nearest,
        runner_up=runner_up,
        probability=float(shares[order[0]]),
        margin=float(distances[order[1]]) - smallest if runner_up else math.inf,
        distances=dict(zip(names, map(float, distances), strict=True)),
        probabilities=dict(zip(names, map(float, shares), strict=True)),
        strangeness=strangeness,
        threshold=threshold,
        clip=clip,
    )
