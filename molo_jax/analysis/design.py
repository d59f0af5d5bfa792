"""Which videos the episodes of an evaluation have, prepared for sums over them.

Letters: e episodes, w way, k shots, q queries of a class, c classes of the split, v videos of a
class.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclasses.dataclass(frozen=True, eq=False)
class Design:
    """Which videos the episodes have, prepared for sums over them.

    Attributes:
        classes: the class of each label, a position in the split.
        videos: the positions of the videos within their class, those of the support set first.
        n_shot: how many of these are of the support set.
        sizes: the number of usable videos of each class, from which episodes draw.
    """

    classes: Int[np.ndarray, "e w"]
    videos: Int[np.ndarray, "e w k+q"]
    n_shot: int
    sizes: Int[np.ndarray, "c"]

    @functools.cached_property
    def count(self) -> Float[np.ndarray, "c"]:
        """The number of episodes with each class; 1 for a class that was never drawn."""
        return np.maximum(self.sum_by_class(np.ones(self.classes.shape)), 1.0)

    @functools.cached_property
    def drawn(self) -> Bool[np.ndarray, "c"]:
        """Whether each class is in an episode."""
        return np.bincount(self.classes.ravel(), minlength=len(self.sizes)) > 0

    @functools.cached_property
    def width(self) -> int:
        """Length of a row of videos, where a table has a row for each class."""
        return int(self.videos.max()) + 1

    @functools.cached_property
    def ids(self) -> Int[np.ndarray, "e w k+q"]:
        """The place of each video in a table with a row for each class, read row by row."""
        return self.classes[..., None].astype(np.int64) * self.width + self.videos

    @property
    def support(self) -> Int[np.ndarray, "e w k"]:
        """`ids` of the support set."""
        return self.ids[..., : self.n_shot]

    @property
    def queries(self) -> Int[np.ndarray, "e w q"]:
        """`ids` of the queries."""
        return self.ids[..., self.n_shot :]

    def sum_by_class(self, values: Float[np.ndarray, "e w"]) -> Float[np.ndarray, "c"]:
        """Adds up values of labels by their class."""
        return np.bincount(self.classes.ravel(), values.ravel(), len(self.sizes))

    def sum_by_video(self, ids: np.ndarray, values: np.ndarray) -> Float[np.ndarray, "c v"]:
        """Adds up values by video; the values are broadcast to the shape of the places."""
        spread = np.broadcast_to(values, ids.shape).ravel()
        cells = len(self.sizes) * self.width
        return np.bincount(ids.ravel(), spread, cells).reshape(-1, self.width)
