"""Episodes: which classes and videos they hold, as a pure function of (seed, split, index).

No video is opened here. A drawn class contributes the random order of *all* its videos, of which an
episode takes the first good ones. So a video that cannot be decoded is left out in favor of the
next one of the same class, and the result depends on which files are bad, not on when, by which
worker or after which restart that was found out.
"""

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from molo_jax.data.clips.draw_numbers import draw_numbers
from molo_jax.data.lists.splits import Split
from molo_jax.errors import MoloError, UsageError

SEED_LIMIT = 2**32
INDEX_LIMIT = 2**31
FRAME_DRAWS = ("episode", "video")

# The third word of every random stream, so that no two purposes share one.
_STREAM_EPISODE, _STREAM_EPISODE_FRAMES, _STREAM_VIDEO_FRAMES = 1, 2, 3


@dataclasses.dataclass(frozen=True, eq=False)
class ClipRequest:
    """One clip to decode.

    Attributes:
        class_position: position of the class in the split's ascending class numbers.
        video_position: position of the video within its class.
        draws: (t,) uniform in [0, 1); they choose the frames, see `frames.py`.
    """

    class_position: int
    video_position: int
    draws: np.ndarray

    @property
    def video(self) -> tuple[int, int]:
        """The pair that identifies the video in its split."""
        return self.class_position, self.video_position


@dataclasses.dataclass(frozen=True, eq=False)
class EpisodeSpec:
    """An episode before it is known which videos are usable.

    Attributes:
        index: number of the episode.
        classes: (n,) positions of the drawn classes; the place in this array is the label.
        orders: for each drawn class a random order of its video positions.
        support_slots: (s,) a permutation that shuffles the support clips.
        query_slots: (q,) the same for the query clips.
    """

    index: int
    classes: np.ndarray
    orders: tuple[np.ndarray, ...]
    support_slots: np.ndarray
    query_slots: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class ResolvedEpisode:
    """An episode with its clips.

    Attributes:
        index: number of the episode.
        support: the support clips, shuffled.
        query: the query clips, shuffled.
        support_labels: (s,) int32 in 0..way-1.
        query_labels: (q,) int32 in 0..way-1.
        support_classes: (s,) int32, position of the class in the split's ascending class numbers.
        query_classes: (q,) int32, likewise.
        support_order: (s,) the places of the clips of class 0, then of class 1 and so on, in the
            order in which the videos of a class were taken.
        query_order: (q,) the same for the queries.
    """

    index: int
    support: tuple[ClipRequest, ...]
    query: tuple[ClipRequest, ...]
    support_labels: np.ndarray
    query_labels: np.ndarray
    support_classes: np.ndarray
    query_classes: np.ndarray
    support_order: np.ndarray
    query_order: np.ndarray


def _none_is_bad(class_position: int, video_position: int) -> bool:
    return False


class EpisodeSampler:
    """Draws episodes: classes without replacement, then videos of each without replacement.

    Args:
        class_sizes: number of videos of each class, in ascending order of the class numbers.
        seed: 0 ≤ seed < 2³².
        split_name: name of the split; it enters the random streams.
        n_way: classes an episode.
        n_shot: support videos a class.
        n_query: query videos a class.
        num_frames: frames a clip.
        frame_draw: "episode": a video gets new frames in every episode (the official rule).
            "video": every episode shows a video with the same frames, so that a clip's embedding
            can be computed once and used in all of them.
        class_ids: the class numbers, for messages only; by default 0, 1, 2, …
        draws: with `frame_draw="video"`, how many independent draws of its frames a video has; an
            episode shows one of them, see :func:`molo_jax.data.clips.draw_numbers.draw_numbers`.

    Raises:
        UsageError: the seed, a count, `frame_draw` or `draws` is out of range.
        MoloError: there are fewer classes than `n_way`, or a class has too few videos.
    """

    def __init__(
        self,
        class_sizes: Sequence[int],
        seed: int,
        split_name: str,
        n_way: int,
        n_shot: int,
        n_query: int,
        num_frames: int,
        frame_draw: str = "episode",
        class_ids: Sequence[int] | None = None,
        draws: int = 1,
    ):
        counts = {"n_way": n_way, "n_shot": n_shot, "n_query": n_query, "num_frames": num_frames}
        counts["draws"] = draws
        for name, count in counts.items():
            if count < 1:
                raise UsageError(f"{name} is {count}; expected at least 1")
        if frame_draw not in FRAME_DRAWS:
            known = " or ".join(map(repr, FRAME_DRAWS))
            raise UsageError(f"frame_draw is {frame_draw!r}; expected {known}")
        if draws > 1 and frame_draw != "video":
            raise UsageError(
                f"draws is {draws} with frame_draw={frame_draw!r}, which draws new frames in every"
                " episode; expected 1, or frame_draw='video'"
            )
        self._root = (check_seed(seed), zlib.crc32(split_name.encode()))
        self.seed, self.draws = self._root[0], draws
        self.class_sizes = tuple(class_sizes)
        self.split_name, self.frame_draw = split_name, frame_draw
        self.n_way, self.n_shot, self.n_query, self.num_frames = n_way, n_shot, n_query, num_frames
        # With frame_draw="video": (class position, video position, number of the draw) -> the clip.
        self._clips: dict[tuple[int, int, int], ClipRequest] = {}
        self._class_ids = tuple(range(len(class_sizes)) if class_ids is None else class_ids)
        self._check_classes()

    @classmethod
    def from_split(cls, split: Split, **arguments: Any) -> "EpisodeSampler":
        """The sampler of a split list; the other arguments are those of the class."""
        sizes, ids = split.class_sizes, split.classes
        return cls(sizes, split_name=split.name, class_ids=ids, **arguments)

    @property
    def need(self) -> int:
        """Videos an episode takes from a class."""
        return self.n_shot + self.n_query

    def __call__(self, index: int) -> EpisodeSpec:
        """Episode `index`, 0 ≤ index < 2³¹."""
        random, classes, orders = self._order(index)
        return EpisodeSpec(
            index=index,
            classes=classes,
            orders=orders,
            support_slots=random.permutation(self.n_way * self.n_shot),
            query_slots=random.permutation(self.n_way * self.n_query),
        )

    def order(self, index: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """The classes of episode `index`, and for each a random order of its video positions.

        They do not depend on the numbers of shots and queries.
        """
        return self._order(index)[1:]

    def _order(self, index: int) -> tuple[np.random.Generator, np.ndarray, tuple[np.ndarray, ...]]:
        if not 0 <= index < INDEX_LIMIT:
            raise ValueError(f"episode index {index} is outside 0..{INDEX_LIMIT - 1}")
        random = _random(self._root, _STREAM_EPISODE, index)
        classes = random.choice(len(self.class_sizes), self.n_way, replace=False)
        return random, classes, tuple(random.permutation(self.class_sizes[c]) for c in classes)

    def resolve(
        self, spec: EpisodeSpec, is_bad: Callable[[int, int], bool] = _none_is_bad
    ) -> ResolvedEpisode:
        """Takes the first good videos of each class: n_shot for the support, then n_query.

        Args:
            spec: the episode.
            is_bad: tells of (class position, video position) whether the video is to be left out.

        Raises:
            MoloError: a class has too few usable videos.
        """
        chosen = [
            self._first_good(int(c), order, is_bad)
            for c, order in zip(spec.classes, spec.orders, strict=True)
        ]
        support, support_labels = self._shuffle(spec, spec.support_slots, chosen, 0, self.n_shot)
        query, query_labels = self._shuffle(
            spec, spec.query_slots, chosen, self.n_shot, self.n_query
        )
        return ResolvedEpisode(
            index=spec.index,
            support=support,
            query=query,
            support_labels=support_labels,
            query_labels=query_labels,
            support_classes=spec.classes[support_labels].astype(np.int32),
            query_classes=spec.classes[query_labels].astype(np.int32),
            support_order=np.argsort(spec.support_slots),
            query_order=np.argsort(spec.query_slots),
        )

    def clip(
        self, class_position: int, video_position: int, index: int | None = None
    ) -> ClipRequest:
        """The request for a video as episode `index` shows it.

        The index matters with `frame_draw="episode"` or several draws only, and must be given then.
        """
        video = class_position, video_position
        if self.frame_draw == "video":
            # Seeding a generator takes most of the time of drawing an episode.
            shown = (*video, self.draw_number(*video, index))
            if shown not in self._clips:
                self._clips[shown] = self.clip_of_draw(*shown)
            return self._clips[shown]
        if index is None:
            raise ValueError("frame_draw='episode' needs the episode's index")
        return self._drawn(_STREAM_EPISODE_FRAMES, index, *video)

    def draw_number(self, class_position: int, video_position: int, index: int | None) -> int:
        """The number of the draw with which episode `index` shows a video, below `draws`."""
        if self.draws == 1:
            return 0
        if index is None:
            raise ValueError(f"{self.draws} draws of a video need the episode's index")
        where = index, class_position, video_position
        return int(draw_numbers(self.seed, self.split_name, *where, self.draws))

    def clip_of_draw(self, class_position: int, video_position: int, draw: int) -> ClipRequest:
        """The request for one draw of the frames of a video, see :func:`clip_of_draw`."""
        return self._drawn(_STREAM_VIDEO_FRAMES, draw, class_position, video_position)

    def _drawn(self, stream: int, index: int, *video: int) -> ClipRequest:
        random = _random(self._root, stream, index, *video)
        return ClipRequest(*video, random.random(self.num_frames))

    def check_usable(self, is_bad: Callable[[int, int], bool]) -> None:
        """Checks that every class has enough videos that are not bad, whether drawn or not.

        Raises:
            MoloError: a class has too few.
        """
        for position, size in enumerate(self.class_sizes):
            usable = sum(not is_bad(position, video) for video in range(size))
            if usable < self.need:
                raise self._too_few(position, usable)

    def _too_few(self, class_position: int, usable: int) -> MoloError:
        """The error for a class of which only `usable` videos are usable."""
        size = self.class_sizes[class_position]
        left_out = "" if usable == size else f" ({size} listed, {size - usable} left out as bad)"
        queries = "1 query" if self.n_query == 1 else f"{self.n_query} queries"
        return MoloError(
            f"class {self._class_ids[class_position]} of split {self.split_name} has {usable} "
            f"usable videos{left_out}; {self.n_shot}-shot with {queries} needs {self.need}. "
            "Add videos, remove the class from the list, or lower the shots or queries"
        )

    def _check_classes(self) -> None:
        if len(self.class_sizes) < self.n_way:
            raise MoloError(
                f"split {self.split_name} has {len(self.class_sizes)} classes; a {self.n_way}-way "
                f"episode needs {self.n_way}. Lower the number of ways or give a longer list"
            )
        self.check_usable(_none_is_bad)

    def _first_good(
        self, class_position: int, order: np.ndarray, is_bad: Callable[[int, int], bool]
    ) -> list[int]:
        good = []
        for video_position in order.tolist():
            if not is_bad(class_position, video_position):
                good.append(video_position)
            if len(good) == self.need:
                return good
        raise self._too_few(class_position, len(good))

    def _shuffle(
        self, spec: EpisodeSpec, slots: np.ndarray, chosen: list[list[int]], first: int, count: int
    ) -> tuple[tuple[ClipRequest, ...], np.ndarray]:
        """Entry j of the result is video `first + slot % count` of drawn class `slot // count`."""
        labels, offsets = np.divmod(slots, count)
        clips = tuple(
            self.clip(int(spec.classes[label]), chosen[label][first + offset], spec.index)
            for label, offset in zip(labels, offsets, strict=True)
        )
        return clips, labels.astype(np.int32)


def clip_of_draw(
    seed: int,
    split_name: str,
    num_frames: int,
    class_position: int,
    video_position: int,
    draw: int,
) -> ClipRequest:
    """Returns the request for one draw of the frames of a video, as `frame_draw="video"` shows it.

    It is a pure function of the arguments. Draw 0 is the only one that is shown with `draws=1`.

    Args:
        seed: 0 ≤ seed < 2³².
        split_name: name of the split.
        num_frames: frames of the clip.
        class_position: position of the class in the split's ascending class numbers.
        video_position: position of the video within its class.
        draw: number of the draw, from 0.

    Raises:
        UsageError: the seed is out of range.
    """
    root = check_seed(seed), zlib.crc32(split_name.encode())
    random = _random(root, _STREAM_VIDEO_FRAMES, draw, class_position, video_position)
    return ClipRequest(class_position, video_position, random.random(num_frames))


def _random(root: tuple[int, int], *words: int) -> np.random.Generator:
    # SeedSequence pads with zeros, so all streams have the same number of 32-bit words.
    padded = (*root, *words, *(0,) * (4 - len(words)))
    return np.random.default_rng(np.random.SeedSequence(padded))


def check_seed(seed: int) -> int:
    """Returns the seed.

    Raises:
        UsageError: it is no integer in 0..2³²-1.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise UsageError(f"the seed is {seed!r}; expected an integer")
    if not 0 <= seed < SEED_LIMIT:
        raise UsageError(f"the seed is {seed}; expected 0 to {SEED_LIMIT - 1}")
    return int(seed)
