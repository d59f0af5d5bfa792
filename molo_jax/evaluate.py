"""Evaluation of a trained network: accuracy over many episodes of classes it has never seen."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import logging
from flax import nnx
from jax.sharding import Mesh

from molo_jax.engine.checkpoint import Checkpoints
from molo_jax.engine.evaluation import Score
from molo_jax.engine.state import create_model
from molo_jax.engine.step import replicated
from molo_jax.errors import MoloError
from molo_jax.evaluator import EvaluationData, Evaluator
from molo_jax.methods.settings import Settings
from molo_jax.provenance import ListRecord, Provenance, check_new, overlap, settings_seen
from molo_jax.results import Comparison, class_keys, write_result
from molo_jax.weights.networks import (
    BEST,
    LATEST,
    abstract_network,
    check_kind,
    check_same_network,
    filled,
    load_weights,
    read_meta,
    stored_settings,
)

# The rows of the table; the trained network has no suffix in the names of its files.
TRAINED, UNTRAINED, STATIC = "trained", "untrained", "static"
_TITLES = {
    TRAINED: "trained",
    UNTRAINED: "untrained network",
    STATIC: "trained, one repeated frame",
}


@dataclasses.dataclass(frozen=True)
class Network:
    """A network with its weights, and where they are from."""

    settings: Settings
    graphdef: nnx.GraphDef
    params: nnx.State
    batch_stats: nnx.State
    checkpoint: str
    step: int
    origin: Provenance = dataclasses.field(default_factory=Provenance)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is evaluated, and what its results say of it.

    Attributes:
        data: the episodes.
        dataset: name of the data set.
        split: name of the split.
        n_query: queries of a class.
        episodes: how many there are for each number of shots.
        controls: what is evaluated beside the trained network, `untrained` or `static`.
        method: the settings of the network, whose number of classes is that of the checkpoint.
        seed: that of the untrained network.
        init_from: the source of the weights; empty: the work folder.
        clips: what is made of a video, see :func:`molo_jax.provenance.settings_seen`.
        refuse_trained: whether classes that the network was trained on are refused.
        config: the configuration, for the result files.
    """

    data: EvaluationData
    dataset: str
    split: str
    n_query: int
    episodes: int
    controls: Sequence[str]
    method: Settings
    seed: int
    init_from: str
    clips: Mapping[str, Any]
    refuse_trained: bool
    config: Mapping[str, Any]

    @property
    def tested(self) -> ListRecord:
        """The record of the list that is tested."""
        return ListRecord.of(self.dataset, self.data.dataset.split)


def load_network(source: str, workdir: Path, method: Settings, mesh: Mesh) -> Network:
    """Loads the network of a source, or else that of the work folder.

    That is the one that was best on the val split, or the newest if there was no validation.

    Args:
        source: see :func:`molo_jax.weights.networks.load_weights`; empty: the work folder.
        workdir: the work folder.
        method: the settings of the network, whose number of classes is that of the checkpoint.
        mesh: the devices.

    Raises:
        MoloError: when there is no checkpoint, it cannot be read, or is of another architecture.
    """
    if source:
        return _load_given(source, method, mesh)
    while True:
        folder, step = _newest(workdir)
        try:
            with Checkpoints(folder, read_only=True) as checkpoints:
                return _restore(checkpoints, step, method, mesh)
        except MoloError:
            # A training that runs beside this evaluation may have replaced it meanwhile.
            if _newest(workdir) == (folder, step):
                raise


def _newest(workdir: Path) -> tuple[Path, int]:
    for folder in (workdir / BEST, workdir / LATEST):
        with Checkpoints(folder, read_only=True) as checkpoints:
            step = checkpoints.latest_step()
        if step is not None:
            return folder, step
    raise MoloError(
        f"there is no checkpoint in {workdir / BEST} or {workdir / LATEST}; train first with"
        f" --mode=train --workdir={workdir}"
    )


def _load_given(source: str, method: Settings, mesh: Mesh) -> Network:
    weights = load_weights(source, method.method)
    wanted = dataclasses.replace(method, num_classes=weights.settings.num_classes)
    check_kind(weights.source, weights.settings, wanted)
    graphdef, *abstract = abstract_network(wanted)
    states = [filled(state, weights.variables) for state in abstract]
    params, batch_stats = jax.device_put(states, replicated(mesh))
    logging.info("the network is that of %s", weights.source)
    origin = Provenance.of_meta(weights.meta)
    return Network(wanted, graphdef, params, batch_stats, weights.source, weights.step, origin)


def _restore(checkpoints: Checkpoints, step: int, method: Settings, mesh: Mesh) -> Network:
    where = checkpoints.describe(step)
    meta = checkpoints.meta(step)
    stored = meta.get("architecture")
    classes = stored_settings(where, stored).num_classes
    wanted = dataclasses.replace(method, num_classes=classes)
    check_same_network(where, stored, wanted)
    graphdef, params, batch_stats = abstract_network(wanted)
    target = {"params": params, "batch_stats": batch_stats}
    model = checkpoints.restore(step, {"model": target}, replicated(mesh))["model"]
    origin = Provenance.of_meta(meta)
    return Network(wanted, graphdef, model["params"], model["batch_stats"], where, step, origin)


def untrained(settings: Settings, seed: int, mesh: Mesh) -> Network:
    """Returns the network with random weights."""
    graphdef, *weights = create_model(settings, seed)
    params, batch_stats = jax.device_put(weights, replicated(mesh))
    return Network(settings, graphdef, params, batch_stats, checkpoint="none", step=0)


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
) -> dict[tuple[str, int], Score]:
    """Evaluates a network and the controls, prints a table.

    Writes `<workdir>/eval_<split>_<way>way_<shot>shot[_untrained|_static].json`. A file of another
    result that has this name is kept as `….json.old-1`, `….json.old-2` and so on.

    Args:
        evaluation: what is evaluated.
        workdir: the work folder.
        trained_here: whether the network has just been trained in the work folder: `init_from` is
            what its training began with then.

    Returns:
        The result for each variant (`trained`, `untrained`, `static`) and number of shots.

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
        logging.info("evaluating on the %s split: %s", split, _TITLES[variant])
        scores = evaluator.scores(
            shown.params,
            shown.batch_stats,
            episodes=evaluation.episodes,
            title=f"{split}, {_TITLES[variant]}",
            static=variant == STATIC,
        )
        for shot, result in scores.items():
            results[variant, shot] = result
            record = _record(evaluation, shown, compared, variant, shot, result)
            write_result(workdir / _file_name(record), record)
    head = (
        f"{evaluation.dataset}, {split} split: {data.n_way}-way accuracy in % with 95 % intervals"
        f" over {evaluation.episodes} episodes, network of step {network.step}"
    )
    print(format_table(head, results, comparison.notes(split)))
    if source:
        print(f"the network is that of {network.checkpoint}")
    if data.dataset.bad_count:
        logging.warning("%d videos of the split were left out as unusable", data.dataset.bad_count)
    return results


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


def _file_name(record: Mapping[str, Any]) -> str:
    suffix = "" if record["variant"] == TRAINED else f"_{record['variant']}"
    return f"eval_{record['split']}_{record['way']}way_{record['shot']}shot{suffix}.json"


def _record(
    evaluation: Evaluation,
    network: Network,
    comparison: Comparison,
    variant: str,
    shot: int,
    result: Score,
) -> dict[str, Any]:
    dataset = evaluation.data.dataset
    names = class_keys(dataset.split)
    return {
        "dataset": evaluation.dataset,
        "method": network.settings.method,
        "split": evaluation.split,
        "variant": variant,
        "accuracy": result.accuracy,
        "ci95": result.ci95,
        "episodes": result.episodes,
        "way": evaluation.data.n_way,
        "shot": shot,
        "query": evaluation.n_query,
        "precision": evaluation.data.precision.name,
        "per_class": {names[c]: value for c, value in result.per_class.items()},
        "checkpoint": network.checkpoint,
        "checkpoint_step": network.step,
        "init_from": network.origin.init_from,
        "trained_classes_tested": comparison.classes.trained,
        "validated_classes_tested": comparison.classes.validated,
        "settings_not_as_in_training": comparison.settings,
        "list_digest": comparison.list_digest,
        "bad_videos": dataset.bad_videos(),
        "config": evaluation.config,
    }


def format_table(
    head: str, results: Mapping[tuple[str, int], Score], notes: Sequence[str] = ()
) -> str:
    """Formats all results: a row for each variant, a column for each number of shots.

    Args:
        head: the line above.
        results: by variant and number of shots.
        notes: what a reader of these numbers must know; lines below the table.
    """
    shots = list(dict.fromkeys(shot for _, shot in results))
    rows = [["", *(f"{shot}-shot" for shot in shots)]]
    for variant in dict.fromkeys(variant for variant, _ in results):
        cells = [results[variant, shot] for shot in shots]
        row = [f"{100 * cell.accuracy:.1f} ± {100 * cell.ci95:.1f}" for cell in cells]
        rows.append([_TITLES[variant], *row])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join([r[0].ljust(widths[0]), *_right(r[1:], widths[1:])]) for r in rows]
    rule = "-" * len(lines[0])
    return "\n".join(["", head, rule, lines[0], rule, *lines[1:], rule, *notes])


def _right(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
