"""Episodes of many ways and shots, matched by the features of a bank."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from molo_jax.analysis.outcome import Outcome
from molo_jax.bank.store import FeatureBank
from molo_jax.console import Progress
from molo_jax.data.clips.draw_numbers import draw_numbers
from molo_jax.data.clips.episodes import EpisodeSampler
from molo_jax.data.clips.table import EpisodeTable, draw_table
from molo_jax.engine.evaluation import Score, predictions
from molo_jax.engine.products import RowEpisodes, is_worth_it, product_logits
from molo_jax.methods.base import Method
from molo_jax.methods.episode import Features

# (number of classes, features, support rows (e, s), query rows (e, q), support labels (e, s)) ->
# logits (e, q, n).
MatchRows = Callable[[int, Features, np.ndarray, np.ndarray, np.ndarray], Any]
# (way, shot).
Cell = tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Sweep:
    """The episodes of some ways and shots.

    Attributes:
        samplers: (way, shot) -> the episodes.
        tables: way -> their classes and videos, for all numbers of shots.
        episodes: how many there are of each.
    """

    samplers: Mapping[Cell, EpisodeSampler]
    tables: Mapping[int, EpisodeTable]
    episodes: int

    @classmethod
    def draw(
        cls,
        samplers: Mapping[Cell, EpisodeSampler],
        episodes: int,
        is_bad: Callable[[int, int], bool],
    ) -> "Sweep":
        """Draws the episodes.

        Raises:
            MoloError: a class has too few usable videos.
        """
        most = {}
        for (way, shot), sampler in samplers.items():
            if way not in most or shot > most[way].n_shot:
                most[way] = sampler
        tables = {way: draw_table(sampler, episodes, is_bad) for way, sampler in most.items()}
        return cls(samplers, tables, episodes)

    def videos(self, cell: Cell) -> Int[np.ndarray, "e w k+q"]:
        """Returns the positions of the videos of each class, the support first."""
        sampler = self.samplers[cell]
        return self.tables[cell[0]].of_shots(sampler.n_shot, sampler.n_query)

    def rows(self, cell: Cell, bank: FeatureBank) -> Int[np.ndarray, "e w k+q"]:
        """Returns the rows of the clips in a bank."""
        sampler, videos = self.samplers[cell], self.videos(cell)
        classes = self.tables[cell[0]].classes[:, :, None]
        draws: Any = 0
        if sampler.draws > 1:
            indices = np.arange(self.episodes)[:, None, None]
            draws = draw_numbers(
                sampler.seed, sampler.split_name, indices, classes, videos, sampler.draws
            )
        return bank.rows(classes, videos, draws)

    def all_rows(self, bank: FeatureBank) -> Int[np.ndarray, "r"]:
        """Returns the rows that any episode needs, ascending."""
        needed = np.zeros(bank.videos * max(s.draws for s in self.samplers.values()), bool)
        for cell in self.samplers:
            needed[self.rows(cell, bank)] = True
        return np.flatnonzero(needed)


def sweep_scores(
    sweep: Sweep,
    bank: FeatureBank,
    model: Method,
    match: MatchRows,
    *,
    budget: int,
    batch: int,
    title: str,
) -> dict[Cell, Score]:
    """Scores all episodes by the features of a bank.

    Where the method sees tokens through inner products only, and there are more comparisons of
    clips than pairs of clips in the bank, the scores come from a table of inner products.
    Otherwise each episode is matched by itself. Both give the same scores up to rounding.

    Args:
        sweep: the episodes.
        bank: holds the features of all their clips.
        model: the network's method; its weights are not used.
        match: matches episodes given by rows.
        budget: bytes of memory for features or for a table.
        batch: episodes that `match` gets at once.
        title: what the progress bar says.

    Raises:
        MoloError: a score is not finite.
    """
    features = bank.features()
    streams = model.streams(features)
    classes, _, _ = bank.places(np.arange(len(bank.present(bank.draws))))
    cells = {}
    for cell, sampler in sweep.samplers.items():
        rows = sweep.rows(cell, bank)
        cells[cell] = RowEpisodes(rows[:, :, : sampler.n_shot], rows[:, :, sampler.n_shot :])
    by_products = is_worth_it(streams, classes, list(cells.values()), budget)
    began = time.monotonic()
    scores, total = {}, sum(one.entries for one in cells.values())
    # A table serves all settings at once; each counts by the comparisons that it needs.
    with Progress(title, "pairs", total * max(1, len(streams) if by_products else 1)) as bar:
        if by_products:
            found = product_logits(
                streams, classes, list(cells.values()), budget=budget, advance=bar.update
            )
        else:
            table = _Rows(features, budget)
            found = (
                _matched(one, table, match, batch=batch, advance=bar.update)
                for one in cells.values()
            )
        for (cell, one), logits in zip(cells.items(), found, strict=True):
            predicted, margins = predictions(logits)
            outcome = Outcome(
                classes=sweep.tables[cell[0]].classes,
                videos=sweep.videos(cell),
                n_shot=one.support.shape[2],
                predicted=predicted,
                margins=margins,
            )
            now = time.monotonic()
            scores[cell] = Score.of(outcome, now - began)
            began = now
    if by_products:
        whole = sum(score.seconds for score in scores.values())
        shares = {cell: one.entries / total for cell, one in cells.items()}
        scores = {
            cell: dataclasses.replace(score, seconds=whole * shares[cell])
            for cell, score in scores.items()
        }
    return scores


class _Rows:
    """The features of a bank on the device: all of them, or those of some episodes."""

    def __init__(self, features: Features, budget: int):
        self._features = features
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(features))
        self._whole = jax.tree.map(jnp.asarray, features) if size <= budget else None

    def of(self, *rows: np.ndarray) -> tuple[Features, list[np.ndarray]]:
        """Returns features on the device, and the places of the given rows in these."""
        if self._whole is not None:
            return self._whole, [each.astype(np.int32) for each in rows]
        needed, places = np.unique(np.concatenate([x.ravel() for x in rows]), return_inverse=True)
        # A power of two, so that few shapes have to be compiled for.
        size = 1 << (len(needed) - 1).bit_length()
        padded = np.concatenate([needed, np.repeat(needed[:1], size - len(needed))])
        part = jax.tree.map(lambda leaf: jnp.asarray(leaf[padded]), self._features)
        cuts = np.cumsum([each.size for each in rows])[:-1]
        split = np.split(places.reshape(-1).astype(np.int32), cuts)
        return part, [place.reshape(each.shape) for place, each in zip(split, rows, strict=True)]


def _matched(
    one: RowEpisodes,
    table: _Rows,
    match: MatchRows,
    *,
    batch: int,
    advance: Callable[[int], object],
) -> Float[np.ndarray, "e w q n"]:
    """Matches episodes, some at a time; a short batch is filled up with its first episode."""
    episodes, way, shots = one.support.shape
    labels = np.tile(np.repeat(np.arange(way, dtype=np.int32), shots), (batch, 1))
    logits = np.empty((*one.query.shape, way), np.float32)
    for start in range(0, episodes, batch):
        places = np.arange(start, min(start + batch, episodes))
        filled = np.concatenate([places, np.repeat(places[:1], batch - len(places))])
        support, query = (x[filled].reshape(batch, -1) for x in (one.support, one.query))
        features, (support, query) = table.of(support, query)
        found = np.asarray(match(way, features, support, query, labels))[: len(places)]
        logits[places] = found.reshape(len(places), *one.query.shape[1:], way)
        advance(len(places) * one.entries // episodes)
    return logits
