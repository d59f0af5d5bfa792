"""Scores of many episodes from a table of the inner products of all tokens of a split.

Where a method sees tokens through inner products only (:mod:`molo_jax.methods.streams`), nothing
has to be computed of the features in an episode: the products of a query with the prototype of a
class are means of the products with its shots, and the squared norms of the prototype's tokens are
means of the products among the shots. Letters: r rows (clips), l tokens, e episodes, w way, k
shots, q queries of a class, n classes, p entries (pairs of a query and a class).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from molo_jax.methods.streams import Rule, Stream
from molo_jax.nn.ops import safe_norm

# Entries of one call of a program, and how many of them it works on side by side: so many fit into
# a processor's cache.
_ENTRIES, _FEW_ENTRIES, _SIDE_BY_SIDE = 65_536, 4_096, 256
# Query rows of which distances to all others are computed side by side.
_ROWS_AT_ONCE = 8
# Scores of so many pairs of a query and a class are kept at once: 256 MB.
_SCORES_AT_ONCE = 64 * 2**20
_FLOAT_BYTES = 4


@dataclasses.dataclass(frozen=True, eq=False)
class RowEpisodes:
    """Episodes of one way and number of shots, by the rows of their clips in a table of features.

    Attributes:
        support: rows of the support clips of each class.
        query: rows of its queries.
    """

    support: Int[np.ndarray, "e w k"]
    query: Int[np.ndarray, "e w q"]

    @property
    def entries(self) -> int:
        """The number of pairs of a query and a class of its episode."""
        return self.query.size * self.support.shape[1]


def is_worth_it(
    streams: Mapping[str, Stream],
    row_classes: Int[np.ndarray, "r"],
    episodes: Sequence[RowEpisodes],
    budget: int,
) -> bool:
    """Whether a table of inner products is less work than to compute those of each episode.

    Args:
        streams: those of the method; none: it cannot use a table.
        row_classes: the class of each row.
        episodes: all that shall be scored.
        budget: bytes that a part of the table may take; the part of a class must fit.
    """
    if not streams:
        return False
    each_clip = any(stream.rule.each_clip for stream in streams.values())
    compared = sum(one.entries * (one.support.shape[2] if each_clip else 1) for one in episodes)
    largest = int(np.bincount(row_classes).max())
    room = max(_pair_bytes(stream, episodes) for stream in streams.values()) * largest**2
    return len(row_classes) ** 2 <= compared and room <= budget


def product_logits(
    streams: Mapping[str, Stream],
    row_classes: Int[np.ndarray, "r"],
    episodes: Sequence[RowEpisodes],
    *,
    budget: int,
    advance: Callable[[int], object] = lambda count: None,
) -> Iterator[Float[np.ndarray, "e w q n"]]:
    """Scores the queries of many episodes.

    The table is computed in parts, each for the clips of some classes against those of others, so
    that a part fits the budget. Beside a part, memory holds the scores.

    Args:
        streams: those of the method; their tokens may lie on disk.
        row_classes: the class of each row; no episode mixes classes under one label.
        episodes: one item for each way and number of shots.
        budget: bytes that a part of the table may take.
        advance: called with the number of pairs of a query and a class that were finished since its
            last call, once for each stream.

    Yields:
        The scores of each item: the negative weighted sum of the distances, up to a number that is
        the same for all classes.
    """
    groups = {
        name: _groups(row_classes, _pair_bytes(stream, episodes), budget)
        for name, stream in streams.items()
    }
    kept: dict[str, tuple[Any, ...]] = {}
    for together in _together(episodes):
        totals = [
            np.zeros((*one.query.shape, one.support.shape[1]), np.float32) for one in together
        ]
        for name, stream in streams.items():
            parts = _Parts(stream, groups[name], together, keep=kept.setdefault(name, {}))
            parts.add_to(totals, advance)
        for total in totals:
            yield -total


def _pair_bytes(stream: Stream, episodes: Sequence[RowEpisodes]) -> int:
    """Returns the bytes of the table for each pair of clips."""
    if stream.rule.each_clip or all(one.support.shape[2] == 1 for one in episodes):
        return _FLOAT_BYTES
    return _FLOAT_BYTES * (1 + stream.tokens.shape[1] ** 2)


def _together(episodes: Sequence[RowEpisodes]) -> Iterator[list[RowEpisodes]]:
    """Splits the items into runs whose scores fit into memory at once."""
    run: list[RowEpisodes] = []
    for one in episodes:
        if run and sum(each.entries for each in (*run, one)) > _SCORES_AT_ONCE:
            yield run
            run = []
        run.append(one)
    yield run


@dataclasses.dataclass(frozen=True, eq=False)
class _Groups:
    """The rows, divided into groups of whole classes.

    Attributes:
        rows: the rows of each group.
        group: the group of each row.
        place: the place of each row in its group.
    """

    rows: list[np.ndarray]
    group: Int[np.ndarray, "r"]
    place: Int[np.ndarray, "r"]


def _groups(row_classes: Int[np.ndarray, "r"], pair_bytes: int, budget: int) -> _Groups:
    """Divides the rows so that each pair of groups fits the budget."""
    most = max(1, int((budget / pair_bytes) ** 0.5))
    order = np.argsort(row_classes, kind="stable")
    counts = np.bincount(row_classes)
    ends, size, cuts = np.cumsum(counts), 0, []
    for count, end in zip(counts, ends, strict=True):
        if size and size + count > most:
            cuts.append(end - count)
            size = 0
        size += count
    rows = np.split(order, cuts)
    group = np.empty(len(row_classes), np.int32)
    place = np.empty(len(row_classes), np.int32)
    for number, members in enumerate(rows):
        group[members], place[members] = number, np.arange(len(members))
    return _Groups(rows, group, place)


class _Parts:
    """The parts of the table of one stream, and the episodes that look into them.

    Args:
        stream: the tokens, and their rule.
        groups: the rows of the parts.
        episodes: what looks up distances.
        keep: holds the only part from one use to the next, where there is only one.
    """

    def __init__(
        self, stream: Stream, groups: _Groups, episodes: Sequence[RowEpisodes], keep: dict
    ):
        self._rule, self._tokens = stream.rule, stream.tokens
        self._groups, self._episodes, self._keep = groups, episodes, keep
        self._only = len(groups.rows) == 1

    def add_to(self, totals: Sequence[np.ndarray], advance: Callable[[int], object]) -> None:
        """Adds the weighted distances of the stream to those of the episodes, each (e, w, q, n)."""
        count = len(self._groups.rows)
        for support_group in range(count):
            # The norms of the prototypes come from the products of the group with itself.
            others = [group for group in range(count) if group != support_group]
            norms: list[Array | None] = [None] * len(self._episodes)
            for query_group in (support_group, *others):
                part = self._part(query_group, support_group)
                for number, (one, total) in enumerate(zip(self._episodes, totals, strict=True)):
                    if query_group == support_group and not self._by_pairs(one):
                        norms[number] = self._prototype_norms(one, support_group, part)
                    found = self._add(one, total, query_group, support_group, part, norms[number])
                    advance(found)

    def _by_pairs(self, one: RowEpisodes) -> bool:
        """Whether distances of two clips are all that is needed."""
        return self._rule.each_clip or one.support.shape[2] == 1

    def _part(self, query_group: int, support_group: int) -> "_Part":
        if self._only and "part" in self._keep:
            return self._keep["part"]
        rows = self._groups.rows
        part = _Part(
            self._rule, *(self._read(rows[group]) for group in (query_group, support_group))
        )
        if self._only:
            self._keep["part"] = part
        return part

    def _read(self, rows: Int[np.ndarray, "g"]) -> Float[Array, "g l d"]:
        return jnp.asarray(np.asarray(self._tokens[rows], np.float32))

    def _prototype_norms(
        self, one: RowEpisodes, support_group: int, part: "_Part"
    ) -> Float[np.ndarray, "e w l"]:
        """Computes the norms of the tokens of all prototypes of a group; zeros elsewhere."""
        inside = self._groups.group[one.support[:, :, 0]] == support_group
        shots = self._groups.place[one.support[inside]]
        norms = np.zeros((*inside.shape, self._tokens.shape[1]), np.float32)
        norms[inside] = _in_chunks(
            functools.partial(_norms_of_prototypes, part.products_in_place), (shots,)
        )
        return norms

    def _add(
        self,
        one: RowEpisodes,
        total: Float[np.ndarray, "e w q n"],
        query_group: int,
        support_group: int,
        part: "_Part",
        norms: Float[np.ndarray, "e w l"] | None,
    ) -> int:
        """Adds the distances of the queries of one group to the classes of another.

        Returns:
            How many there were.
        """
        groups, place = self._groups.group, self._groups.place
        asks = groups[one.query[:, :, 0]] == query_group
        answers = groups[one.support[:, :, 0]] == support_group
        found = 0
        # Some episodes after the others, so that no index of all entries is made.
        step = max(1, _ENTRIES // (one.entries // len(one.query)))
        for start in range(0, len(one.query), step):
            stop = start + step
            both = asks[start:stop, :, None] & answers[start:stop, None, :]
            episode, label, other = np.nonzero(both)
            if not len(episode):
                continue
            episode = episode + start
            queries = place[one.query[episode, label]]
            shots = place[one.support[episode, other]]
            if norms is None:
                distances = part.pairs[queries[:, :, None], shots[:, None, :]].mean(-1)
            else:
                count = queries.shape[1]
                repeated = functools.partial(np.repeat, repeats=count, axis=0)
                distances = _in_chunks(
                    functools.partial(
                        _distances_to_prototypes, self._rule, part.products, part.query_norms
                    ),
                    (queries.reshape(-1), repeated(shots), repeated(norms[episode, other])),
                ).reshape(-1, count)
            total[episode, label, :, other] += np.float32(self._rule.weight) * distances
            found += distances.size
        return found


class _Part:
    """The table of some queries and some support clips; what is not needed is not computed."""

    def __init__(self, rule: Rule, query: Float[Array, "a l d"], support: Float[Array, "b l d"]):
        self._rule, self._query, self._support = rule, query, support
        self.query_norms = safe_norm(query)

    @functools.cached_property
    def products(self) -> Float[Array, "a b l l"]:
        """Inner products of the tokens of both clips."""
        return _products(self._query, self._support)

    @functools.cached_property
    def products_in_place(self) -> Float[Array, "a b l"]:
        """Inner products of those tokens that have the same place in both clips."""
        return _products_in_place(self.products)

    @functools.cached_property
    def pairs(self) -> Float[np.ndarray, "a b"]:
        """Distances of two clips."""
        return np.asarray(_distances_of_clips(self._rule, self._query, self._support))


@jax.jit
def _products(query: Array, support: Array) -> Array:
    return lax.map(
        lambda tokens: jnp.einsum("id,bjd->bij", tokens, support, precision=lax.Precision.HIGHEST),
        query,
        batch_size=_ROWS_AT_ONCE,
    )


@functools.partial(jax.jit, static_argnums=0)
def _distances_of_clips(rule: Rule, query: Array, support: Array) -> Array:
    norms = safe_norm(support)

    def one(tokens: Array) -> Array:
        products = jnp.einsum("id,bjd->bij", tokens, support, precision=lax.Precision.HIGHEST)
        own = jnp.broadcast_to(safe_norm(tokens), norms.shape)
        return rule.distance(products, own, norms)

    return lax.map(one, query, batch_size=_ROWS_AT_ONCE)


@jax.jit
def _products_in_place(products: Float[Array, "a b l l"]) -> Float[Array, "a b l"]:
    """Returns the products of those tokens that have the same place in both clips."""
    return jnp.diagonal(products, axis1=2, axis2=3)


@jax.jit
def _norms_of_prototypes(
    products: Float[Array, "b b l"], shots: Int[Array, "p k"]
) -> Float[Array, "p l"]:
    """Norms of the means of the tokens of some clips, by the products of tokens in one place."""

    def one(shots: Array) -> Array:
        among = products[shots[:, None], shots[None, :]]
        return jnp.sqrt(jnp.maximum(jnp.mean(among, axis=(0, 1)), 0.0))

    return lax.map(one, shots, batch_size=_SIDE_BY_SIDE)


@functools.partial(jax.jit, static_argnums=0)
def _distances_to_prototypes(
    rule: Rule,
    products: Array,
    query_norms: Array,
    queries: Int[Array, "p"],
    shots: Int[Array, "p k"],
    norms: Float[Array, "p l"],
) -> Float[Array, "p"]:
    def one(entry: tuple[Array, Array, Array]) -> Array:
        query, shots, norms = entry
        means = jnp.mean(products[query, shots], axis=0)
        return rule.distance(means, query_norms[query], norms)

    return lax.map(one, (queries, shots, norms), batch_size=_SIDE_BY_SIDE)


def _in_chunks(function: Callable[..., Array], arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Calls a function on chunks of one size, so that it is compiled once; joins the results."""
    count = len(arrays[0])
    results = []
    for start in range(0, count, _ENTRIES):
        chunks = [array[start : start + _ENTRIES] for array in arrays]
        short = _ENTRIES - len(chunks[0])
        if short:
            # Two sizes, and so two programs: the smaller one for a few episodes.
            size = _FEW_ENTRIES if len(chunks[0]) <= _FEW_ENTRIES else _ENTRIES
            lack = size - len(chunks[0])
            chunks = [np.concatenate([chunk, np.repeat(chunk[:1], lack, 0)]) for chunk in chunks]
        results.append(np.asarray(function(*chunks))[: count - start])
    return np.concatenate(results)
