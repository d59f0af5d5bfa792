"""Counts the operations of an episode, in a process of its own that leaves a GPU alone."""

import os
from typing import Any

from _episodes import CLASSES
from flax import nnx

from molo_jax.engine.cost import cost, episode_loss, episode_shapes
from molo_jax.engine.program import flops, trace
from molo_jax.methods.settings import MoLoSettings
from molo_jax.nn.ops import traced_for
from molo_jax.weights.networks import abstract_network


class Benchmark:
    """Counts for the sizes in `options`."""

    def __init__(self, options: dict[str, Any]):
        # Read when JAX first looks for devices, which is later than this.
        os.environ["JAX_PLATFORMS"] = "cpu"
        self._options = options

    def count(self) -> dict[str, int]:
        return count_operations(self._options)


def count_operations(options: dict[str, Any]) -> dict[str, int]:
    """Floating-point operations of one episode, counted as `python -m molo_jax.summary` does.

    "training" is forward and backward without recomputation, "evaluation" the forward that gives
    the scores. Counted are convolutions and matrix products in the traced network.
    """
    settings = MoLoSettings(num_classes=CLASSES, backbone=options["backbone"])
    graphdef, params, stats = abstract_network(settings)
    sizes = {name: options[name] for name in ("way", "shot", "query", "frames")}
    episode = episode_shapes(**sizes, side=options["crop"])

    def evaluation(params, stats, episode):
        model = nnx.merge(graphdef, params, stats, copy=True)
        output = model.forward(episode, n_way=options["way"], train=False, reconstruct=False)
        return output.scores.match, output.class_logits

    # Recomputation is off where nobody turns it on, and the precision changes no shape.
    with traced_for("cuda"):
        training = cost(episode_loss(graphdef, options["way"]), params, stats, episode).flops
        program, _ = trace(evaluation, params, stats, episode)
    return {"training": training.total, "evaluation": flops(program)}
