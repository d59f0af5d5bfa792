"""Embeds the clips of a split, and says what became of it."""

from pathlib import Path

from absl import logging

from molo_jax.bank.store import FeatureBank, in_mib
from molo_jax.banks import check_draws, filled_bank, key_of
from molo_jax.evaluate import Evaluation, load_network
from molo_jax.evaluator import Evaluator


def embed(evaluation: Evaluation, workdir: Path, draws: int) -> FeatureBank:
    """Fills the bank of a network's features of a split, and prints where it is.

    Args:
        evaluation: the split and the network, see :func:`molo_jax.build.embedding`.
        workdir: the work folder.
        draws: number of draws of each video.

    Raises:
        UsageError: there cannot be so many draws.
        MoloError: the network cannot be loaded, a video is bad and these are refused, or the bank
            is damaged or cannot be written.
    """
    data = evaluation.data
    check_draws(draws, data.reading["sampling"])
    network = load_network(evaluation.init_from, workdir, evaluation.method, data.mesh)
    weights = network.params, network.batch_stats
    key = key_of(
        data,
        network.settings,
        *weights,
        dataset=evaluation.dataset,
        clips=evaluation.clips,
        seed=evaluation.seed,
        about={"checkpoint": network.checkpoint, "step": network.step},
    )
    evaluator = Evaluator(data, network.graphdef)
    bank = filled_bank(workdir, evaluator, data, *weights, key, draws=draws, title=evaluation.split)
    if bank.bad:
        logging.warning("%d videos of the split were left out as unusable", len(bank.bad))
    print(f"{bank.folder}: features of {bank.present(draws).sum():,} clips, {in_mib(bank.bytes)}")
    return bank
