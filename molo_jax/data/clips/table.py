"""The episodes of one way as arrays, for all numbers of shots at once.

An episode takes the first good videos of a class, so that its videos with few shots are those with
more shots, cut off.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from molo_jax.data.clips.episodes import EpisodeSampler


@dataclasses.dataclass(frozen=True, eq=False)
class EpisodeTable:
    """The classes and the videos of many episodes. Letters: e episodes, w way, m videos.

    Attributes:
        classes: the class of each label: its position in the split's ascending class numbers.
        videos: positions, within their class, of the videos that an episode takes, in their order:
            the support videos come first, then the queries.
    """

    classes: Int[np.ndarray, "e w"]
    videos: Int[np.ndarray, "e w m"]

    def of_shots(self, n_shot: int, n_query: int) -> Int[np.ndarray, "e w k+q"]:
        """Returns the videos of the episodes with so many shots and queries of a class."""
        return self.videos[:, :, : n_shot + n_query]


def draw_table(
    sampler: EpisodeSampler, episodes: int, is_bad: Callable[[int, int], bool]
) -> EpisodeTable:
    """Draws episodes 0 .. episodes - 1, as the sampler does one by one.

    Args:
        sampler: the episodes with the most shots.
        episodes: how many.
        is_bad: tells of (class position, video position) whether the video is to be left out.

    Raises:
        MoloError: a class has too few usable videos.
    """
    sampler.check_usable(is_bad)
    sizes, need = sampler.class_sizes, sampler.need
    bad = [np.array([is_bad(c, v) for v in range(size)], bool) for c, size in enumerate(sizes)]
    some_bad = [bool(each.any()) for each in bad]
    classes = np.empty((episodes, sampler.n_way), np.int32)
    videos = np.empty((episodes, sampler.n_way, need), np.int32)
    for index in range(episodes):
        drawn, orders = sampler.order(index)
        classes[index] = drawn
        for label, (c, order) in enumerate(zip(drawn.tolist(), orders, strict=True)):
            good = order[~bad[c][order]] if some_bad[c] else order
            videos[index, label] = good[:need]
    return EpisodeTable(classes, videos)
