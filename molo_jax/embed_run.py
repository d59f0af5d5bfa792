"""Embeds the clips of a split, exports their features, and says what became of it."""

import functools
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import logging

from molo_jax.bank.exporting import ExportedClips, export_npz, export_parquet
from molo_jax.bank.projector import check_projector_folder, export_projector
from molo_jax.bank.store import FeatureBank, in_mib
from molo_jax.banks import check_draws, embed_for_first, filled_bank, key_of
from molo_jax.data.clips.episodes import clip_of_draw
from molo_jax.data.store.processes import cores
from molo_jax.data.video.containers import BadVideoError
from molo_jax.engine import hosts
from molo_jax.engine.mesh import on_this_host
from molo_jax.evaluate import Evaluation, load_network
from molo_jax.evaluator import Evaluator

# What features are exported to: `.npz`, `.parquet` or `projector`, and the path.
Exports = Sequence[tuple[str, Path]]


def check_exports(exports: Exports) -> None:
    """Checks before the work that the folders of projectors can be written.

    Raises:
        MoloError: a folder holds other things.
    """
    for kind, path in exports:
        if kind == "projector":
            check_projector_folder(path)


def embed(
    evaluation: Evaluation, workdir: Path, draws: int, exports: Exports = ()
) -> FeatureBank | None:
    """Fills the bank of a network's features of a split, exports it, and prints where it is.

    With several processes, all of them call this: each decodes and embeds its share of the clips,
    and process 0 alone writes. In the others nothing is returned.

    Args:
        evaluation: the split and the network, see :func:`molo_jax.build.embedding`.
        workdir: the work folder.
        draws: number of draws of each video.
        exports: what the features are exported to.

    Raises:
        UsageError: there cannot be so many draws.
        MoloError: the network cannot be loaded, a video is bad and these are refused, or the bank
            is damaged, or something cannot be written.
    """
    data = evaluation.data
    check_draws(draws, data.reading["sampling"])
    network = load_network(evaluation.init_from, workdir, evaluation.method, data.mesh)
    weights = network.params, network.batch_stats
    evaluator, began = Evaluator(data, network.graphdef), time.monotonic()
    if not hosts.is_first():
        embed_for_first(evaluator, data, *weights)
        return None
    key = key_of(
        data,
        network.settings,
        *on_this_host(weights),
        dataset=evaluation.dataset,
        clips=evaluation.clips,
        seed=evaluation.seed,
        about={"checkpoint": network.checkpoint, "step": network.step},
    )
    bank = filled_bank(workdir, evaluator, data, *weights, key, draws=draws, title=evaluation.split)
    if bank.bad:
        logging.warning("%d videos of the split were left out as unusable", len(bank.bad))
    count = int(bank.present(draws).sum())
    seconds = time.monotonic() - began
    size = in_mib(bank.bytes)
    print(f"{bank.folder}: features of {count:,} clips, {size}, in {seconds:.1f} s")
    clips = ExportedClips.of(bank, evaluation.dataset, data.dataset.split, draws)
    for kind, path in exports:
        if kind == "projector":
            _export_projector(evaluation, path, clips)
        else:
            (export_npz if kind == ".npz" else export_parquet)(path, clips)
            print(f"{path}: {len(clips.rows):,} clips, {in_mib(path.stat().st_size)}")
    return bank


def _export_projector(evaluation: Evaluation, folder: Path, clips: ExportedClips) -> None:
    data = evaluation.data
    clip_of = functools.partial(
        clip_of_draw, evaluation.seed, data.dataset.split.name, data.num_frames
    )
    reading = {name: data.reading[name] for name in ("sampling", "resize")}

    def read_clip(*place: int) -> np.ndarray | None:
        try:
            return data.dataset.read_clip(clip_of(*place), **reading)
        # Its features are there; only the picture is not.
        except BadVideoError:
            return None

    workers = data.reading["workers"] or cores()
    points, count = export_projector(folder, clips, read_clip, workers)
    fewer = f" (of {count:,}, evenly spread)" if points < count else ""
    print(f"{folder}: {points:,} points{fewer}; tensorboard --logdir={folder} shows them")
