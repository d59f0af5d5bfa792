"""The bank of a network's features of a split, filled where it lacks any."""

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Int

from molo_jax.bank.description import Layout
from molo_jax.bank.filling import ClipOfDraw, Requests, fill, open_bank
from molo_jax.bank.key import BANKS, BankKey, bank_key
from molo_jax.bank.store import FeatureBank
from molo_jax.console import Progress
from molo_jax.data.clips.episodes import clip_of_draw
from molo_jax.engine import hosts
from molo_jax.engine.evaluation import Score
from molo_jax.errors import UsageError
from molo_jax.evaluator import EvaluationData, Evaluator
from molo_jax.methods.episode import Features
from molo_jax.methods.settings import Settings
from molo_jax.provenance import ListRecord, settings_seen
from molo_jax.sweep import Cell, Sweep, sweep_scores

MOST_DRAWS = 1000


def key_of(
    data: EvaluationData,
    settings: Settings,
    params: nnx.State,
    batch_stats: nnx.State,
    *,
    dataset: str,
    clips: Mapping[str, Any],
    seed: int,
    static: bool = False,
    about: Mapping[str, Any] | None = None,
) -> BankKey:
    """Returns the key of the features that a network has of a split.

    Args:
        data: the split, and how its clips are read and embedded.
        settings: those of the network.
        params: its parameters.
        batch_stats: its batch-normalization statistics.
        dataset: name of the data set.
        clips: see :func:`molo_jax.provenance.settings_seen`.
        seed: of the draws of the frames.
        static: whether one frame of each clip is shown again and again.
        about: what is written beside the key, such as `step` and `checkpoint`.
    """
    source = data.dataset
    states = {"params": params, "batch_stats": batch_stats}
    weights = {
        (name, *path): jax.device_get(leaf[...])
        for name, state in states.items()
        for path, leaf in nnx.to_flat_state(state)
    }
    return bank_key(
        weights=weights,
        seen=settings_seen(clips, source, settings, data.precision.name),
        method=settings.method,
        backbone=settings.backbone,
        dataset=dataset,
        split=source.split.name,
        list_digest=ListRecord.of(dataset, source.split).digest,
        data=source.identity(),
        sampling=data.reading["sampling"],
        seed=seed,
        static=static,
        about=about,
    )


def filled_bank(
    workdir: Path,
    evaluator: Evaluator,
    data: EvaluationData,
    params: nnx.State,
    batch_stats: nnx.State,
    key: BankKey,
    *,
    draws: int,
    title: str,
    wanted: Callable[[FeatureBank], Int[np.ndarray, "r"]] | None = None,
) -> FeatureBank:
    """Returns the bank of a network's features of a split, with all that can be embedded.

    With several processes, process 0 calls this, for it alone reads and writes the bank. The others
    call `embed_for_first`, which returns when all that was lacking is embedded.

    Args:
        workdir: the work folder; the bank lies in `<workdir>/bank`.
        evaluator: embeds the clips.
        data: the split; it is told of the videos that are bad.
        params: the network's parameters.
        batch_stats: its batch-normalization statistics.
        key: see `key_of`.
        draws: number of draws of each video.
        title: what the progress bar says.
        wanted: returns the rows that are needed, and is asked again when further videos turned out
            to be bad; None: all rows.

    Raises:
        UsageError: there cannot be so many draws.
        MoloError: a video is bad and these are refused, or the bank is damaged or cannot be
            written.
    """
    check_draws(draws, data.reading["sampling"])
    source = data.dataset
    like = evaluator.like(params, batch_stats)
    bank = open_bank(workdir / BANKS, key, like, source.class_sizes)
    drawn = {"seed": key.values["seed"] or 0, "static": key.values["one repeated frame"]}
    clip_of = _clip_of(data, drawn["seed"])
    source.note_bad(bank.bad)
    with Progress(title, "clips") as bar:

        def embed(clips: Requests) -> Iterator[tuple[np.ndarray, Features]]:
            bad = [[*place, reason] for place, reason in source.bad_places().items()]
            hosts.broadcast({"runs": _runs(clips.rows), "bad": bad, **drawn})
            static = drawn["static"]
            return evaluator.embed(params, batch_stats, clips, static=static, bar=bar)

        while True:
            rows, known = wanted(bank) if wanted else None, source.bad_count
            fill(bank, source, clip_of, embed, draws, rows)
            if rows is None or source.bad_count == known:
                hosts.broadcast(None)
                there = np.flatnonzero(bank.present(draws))
                bank.verify(there if rows is None else rows)
                return bank


def embed_for_first(
    evaluator: Evaluator, data: EvaluationData, params: nnx.State, batch_stats: nnx.State
) -> None:
    """Embeds this process's share of the clips that the bank of process 0 lacks.

    To be called by all processes but process 0, while that fills a bank.

    Args:
        evaluator: embeds the clips.
        data: the split; it is told of the videos that are bad.
        params: the network's parameters.
        batch_stats: its batch-normalization statistics.
    """
    source = data.dataset
    layout = Layout.of(evaluator.like(params, batch_stats), tuple(source.class_sizes))
    while (asked := hosts.broadcast(None)) is not None:
        source.note_bad({(c, v): reason for c, v, reason in asked["bad"]})
        rows = np.concatenate([np.arange(*run) for run in asked["runs"]])
        clips = Requests(layout, rows, _clip_of(data, asked["seed"]))
        for _ in evaluator.embed(params, batch_stats, clips, static=asked["static"]):
            # The features are written by process 0.
            pass


def _clip_of(data: EvaluationData, seed: int) -> ClipOfDraw:
    return functools.partial(clip_of_draw, seed, data.dataset.split.name, data.num_frames)


def _runs(rows: Int[np.ndarray, "r"]) -> list[list[int]]:
    """Returns the first row of each run of ascending rows without a gap, and the row behind it."""
    starts = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)
    ends = [*starts[1:], len(rows)]
    return [[int(rows[i]), int(rows[j - 1]) + 1] for i, j in zip(starts, ends, strict=True)]


def bank_scores(
    workdir: Path,
    evaluator: Evaluator,
    data: EvaluationData,
    params: nnx.State,
    batch_stats: nnx.State,
    key: BankKey,
    *,
    episodes: int,
    title: str,
) -> dict[Cell, Score]:
    """Evaluates a network by its bank, which is filled with what the episodes need.

    With several processes, process 0 calls this and the others call `embed_for_first`.

    Args:
        workdir: the work folder; the bank lies in `<workdir>/bank`.
        evaluator: embeds the clips, and matches.
        data: the split and the episodes, whose clips are the draws of videos.
        params: the network's parameters.
        batch_stats: its batch-normalization statistics.
        key: see `key_of`.
        episodes: how many for each way and number of shots.
        title: what the progress bar says.

    Raises:
        MoloError: see `filled_bank`; or a score is not finite, or a class has too few videos.
    """
    drawn: list[Sweep] = []

    def wanted(bank: FeatureBank) -> Int[np.ndarray, "r"]:
        drawn[:] = [Sweep.draw(data.samplers, episodes, data.dataset.is_bad)]
        return drawn[0].all_rows(bank)

    draws = max(sampler.draws for sampler in data.samplers.values())
    bank = filled_bank(
        workdir,
        evaluator,
        data,
        params,
        batch_stats,
        key,
        draws=draws,
        title=title,
        wanted=wanted,
    )
    return sweep_scores(
        drawn[0],
        bank,
        evaluator.model(params, batch_stats),
        lambda way, *arrays: evaluator.match(way, params, batch_stats, *arrays),
        budget=data.cache_mib * 2**20,
        batch=data.episode_batch,
        title=title,
    )


def check_draws(draws: int, sampling: str) -> None:
    """Checks that videos can have so many draws.

    Raises:
        UsageError: with the number, and how many there may be.
    """
    if not 1 <= draws <= MOST_DRAWS:
        raise UsageError(f"draws is {draws}; expected 1 to {MOST_DRAWS:,}")
    if draws > 1 and sampling == "window_middle":
        raise UsageError(
            f"draws is {draws}, but the window in the middle of a video (data.sampling=window) has"
            " one draw only; expected 1"
        )
