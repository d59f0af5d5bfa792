"""What a training needs: parameters, operations, memory and time, from its configuration alone.

Nothing is computed and no weight exists: JAX traces the network with shapes.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import jax
from flax import nnx
from ml_collections import ConfigDict

from molo_jax.config import method_settings
from molo_jax.engine.cost import Cost, cost, embedding, episode_loss, episode_shapes
from molo_jax.engine.optimizer import make_optimizer
from molo_jax.engine.state import count_parameters
from molo_jax.methods.settings import Settings
from molo_jax.nn import precision, remat
from molo_jax.nn.ops import traced_for
from molo_jax.weights.networks import abstract_network
from molo_jax.weights.torch_map import decays

# What is traced in which context: every precision, and every choice of what the gradient computes
# again instead of keeping it. The first of each is what the operations are counted with.
_Contexts = Mapping[str, Callable[[], AbstractContextManager]]
PRECISIONS: _Contexts = {
    name: functools.partial(precision.using, each) for name, each in precision.PRECISIONS.items()
}
REMATS: _Contexts = {name: functools.partial(remat.using, name) for name in remat.REMATS}
# Chunks of pixels that a device holds: the one in use and the one on its way.
_FED = 2


@dataclasses.dataclass(frozen=True)
class Device:
    """What is known of the device that is to train.

    Attributes:
        memory: its bytes; None: not known.
        rate: floating-point operations that it does in a second; None: not known.
    """

    memory: int | None = None
    rate: float | None = None


def training_cost(config: ConfigDict, num_classes: int, device: Device) -> dict[str, Any]:
    """Counts what a training needs.

    Args:
        config: the configuration.
        num_classes: number of training classes.
        device: what is to train.

    Returns:
        A dictionary for JSON: `parameters` of each module and in total; `flops` of a `clip` that is
        embedded alone, an `episode` and a `step`, `forward` and `backward`; `state_bytes` of what
        stays on the device between the episodes of a step; `pixel_bytes` of a step;
        `activation_bytes`, what one episode keeps for its gradient, by precision and remat;
        `peak_bytes`, the estimate of what the training takes, and `largest_microbatch` in the
        memory of the device (0: not one episode fits; None: the memory is not known), both again by
        precision and remat; `training_hours` of all steps (None: the rate is not known).
    """
    method, train = method_settings(config, num_classes), config.train
    graphdef, params, batch_stats = abstract_network(method)
    episodes = _episode_costs(config, graphdef, params, batch_stats)
    first = next(iter(next(iter(episodes.values())).values())).flops
    flops = {
        "clip": _clip_cost(config, graphdef, params, batch_stats).flops,
        "episode": first,
        "step": first.times(train.episodes_per_step),
    }
    state = _state_bytes(config, params, batch_stats)
    peaks = _each(episodes, lambda each: _peak(config, state, each, train.microbatch))
    largest = _each(episodes, lambda each: _largest_microbatch(config, state, each, device.memory))
    seconds = train.steps * flops["step"].total / device.rate if device.rate else None
    return {
        "parameters": {"total": count_parameters(params), "modules": _modules(params)},
        "flops": {name: dataclasses.asdict(each) for name, each in flops.items()},
        "state_bytes": state,
        "pixel_bytes": train.episodes_per_step * _stored_pixels(config),
        "activation_bytes": _each(episodes, lambda each: each.saved),
        "peak_bytes": peaks,
        "largest_microbatch": largest,
        "training_hours": None if seconds is None else seconds / 3600,
        **_described(config, method, device),
    }


def _described(config: ConfigDict, method: Settings, device: Device) -> dict[str, Any]:
    """Returns what was counted."""
    return {
        "architecture": method.to_json(),
        "train": config.train.to_dict(),
        "data": {name: config.data[name] for name in ("num_frames", "resize", "crop")},
        "device": dataclasses.asdict(device),
    }


def _each(table: Mapping[str, Mapping[str, Cost]], function: Callable[[Cost], Any]) -> dict:
    """Applies a function to each entry of a table by precision and remat."""
    return {
        name: {again: function(each) for again, each in row.items()} for name, row in table.items()
    }


def _episode_costs(
    config: ConfigDict, graphdef: nnx.GraphDef, params: nnx.State, batch_stats: nnx.State
) -> dict[str, dict[str, Cost]]:
    """Returns the costs of one episode by precision and remat."""
    costs: dict[str, dict[str, Cost]] = {}
    for name, in_precision in PRECISIONS.items():
        costs[name] = {}
        for again, with_remat in REMATS.items():
            with traced_for("cuda"), in_precision(), with_remat():
                loss = episode_loss(graphdef, config.train.n_way)
                costs[name][again] = cost(loss, params, batch_stats, _episode(config))
    return costs


def _episode(config: ConfigDict):
    train, data = config.train, config.data
    return episode_shapes(
        way=train.n_way,
        shot=train.n_shot,
        query=train.n_query,
        frames=data.num_frames,
        side=data.crop,
    )


def _clip_cost(
    config: ConfigDict, graphdef: nnx.GraphDef, params: nnx.State, batch_stats: nnx.State
) -> Cost:
    clip = jax.tree.map(
        lambda clips: jax.ShapeDtypeStruct((1, *clips.shape[1:]), clips.dtype),
        _episode(config).support,
    )
    with traced_for("cuda"):
        return cost(embedding(graphdef), params, batch_stats, clip)


def _modules(params: nnx.State) -> dict[str, int]:
    """Counts the parameters of each module of the network, in the order of their names."""
    counts: dict[str, int] = {}
    for path, leaf in nnx.to_flat_state(params):
        name = str(path[0])
        counts[name] = counts.get(name, 0) + math.prod(leaf.shape)
    return counts


def _bytes(tree: Any) -> int:
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def _state_bytes(config: ConfigDict, params: nnx.State, batch_stats: nnx.State) -> dict[str, int]:
    """Returns the bytes of what stays on the device from one episode of a step to the next."""
    train = config.train
    # The learning rate has no state.
    optimizer = make_optimizer(lambda step: 0.0, decays=decays, name=config.optimizer.name)
    # That of the running chunk, and the sum over the chunks before.
    gradients = 1 if train.microbatch == train.episodes_per_step else 2
    return {
        "parameters": _bytes(params),
        "statistics": _bytes(batch_stats),
        "gradients": gradients * _bytes(params),
        "optimizer": _bytes(jax.eval_shape(optimizer.init, params)),
    }


def _clips(config: ConfigDict) -> int:
    """Returns the number of clips of an episode."""
    return config.train.n_way * (config.train.n_shot + config.train.n_query)


def _stored_pixels(config: ConfigDict) -> int:
    """Returns the bytes of an episode's pixels as they are fed: 8 bits, not yet cropped."""
    return _clips(config) * config.data.num_frames * config.data.resize**2 * 3


def _peak(config: ConfigDict, state: Mapping[str, int], episode: Cost, microbatch: int) -> int:
    """Estimates the memory that a device needs, with so many episodes at once."""
    pixels = _FED * _stored_pixels(config) + _bytes(_episode(config))
    return sum(state.values()) + microbatch * (pixels + episode.working)


def _largest_microbatch(
    config: ConfigDict, state: Mapping[str, int], episode: Cost, memory: int | None
) -> int | None:
    """Returns the largest divisor of a step's episodes that fits the memory; 0 if none does."""
    if memory is None:
        return None
    episodes = config.train.episodes_per_step
    fitting = [
        count
        for count in range(1, episodes + 1)
        if episodes % count == 0 and _peak(config, state, episode, count) <= memory
    ]
    return max(fitting, default=0)


def format_cost(found: Mapping[str, Any]) -> str:
    """Writes what `training_cost` counted as tables for a console."""
    parts = (_head(found), _parameters(found), _operations(found), _memory(found), _time(found))
    return "\n\n".join(part for part in parts if part)


def _head(found: Mapping[str, Any]) -> str:
    network, train, data = found["architecture"], found["train"], found["data"]
    clips = train["n_way"] * (train["n_shot"] + train["n_query"])
    return (
        f"{network['method']} on {network['backbone']}, {network['num_classes']} training classes\n"
        f"episode: {train['n_way']}-way {train['n_shot']}-shot, {train['n_query']} queries of a"
        f" class: {clips} clips of {data['num_frames']} frames of {data['crop']}×{data['crop']}"
        f" pixels\nstep: {train['episodes_per_step']} episodes, {train['microbatch']} at once"
    )


def _parameters(found: Mapping[str, Any]) -> str:
    counts = {**found["parameters"]["modules"], "total": found["parameters"]["total"]}
    return _table([["parameters", ""], *([name, f"{n:,}"] for name, n in counts.items())])


def _operations(found: Mapping[str, Any]) -> str:
    rows = [["floating-point operations", "forward", "backward"]]
    for name, each in found["flops"].items():
        rows.append([name, _operations_of(each["forward"]), _operations_of(each["backward"])])
    return _table(rows)


def _operations_of(count: int) -> str:
    return f"{count / 1e12:,.3f}e12"


def _memory(found: Mapping[str, Any]) -> str:
    state = [["held during a step", "GiB"]]
    state += [[name, _gib(size)] for name, size in found["state_bytes"].items()]
    state.append(["pixels that a step reads", _gib(found["pixel_bytes"])])
    rows = [["precision", "remat", "saved activations, GiB", "estimated peak, GiB"]]
    memory = found["device"]["memory"]
    if memory is not None:
        rows[0].append(f"largest microbatch in {_gib(memory)} GiB")
    for name, row in found["activation_bytes"].items():
        for again, saved in row.items():
            cells = [name, again, _gib(saved), _gib(found["peak_bytes"][name][again])]
            if memory is not None:
                largest = found["largest_microbatch"][name][again]
                cells.append(str(largest) if largest else "none fits")
            rows.append(cells)
    return f"{_table(state)}\n\n{_table(rows, left=2)}"


def _gib(size: int) -> str:
    return f"{size / 2**30:,.2f}"


def _time(found: Mapping[str, Any]) -> str:
    hours = found["training_hours"]
    if hours is None:
        return ""
    return (
        f"{found['train']['steps']:,} steps take {hours:,.1f} hours at"
        f" {found['device']['rate'] / 1e12:,.1f}e12 operations a second; validation is not among"
        " them"
    )


def _table(rows: list[list[str]], left: int = 1) -> str:
    """Aligns columns: so many to the left, the others to the right; a rule below the first row."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])
