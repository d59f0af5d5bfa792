"""What an evaluation predicted, episode by episode: all that its statistics are made of.

Letters: e episodes, w way, k shots, q queries of a class.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """The predictions of the episodes of one way and one number of shots.

    The order of the queries is that of their labels, whatever the order was in which the network
    saw the queries. So two networks have the same query at the same place.

    Attributes:
        classes: the class of each label: its position among the ascending class numbers of the
            split.
        videos: the positions, within their class, of the videos that an episode takes from a class:
            first those of the support set, then the queries.
        n_shot: how many of these are of the support set.
        predicted: the label that is predicted for each query, ``0 .. w - 1``.
        margins: score of the true class minus the highest score of the other classes. A positive
            margin is a correct prediction; a tie has margin 0, and goes to the lower label.
    """

    classes: Int[np.ndarray, "e w"]
    videos: Int[np.ndarray, "e w k+q"]
    n_shot: int
    predicted: Int[np.ndarray, "e w q"]
    margins: Float[np.ndarray, "e w q"]

    @functools.cached_property
    def correct(self) -> Bool[np.ndarray, "e w q"]:
        """Whether each query is classified correctly."""
        return self.predicted == np.arange(self.predicted.shape[1])[:, None]

    @functools.cached_property
    def accuracies(self) -> Float[np.ndarray, "e"]:
        """The fraction of the queries of each episode that are classified correctly."""
        return self.correct.mean(axis=(1, 2))

    @property
    def query_videos(self) -> Int[np.ndarray, "e w q"]:
        """The positions of the queries within their class."""
        return self.videos[:, :, self.n_shot :]

    @property
    def predicted_classes(self) -> Int[np.ndarray, "e w q"]:
        """The predicted class of each query: its position in the split."""
        flat = self.predicted.reshape(len(self.predicted), -1)
        return np.take_along_axis(self.classes, flat, axis=1).reshape(self.predicted.shape)
