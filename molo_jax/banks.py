"""The bank of a network's features of a split, filled where it lacks any."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from molo_jax.bank.filling import fill, open_bank
from molo_jax.bank.key import BANKS, BankKey, bank_key
from molo_jax.bank.store import FeatureBank
from molo_jax.console import Progress
from molo_jax.data.clips.episodes import clip_of_draw
from molo_jax.errors import UsageError
from molo_jax.evaluator import EvaluationData, Evaluator
from molo_jax.methods.settings import Settings
from molo_jax.provenance import ListRecord, settings_seen

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
) -> FeatureBank:
    """Returns the bank of a network's features of a split, with all that can be embedded.

    Args:
        workdir: the work folder; the bank lies in `<workdir>/bank`.
        evaluator: embeds the clips.
        data: the split; it is told of the videos that are bad.
        params: the network's parameters.
        batch_stats: its batch-normalization statistics.
        key: see `key_of`.
        draws: number of draws of each video.
        title: what the progress bar says.

    Raises:
        UsageError: there cannot be so many draws.
        MoloError: a video is bad and these are refused, or the bank is damaged or cannot be
            written.
    """
    check_draws(draws, data.reading["sampling"])
    source = data.dataset
    like = evaluator.like(params, batch_stats)
    bank = open_bank(workdir / BANKS, key, like, source.class_sizes)
    seed = key.values["seed"] or 0
    clip_of = functools.partial(clip_of_draw, seed, source.split.name, data.num_frames)
    static = key.values["one repeated frame"]
    with Progress(title, "clips") as bar:
        fill(
            bank,
            source,
            clip_of,
            lambda clips: evaluator.embed(params, batch_stats, clips, static=static, bar=bar),
            draws,
        )
    return bank


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
