"""Evaluation of a trained network: accuracy over many episodes of classes it has never seen."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from absl import logging

from molo_jax.analysis.outcome_file import outcome_path, write_outcomes
from molo_jax.analysis.summary import Cell, summarize
from molo_jax.bank.description import Layout
from molo_jax.banks import bank_scores, embed_for_first, key_of
from molo_jax.engine import hosts
from molo_jax.engine.checkpoint import Checkpoints
from molo_jax.engine.evaluation import Score
from molo_jax.engine.mesh import on_this_host
from molo_jax.errors import MoloError
from molo_jax.evaluated import Evaluation, Network, load_network, untrained
from molo_jax.evaluation_output import (
    STATIC,
    TITLES,
    TRAINED,
    UNTRAINED,
    file_name,
    format_table,
    header_of,
    no_intervals,
    record_of,
    suffix_of,
    usable_videos,
)
from molo_jax.evaluator import Evaluator
from molo_jax.files import locked
from molo_jax.methods.episode import Features
from molo_jax.provenance import Provenance, check_new, overlap, settings_seen
from molo_jax.results import Comparison, write_csv, write_result
from molo_jax.weights.networks import LATEST, read_meta

# How the folders of controls are called, and their file that says that they are in use.
_CONTROL, _LOCK = ".control-", ".lock"


def check_data(evaluation: Evaluation, workdir: Path) -> None:
    """Checks before hours of training that the evaluation behind it will be of new classes.

    Args:
        evaluation: what will be evaluated; `init_from` is what the training begins with.
        workdir: the work folder, whose checkpoint the training goes on from.

    Raises:
        MoloError: the weights that training begins with were trained on classes of the split.
    """
    with Checkpoints(workdir / LATEST, read_only=True) as checkpoints:
        going_on = checkpoints.latest_step() is not None
    if going_on or evaluation.init_from:
        where, meta = read_meta(workdir / LATEST if going_on else evaluation.init_from)
        found = overlap(Provenance.of_meta(meta), evaluation.tested, evaluation.split)
        check_new(where, found, evaluation.split, refuse=evaluation.refuse_trained)


def evaluate(
    evaluation: Evaluation, workdir: Path, trained_here: bool = False
) -> dict[tuple[str, int, int], Cell]:
    """Evaluates a network and the controls, prints a table.

    Writes `<workdir>/eval_<split>_<way>way_<shot>shot[_untrained|_static].json`. A file of another
    result that has this name is kept as `….json.old-1`, `….json.old-2` and so on. All results of
    this evaluation stand in `eval_<split>[_untrained|_static].csv`, and the predictions in
    `eval_<split>[_untrained|_static]_outcomes.npz`. For another data set than that of the
    configuration, its name stands in front of the split.

    Where each video has its own draws of frames, features are taken from the bank in
    `<workdir>/bank`, which is filled with what is missing.

    With several processes, all of them call this: each decodes and embeds its share of the clips,
    and process 0 alone writes.

    Args:
        evaluation: what is evaluated.
        workdir: the work folder.
        trained_here: whether the network has just been trained in the work folder: `init_from` is
            what its training began with then.

    Returns:
        The result for each variant (`trained`, `untrained`, `static`), way and number of shots; in
        other processes than process 0 nothing.

    Raises:
        MoloError: when the checkpoint is missing or broken, a video is broken, or the network was
            trained on classes of the split and these are refused.
    """
    data, split = evaluation.data, evaluation.split
    source = "" if trained_here else evaluation.init_from
    network = load_network(source, workdir, evaluation.method, data.mesh)
    comparison = _compare(evaluation, network)
    evaluator = Evaluator(data, network.graphdef)
    results = {}
    for variant in (TRAINED, *evaluation.controls):
        shown, compared = network, comparison
        if variant == UNTRAINED:
            shown = untrained(network.settings, evaluation.seed, data.mesh)
            compared = _compare(evaluation, shown)
        logging.info("evaluating on the %s split: %s", split, TITLES[variant])
        scores = _scores(evaluation, workdir, evaluator, shown, variant)
        # What others compute next may need this process, however long it has matched episodes.
        hosts.barrier(f"the episodes are matched: {variant}")
        if not hosts.is_first():
            continue
        sizes = usable_videos(data.dataset)
        cells = {
            cell: summarize(score.outcome, sizes, score.seconds) for cell, score in scores.items()
        }
        for (way, shot), cell in cells.items():
            results[variant, way, shot] = cell
            record = record_of(evaluation, shown, compared, variant, cell)
            write_result(workdir / file_name(evaluation.name, record), record)
        name = evaluation.name + suffix_of(variant)
        write_csv(workdir / f"eval_{name}.csv", list(cells.values()))
        header = header_of(evaluation, shown, variant)
        outcomes = {cell: score.outcome for cell, score in scores.items()}
        write_outcomes(outcome_path(workdir, name), header, outcomes)
    if not hosts.is_first():
        return results
    ways = list(dict.fromkeys(way for way, _ in data.samplers))
    brackets = any(cell.intervals.ci95_videos is not None for cell in results.values())
    head = (
        f"{evaluation.dataset}, {split} split: {f'{ways[0]}-way ' if len(ways) == 1 else ''}"
        f"accuracy in % with 95 % intervals over {evaluation.episodes} episodes"
        f"{' (in brackets: over videos)' if brackets else ''}, network of step {network.step}"
    )
    print(format_table(head, results, [*comparison.notes(split), *no_intervals(results)]))
    if source:
        print(f"the network is that of {network.checkpoint}")
    if data.dataset.bad_count:
        logging.warning("%d videos of the split were left out as unusable", data.dataset.bad_count)
    return results


def _scores(
    evaluation: Evaluation, workdir: Path, evaluator: Evaluator, network: Network, variant: str
) -> dict[tuple[int, int], Score]:
    """Evaluates a variant; what a control needs of a bank is removed again.

    Returns:
        The scores; nothing where process 0 alone has matched the episodes.
    """
    data, weights = evaluation.data, (network.params, network.batch_stats)
    title = f"{evaluation.split}, {TITLES[variant]}"
    common = {"episodes": evaluation.episodes, "title": title}
    if not data.uses_bank:
        logging.info(
            "frames are drawn anew in every episode (eval.frame_draw=episode): %s clips are decoded"
            " and embedded; with --config.eval.frame_draw=video each of the %s videos is once",
            f"{sum(s.need * s.n_way for s in data.samplers.values()) * evaluation.episodes:,}",
            f"{sum(data.dataset.class_sizes):,}",
        )
    if not (data.uses_bank and _can_be_kept(evaluator.like(*weights))):
        return evaluator.scores(*weights, static=variant == STATIC, **common)
    if not hosts.is_first():
        embed_for_first(evaluator, data, *weights)
        return {}
    key = key_of(
        data,
        network.settings,
        *on_this_host(weights),
        dataset=evaluation.dataset,
        clips=evaluation.clips,
        seed=evaluation.seed,
        static=variant == STATIC,
        about={"checkpoint": network.checkpoint, "step": network.step},
    )
    with _place_of_bank(workdir, variant) as place:
        return bank_scores(place, evaluator, data, *weights, key, **common)


@contextlib.contextmanager
def _place_of_bank(workdir: Path, variant: str) -> Iterator[Path]:
    """Gives the folder of banks; that of a control is of this evaluation alone."""
    if variant == TRAINED:
        yield workdir
        return
    _remove_abandoned(workdir)
    with (
        tempfile.TemporaryDirectory(prefix=_CONTROL, dir=workdir) as folder,
        locked(Path(folder) / _LOCK, str),
    ):
        yield Path(folder)


def _remove_abandoned(workdir: Path) -> None:
    """Removes what evaluations of controls have left that were killed."""
    for folder in workdir.glob(f"{_CONTROL}*"):
        # Another evaluation still uses it, or the folder cannot be written.
        with contextlib.suppress(MoloError, OSError):
            with locked(folder / _LOCK, str):
                pass
            shutil.rmtree(folder)


def _can_be_kept(features: Features) -> bool:
    """Whether a bank can hold such features; a method of one's own may have others."""
    try:
        Layout.of(features, ())
    except MoloError as error:
        logging.warning("%s; they are computed for this evaluation alone", error)
        return False
    return True


def _compare(evaluation: Evaluation, network: Network) -> Comparison:
    return Comparison.of(
        network.checkpoint,
        network.origin,
        evaluation.tested,
        evaluation.split,
        seen=settings_seen(
            evaluation.clips,
            evaluation.data.dataset,
            network.settings,
            evaluation.data.precision.name,
        ),
        refuse=evaluation.refuse_trained,
    )
