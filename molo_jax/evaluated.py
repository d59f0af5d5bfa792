"""What is evaluated, and the network that is."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import logging
from flax import nnx
from jax.sharding import Mesh

from molo_jax.engine.checkpoint import Checkpoints
from molo_jax.engine.mesh import replicate
from molo_jax.engine.state import create_model
from molo_jax.errors import MoloError
from molo_jax.evaluator import EvaluationData
from molo_jax.files import safe_name
from molo_jax.methods.settings import Settings
from molo_jax.provenance import ListRecord, Provenance
from molo_jax.weights.networks import (
    BEST,
    LATEST,
    abstract_network,
    check_kind,
    check_same_network,
    filled,
    load_weights,
    stored_settings,
)


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
        trained_dataset: name of the data set that the configuration trains on; it is another one
            where a network is evaluated across data sets.
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
    trained_dataset: str
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

    @property
    def name(self) -> str:
        """What is evaluated, in the names of files."""
        other = self.dataset != self.trained_dataset
        return f"{safe_name(self.dataset)}_{self.split}" if other else self.split


def load_network(source: str, workdir: Path, method: Settings, mesh: Mesh) -> Network:
    """Loads the network of a source, or else that of the work folder.

    That is the one that was best on the val split, or the newest if there was no validation. With
    several processes, each reads the files, and the weights are those that process 0 has read.

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
    params, batch_stats = replicate(states, mesh)
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
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    model = replicate(checkpoints.restore(step, {"model": target}, here)["model"], mesh)
    origin = Provenance.of_meta(meta)
    return Network(wanted, graphdef, model["params"], model["batch_stats"], where, step, origin)


def untrained(settings: Settings, seed: int, mesh: Mesh) -> Network:
    """Returns the network with random weights."""
    graphdef, *weights = create_model(settings, seed)
    params, batch_stats = replicate(weights, mesh)
    return Network(settings, graphdef, params, batch_stats, checkpoint="none", step=0)
