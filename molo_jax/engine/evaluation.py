"""Accuracy over many episodes: embed every distinct clip once, then match episodes in batches.

In evaluation a clip's features do not depend on its episode, so the two stages give what running
the network on each episode would.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from molo_jax.analysis.outcome import Outcome
from molo_jax.errors import MoloError
from molo_jax.methods.episode import Features

# Two-sided 95 % of a normal distribution.
_Z95 = 1.96


@runtime_checkable
class Clip(Protocol):
    """What an episode knows of a clip: the video and the draws that choose its frames."""

    class_position: int
    video_position: int
    draws: np.ndarray


@runtime_checkable
class ResolvedEpisode(Protocol):
    """An episode without its pixels; labels count from 0, classes are positions in the split.

    Its clips are shuffled. `support_order` and `query_order` are the places of the clips of label
    0, then of label 1 and so on, in the order in which the episode has taken the videos of a class.
    """

    support: Sequence[Clip]
    query: Sequence[Clip]
    support_labels: np.ndarray
    query_labels: np.ndarray
    query_classes: np.ndarray
    support_order: np.ndarray
    query_order: np.ndarray


# Embeds clips; yields the positions of those it could embed, and their features.
EmbedClips = Callable[[Sequence[Clip]], Iterable[tuple[Int[np.ndarray, "v"], Features]]]
# (features of all clips, support positions (e, s), query positions (e, q), support labels (e, s))
# -> logits (e, q, n).
MatchEpisodes = Callable[[Features, np.ndarray, np.ndarray, np.ndarray], Any]


@dataclasses.dataclass(frozen=True)
class Score:
    """Result of an evaluation.

    Attributes:
        accuracy: mean over the episodes of the fraction of queries classified correctly.
        ci95: half the width of the 95 % confidence interval of that mean.
        episodes: number of episodes.
        per_class: for each class position that was queried, the fraction of correct queries.
        seconds: what the matching of the episodes took.
        outcome: the predictions, of which the rest is computed; None where they are not kept.
    """

    accuracy: float
    ci95: float
    episodes: int
    per_class: dict[int, float]
    seconds: float = 0.0
    outcome: Outcome | None = dataclasses.field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, outcome: Outcome, seconds: float) -> "Score":
        """Summarizes predictions, and keeps them."""
        episodes, _, queries = outcome.predicted.shape
        classes = np.repeat(outcome.classes, queries, axis=1)
        correct = outcome.correct.reshape(episodes, -1).astype(np.float64)
        return dataclasses.replace(score(correct, classes), seconds=seconds, outcome=outcome)


def score(correct: Float[np.ndarray, "e q"], classes: Int[np.ndarray, "e q"]) -> Score:
    """Summarizes which queries were classified correctly.

    ci95 = 1.96 · standard deviation over episodes / sqrt(episodes), with e - 1 degrees of freedom.

    Args:
        correct: 1 for a correct prediction, else 0; at least two episodes.
        classes: the class of each query.
    """
    fractions = correct.mean(axis=1)
    positions = np.unique(classes)
    return Score(
        accuracy=float(fractions.mean()),
        ci95=float(_Z95 * fractions.std(ddof=1) / math.sqrt(len(fractions))),
        episodes=len(fractions),
        per_class={int(c): float(correct[classes == c].mean()) for c in positions},
    )


def clip_key(clip: Clip) -> Hashable:
    """Returns what two clips have in common exactly when they show the same frames."""
    return clip.class_position, clip.video_position, clip.draws.tobytes()


class FeatureStore:
    """The features of embedded clips, at most so many of them.

    Args:
        embed: embeds clips; those that turn out bad are missing from what it yields.
        capacity: number of clips that are kept.
    """

    def __init__(self, embed: EmbedClips, capacity: int):
        self.capacity = capacity
        self._embed = embed
        self._rows: dict[Hashable, int] = {}
        # A pytree of arrays whose leading axis are the rows; None before the first clip.
        self._tables: Features = None

    def ensure(self, clips: Iterable[Clip]) -> bool:
        """Embeds those clips that are not in the store, dropping others if there is no room.

        Returns:
            Whether all of them are in the store now; False if some turned out bad.
        """
        wanted = {clip_key(clip): clip for clip in clips}
        missing = {key: clip for key, clip in wanted.items() if key not in self._rows}
        if len(self._rows) + len(missing) > self.capacity:
            self._keep([key for key in self._rows if key in wanted])
        keys = list(missing)
        for positions, new in self._embed(list(missing.values())) if missing else ():
            self._append([keys[position] for position in positions], new)
        return all(key in self._rows for key in wanted)

    def rows(self, clips: Iterable[Clip]) -> list[int]:
        """Returns the rows of embedded clips in `table`."""
        return [self._rows[clip_key(clip)] for clip in clips]

    def table(self) -> Features:
        """Copies the features of all clips to the device; rows behind the last clip are zero.

        The number of rows is a power of two, so that few shapes have to be compiled for.
        """
        return jax.tree.map(jnp.asarray, self._tables)

    def _keep(self, keys: Sequence[Hashable]) -> None:
        rows = [self._rows[key] for key in keys]
        self._tables = jax.tree.map(lambda table: _grown(table[rows], len(table)), self._tables)
        self._rows = {key: row for row, key in enumerate(keys)}

    def _append(self, keys: Sequence[Hashable], new: Features) -> None:
        start, stop = len(self._rows), len(self._rows) + len(keys)
        tables = self._tables
        if tables is None:
            tables = jax.tree.map(lambda array: array[:0], new)
        if stop > len(jax.tree.leaves(tables)[0]):
            size = 1 << (stop - 1).bit_length()
            tables = jax.tree.map(lambda table: _grown(table, size), tables)
        for table, array in zip(jax.tree.leaves(tables), jax.tree.leaves(new), strict=True):
            table[start:stop] = array
        self._tables = tables
        self._rows |= {key: start + row for row, key in enumerate(keys)}


def _grown(table: np.ndarray, size: int) -> np.ndarray:
    grown = np.zeros((size, *table.shape[1:]), table.dtype)
    grown[: len(table)] = table
    return grown


def evaluate_episodes(
    resolve: Callable[[int], ResolvedEpisode],
    episodes: int,
    *,
    store: FeatureStore,
    match: MatchEpisodes,
    batch: int,
    advance: Callable[[int], object] = lambda count: None,
) -> Score:
    """Evaluates episodes 0 .. episodes - 1.

    Args:
        resolve: returns the episode of an index, without clips known to be bad; raises `MoloError`
            when too few are left.
        episodes: how many; at least two.
        store: embeds the clips and keeps them.
        match: matches a batch of episodes.
        batch: number of episodes of each call of `match`.
        advance: called with the number of episodes finished since its last call.
    """
    outcomes, seconds = [], 0.0
    for indices in _groups(resolve, episodes, store.capacity):
        group = _embedded(resolve, indices, store)
        table = store.table()
        began = time.monotonic()
        for start in range(0, len(group), batch):
            part = group[start : start + batch]
            outcomes.append(_outcome(part, _logits(part, table, store, match, batch)))
            advance(len(part))
        seconds += time.monotonic() - began
    return Score.of(joined(outcomes), seconds)


def predictions(
    logits: Float[np.ndarray, "e w q n"],
) -> tuple[Int[np.ndarray, "e w q"], Float[np.ndarray, "e w q"]]:
    """Returns the predicted labels, and the margins of :class:`Outcome`.

    Raises:
        MoloError: a score is not finite.
    """
    if not np.isfinite(logits).all():
        raise MoloError(
            "the scores of the network are not finite, so nothing can be predicted; its weights or"
            " running statistics are broken (python -m molo_jax.convert SRC DST checks a file)"
        )
    way = logits.shape[-1]
    is_true = np.eye(way, dtype=bool)[:, None, :]
    true = np.where(is_true, logits, -np.inf).max(axis=-1)
    other = np.where(is_true, -np.inf, logits).max(axis=-1)
    return logits.argmax(axis=-1).astype(np.int32), (true - other).astype(np.float32)


def _outcome(part: Sequence[ResolvedEpisode], logits: Float[np.ndarray, "e q n"]) -> Outcome:
    """Brings the scores of shuffled queries into the order of the labels."""
    way = logits.shape[-1]
    ordered = np.stack(
        [each[episode.query_order] for episode, each in zip(part, logits, strict=True)]
    )
    predicted, margins = predictions(ordered.reshape(len(part), way, -1, way))
    sets = [
        np.stack(
            [
                [getattr(episode, name)[place].video_position for place in order(episode)]
                for episode in part
            ]
        ).reshape(len(part), way, -1)
        for name, order in (
            ("support", lambda episode: episode.support_order),
            ("query", lambda episode: episode.query_order),
        )
    ]
    classes = np.stack([episode.query_classes[episode.query_order] for episode in part])
    return Outcome(
        classes=classes.reshape(len(part), way, -1)[:, :, 0],
        videos=np.concatenate(sets, axis=-1).astype(np.int32),
        n_shot=sets[0].shape[-1],
        predicted=predicted,
        margins=margins,
    )


def joined(outcomes: Sequence[Outcome]) -> Outcome:
    """Puts the episodes of several outcomes behind each other."""
    names = ("classes", "videos", "predicted", "margins")
    arrays = {name: np.concatenate([getattr(each, name) for each in outcomes]) for name in names}
    return Outcome(n_shot=outcomes[0].n_shot, **arrays)


def _groups(
    resolve: Callable[[int], ResolvedEpisode], episodes: int, capacity: int
) -> Iterator[Sequence[int]]:
    """Cuts the episodes into runs of which all clips fit the store at once."""
    start, keys = 0, set()
    for index in range(episodes):
        new = {clip_key(clip) for clip in _clips(resolve(index))}
        if index > start and len(keys | new) > capacity:
            yield range(start, index)
            start, keys = index, set()
        keys |= new
    yield range(start, episodes)


def _embedded(
    resolve: Callable[[int], ResolvedEpisode], indices: Sequence[int], store: FeatureStore
) -> list[ResolvedEpisode]:
    """Embeds the clips of the episodes, and of what takes the place of those that prove bad."""
    while True:
        group = [resolve(index) for index in indices]
        if store.ensure(clip for episode in group for clip in _clips(episode)):
            return group


def _clips(episode: ResolvedEpisode) -> list[Clip]:
    return [*episode.support, *episode.query]


def _logits(
    part: Sequence[ResolvedEpisode],
    table: Features,
    store: FeatureStore,
    match: MatchEpisodes,
    batch: int,
) -> Float[np.ndarray, "e q n"]:
    """Matches a batch; a short one is filled up with its first episode."""
    filled = [*part, *[part[0]] * (batch - len(part))]
    support = np.int32([store.rows(episode.support) for episode in filled])
    query = np.int32([store.rows(episode.query) for episode in filled])
    support_labels = np.stack([episode.support_labels for episode in filled])
    return np.asarray(match(table, support, query, support_labels))[: len(part)]
