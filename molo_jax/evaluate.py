"""Evaluation of a trained network: accuracy over many episodes of classes it has never seen."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from molo_jax import build
from molo_jax.console import Progress
from molo_jax.data.clips.episodes import ClipRequest
from molo_jax.data.clips.source import ClipSource
from molo_jax.data.pipeline import ClipBatch, clip_batches
from molo_jax.engine.checkpoint import Checkpoints
from molo_jax.engine.evaluation import FeatureStore, Score, evaluate_episodes
from molo_jax.engine.prefetch import prefetched
from molo_jax.engine.state import create_model
from molo_jax.engine.step import (
    clips_sharding,
    make_embed,
    make_match,
    make_mesh,
    replicated,
)
from molo_jax.errors import MoloError
from molo_jax.methods.episode import Features
from molo_jax.methods.settings import Settings
from molo_jax.provenance import ListRecord, Provenance, check_new, overlap
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


class Evaluator:
    """Evaluates networks of one structure on one split.

    Args:
        config: the configuration.
        dataset: the videos of the split.
        graphdef: the structure of the networks.
        mesh: the devices.
        n_way: classes of an episode.
        shots: numbers of shots, each of which is evaluated.

    Raises:
        MoloError: when the split has too few classes or videos.
    """

    def __init__(
        self,
        config: ConfigDict,
        dataset: ClipSource,
        graphdef: nnx.GraphDef,
        mesh: Mesh,
        *,
        n_way: int,
        shots: Sequence[int],
    ):
        self._config, self._dataset, self._mesh = config, dataset, mesh
        self.samplers = {
            shot: build.eval_sampler(config, dataset, n_way=n_way, n_shot=shot) for shot in shots
        }
        preprocess = build.eval_preprocess(config)
        self._embed = make_embed(graphdef, preprocess=preprocess, mesh=mesh)
        self._match = make_match(graphdef, n_way=n_way)
        # Whether the programs have been compiled, by an evaluation before this one.
        self._has_run = False

    def scores(
        self,
        params: nnx.State,
        batch_stats: nnx.State,
        *,
        episodes: int,
        title: str,
        static: bool = False,
    ) -> dict[int, Score]:
        """Evaluates a network; each distinct clip is embedded once for all numbers of shots.

        Args:
            params: the network's parameters.
            batch_stats: its batch-normalization statistics.
            episodes: how many episodes for each number of shots.
            title: what the progress bar says.
            static: show one frame of each clip again and again.
        """
        weights = params, batch_stats
        if not self._has_run:
            logging.info(
                "the first clips compile the network, which takes some seconds to a minute on a CPU"
            )
            self._has_run = True
        with Progress(title, "clips") as bar:
            store = FeatureStore(
                lambda clips: self.embed(*weights, clips, static=static, bar=bar),
                self._capacity(*weights),
            )
            return {
                shot: self._score(weights, store, shot, episodes, title) for shot in self.samplers
            }

    def embed(
        self,
        params: nnx.State,
        batch_stats: nnx.State,
        requests: Sequence[ClipRequest],
        *,
        static: bool = False,
        bar: Progress | None = None,
    ) -> Iterator[tuple[np.ndarray, Features]]:
        """Decodes and embeds clips, batch by batch; leaves out those that turn out bad.

        Yields:
            The positions of the clips in `requests`, and their features.
        """
        data = self._config.data
        batches = clip_batches(
            self._dataset,
            requests,
            batch_size=self._config.eval.clip_batch * self._mesh.size,
            workers=data.workers,
            prefetch=data.prefetch,
            resize=data.resize,
            sampling=build.eval_sampling(self._config),
            static=static,
        )
        spread = clips_sharding(self._mesh)

        def place(batch: ClipBatch) -> ClipBatch:
            return batch._replace(clips=jax.device_put(batch.clips, spread))

        if bar is not None:
            bar.reset(len(requests))
        with contextlib.closing(batches):
            for positions, ok, pixels in prefetched(batches, place):
                features = jax.device_get(self._embed(params, batch_stats, pixels))
                yield positions[ok], jax.tree.map(lambda x, ok=ok: x[ok], features)
                if bar is not None:
                    bar.update(int((positions >= 0).sum()))

    def match(
        self, params: nnx.State, batch_stats: nnx.State, features: Features, *episodes: np.ndarray
    ) -> jax.Array:
        """Returns the logits of episodes given by positions in `features`."""
        return self._match(params, batch_stats, features, *episodes)

    def _score(
        self,
        weights: tuple[nnx.State, nnx.State],
        store: FeatureStore,
        shot: int,
        episodes: int,
        title: str,
    ) -> Score:
        sampler = self.samplers[shot]
        with Progress(f"{title} {shot}-shot", "episodes", episodes) as bar:
            return evaluate_episodes(
                lambda index: sampler.resolve(sampler(index), self._dataset.is_bad),
                episodes,
                store=store,
                match=lambda *arrays: self._match(*weights, *arrays),
                batch=self._config.eval.episode_batch,
                advance=bar.update,
            )

    def _capacity(self, params: nnx.State, batch_stats: nnx.State) -> int:
        """Returns how many clips' features fit into the memory that they may take."""
        data, clips = self._config.data, self._mesh.size
        shape = (clips, data.num_frames, data.resize, data.resize, 3)
        pixels = jax.ShapeDtypeStruct(shape, np.uint8)
        features = jax.eval_shape(self._embed, params, batch_stats, pixels)
        total = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(features))
        return max(1, self._config.eval.cache_mib * 2**20 * clips // total)


def load_network(
    config: ConfigDict, workdir: Path, mesh: Mesh, *, trained_here: bool = False
) -> Network:
    """Loads the network of `init_from`, or else that of the work folder.

    That is the one that was best on the val split, or the newest if there was no validation.

    Args:
        config: the configuration.
        workdir: the work folder.
        mesh: the devices.
        trained_here: whether the network has just been trained in the work folder: `init_from` is
            what its training began with then.

    Raises:
        MoloError: when there is no checkpoint, it cannot be read, or is of another architecture.
    """
    if config.init_from and not trained_here:
        return _load_given(config, mesh)
    while True:
        folder, step = _newest(workdir)
        try:
            with Checkpoints(folder, read_only=True) as checkpoints:
                return _restore(config, checkpoints, step, mesh)
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


def _load_given(config: ConfigDict, mesh: Mesh) -> Network:
    weights = load_weights(config.init_from, config.method.name)
    wanted = build.method_settings(config, weights.settings.num_classes)
    check_kind(weights.source, weights.settings, wanted)
    graphdef, *abstract = abstract_network(wanted)
    states = [filled(state, weights.variables) for state in abstract]
    params, batch_stats = jax.device_put(states, replicated(mesh))
    logging.info("the network is that of %s", weights.source)
    origin = Provenance.of_meta(weights.meta)
    return Network(wanted, graphdef, params, batch_stats, weights.source, weights.step, origin)


def _restore(config: ConfigDict, checkpoints: Checkpoints, step: int, mesh: Mesh) -> Network:
    where = checkpoints.describe(step)
    meta = checkpoints.meta(step)
    stored = meta["architecture"]
    wanted = build.method_settings(config, stored["num_classes"])
    check_same_network(where, stored, wanted)
    graphdef, params, batch_stats = abstract_network(wanted)
    target = {"params": params, "batch_stats": batch_stats}
    model = checkpoints.restore(step, {"model": target}, replicated(mesh))["model"]
    origin = Provenance.of_meta(meta)
    return Network(wanted, graphdef, model["params"], model["batch_stats"], where, step, origin)


def untrained(config: ConfigDict, settings: Settings, mesh: Mesh) -> Network:
    """Returns the network with random weights."""
    graphdef, *weights = create_model(settings, config.seed)
    params, batch_stats = jax.device_put(weights, replicated(mesh))
    return Network(settings, graphdef, params, batch_stats, checkpoint="none", step=0)


def check_data(config: ConfigDict, workdir: Path, trains: bool) -> None:
    """Checks that the evaluation will find its data, before hours of training.

    Args:
        config: the configuration.
        workdir: the work folder.
        trains: whether a training comes first: the classes must be new to what it begins with.

    Raises:
        MoloError: when the split's folder, list or videos are missing, or too few for an episode,
            or when the weights that training begins with were trained on its classes.
    """
    split = config.eval.split
    dataset = build.open_split(config, split)
    for shot in config.eval.shots:
        build.eval_sampler(config, dataset, n_way=config.eval.n_way, n_shot=shot)
    with Checkpoints(workdir / LATEST, read_only=True) as checkpoints:
        going_on = checkpoints.latest_step() is not None
    if trains and (going_on or config.init_from):
        where, meta = read_meta(workdir / LATEST if going_on else config.init_from)
        tested = ListRecord.of(config.dataset.name, dataset.split)
        found = overlap(Provenance.of_meta(meta), tested, split)
        check_new(where, found, split, config.eval.on_trained_classes)


def evaluate(
    config: ConfigDict, workdir: Path, trained_here: bool = False
) -> dict[tuple[str, int], Score]:
    """Evaluates a network (see :func:`load_network`) and the controls, prints a table.

    Writes `<workdir>/eval_<split>_<way>way_<shot>shot[_untrained|_static].json`. A file of another
    result that has this name is kept as `….json.old-1`, `….json.old-2` and so on.

    Returns:
        The result for each variant (`trained`, `untrained`, `static`) and number of shots.

    Raises:
        MoloError: when the data or the checkpoint are missing or broken, or when the network was
            trained on classes of the split (see `eval.on_trained_classes`).
    """
    mesh = make_mesh()
    dataset = build.open_split(config, config.eval.split)
    network = load_network(config, workdir, mesh, trained_here=trained_here)
    comparison = _compare(config, dataset, network)
    evaluator = Evaluator(
        config,
        dataset,
        network.graphdef,
        mesh,
        n_way=config.eval.n_way,
        shots=config.eval.shots,
    )
    results = {}
    for variant in (TRAINED, *config.eval.controls):
        shown, compared = network, comparison
        if variant == UNTRAINED:
            shown = untrained(config, network.settings, mesh)
            compared = _compare(config, dataset, shown)
        logging.info("evaluating on the %s split: %s", config.eval.split, _TITLES[variant])
        scores = evaluator.scores(
            shown.params,
            shown.batch_stats,
            episodes=config.eval.episodes,
            title=f"{config.eval.split}, {_TITLES[variant]}",
            static=variant == STATIC,
        )
        for shot, result in scores.items():
            results[variant, shot] = result
            record = _record(config, dataset, shown, compared, variant, shot, result)
            write_result(workdir / _file_name(config, variant, shot), record)
    print(format_table(config, results, network.step, comparison.notes(config.eval.split)))
    if config.init_from and not trained_here:
        print(f"the network is that of {network.checkpoint}")
    if dataset.bad_count:
        logging.warning("%d videos of the split were left out as unusable", dataset.bad_count)
    return results


def _compare(config: ConfigDict, dataset: ClipSource, network: Network) -> Comparison:
    return Comparison.of(
        config, dataset, network.checkpoint, network.origin, network.settings.to_json()
    )


def _file_name(config: ConfigDict, variant: str, shot: int) -> str:
    suffix = "" if variant == TRAINED else f"_{variant}"
    return f"eval_{config.eval.split}_{config.eval.n_way}way_{shot}shot{suffix}.json"


def _record(
    config: ConfigDict,
    dataset: ClipSource,
    network: Network,
    comparison: Comparison,
    variant: str,
    shot: int,
    result: Score,
) -> dict[str, Any]:
    names = class_keys(dataset.split)
    return {
        "dataset": config.dataset.name,
        "method": network.settings.method,
        "split": config.eval.split,
        "variant": variant,
        "accuracy": result.accuracy,
        "ci95": result.ci95,
        "episodes": result.episodes,
        "way": config.eval.n_way,
        "shot": shot,
        "query": config.eval.n_query,
        "per_class": {names[c]: value for c, value in result.per_class.items()},
        "checkpoint": network.checkpoint,
        "checkpoint_step": network.step,
        "init_from": network.origin.init_from,
        "trained_classes_tested": comparison.classes.trained,
        "validated_classes_tested": comparison.classes.validated,
        "settings_not_as_in_training": comparison.settings,
        "list_digest": comparison.list_digest,
        "bad_videos": dataset.bad_videos(),
        "config": config.to_dict(),
    }


def format_table(
    config: ConfigDict,
    results: dict[tuple[str, int], Score],
    step: int,
    notes: Sequence[str] = (),
) -> str:
    """Formats all results: a row for each variant, a column for each number of shots.

    Args:
        config: the configuration.
        results: by variant and number of shots.
        step: that of the network.
        notes: what a reader of these numbers must know; lines below the table.
    """
    section = config.eval
    head = (
        f"{config.dataset.name}, {section.split} split: {section.n_way}-way accuracy in % with 95 %"
        f" intervals over {section.episodes} episodes, network of step {step}"
    )
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
