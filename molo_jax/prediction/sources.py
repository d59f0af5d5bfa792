"""Networks to predict with, from whatever holds their weights."""

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from molo_jax.backbones import BACKBONES
from molo_jax.errors import MoloError, UsageError
from molo_jax.methods.settings import METHODS, Settings, settings_from_json
from molo_jax.nn.precision import PRECISIONS, Precision
from molo_jax.prediction.clips import ClipRule
from molo_jax.provenance import Provenance
from molo_jax.weights import torch_files, torch_map
from molo_jax.weights.imagenet import imagenet_file
from molo_jax.weights.networks import (
    abstract_network,
    filled,
    load_weights,
    pretrained_backbone,
)

_LOGGER = logging.getLogger(__name__)
# How the features of a bare backbone are compared where nothing else is asked for.
FRAME_METHOD = "bi_mhm"
# What a prediction can do without a network.
_WITHOUT_NETWORK = "name it with --weights=PATH (in a program: load(PATH))"
# What evaluations compute in where nothing else is asked for.
DEFAULT_PRECISION = "tf32"


class OtherMethodError(UsageError):
    """Weights are of another method than the one that was asked for.

    Attributes:
        found: what the weights are of.
    """

    def __init__(self, message: str, found: str):
        super().__init__(message)
        self.found = found


@dataclasses.dataclass(frozen=True)
class Network:
    """A network with its weights, and what it wants to see.

    Attributes:
        source: the absolute path of the file or of the checkpoint, or the name of the backbone.
        settings: those of its method.
        graphdef, params, batch_stats: structure, parameters and statistics.
        rule: which frames of a video it looks at.
        precision: what it computes in.
        origin: what is known of its training, one sentence.
        digest: SHA-256 of everything that its features depend on, hexadecimal.
    """

    source: str
    settings: Settings
    graphdef: nnx.GraphDef
    params: nnx.State
    batch_stats: nnx.State
    rule: ClipRule
    precision: Precision
    origin: str
    digest: str


def open_network(
    source: str | os.PathLike[str], *, method: str = "", precision: str = DEFAULT_PRECISION
) -> Network:
    """Opens a network to predict with.

    Args:
        source: a work folder of training (the best network is preferred to the newest), a folder
            of checkpoints or one checkpoint in it; an official file of a whole network; the name of
            a backbone (`resnet18`, `resnet34`, `resnet50`), whose ImageNet weights are fetched; or
            torchvision's file of a backbone.
        method: of an official file whose tensors fit several methods, which one it is; of a
            backbone, how the features of its frames are compared: `bi_mhm` (default), `otam` or
            `protonet`.
        precision: what the network computes in, see :mod:`molo_jax.nn.precision`.

    Raises:
        OtherMethodError: `method` does not fit the weights.
        UsageError: `method` or `precision` is unknown, or `source` is no path and no name.
        MoloError: the weights cannot be had, are damaged, or are of no network.
    """
    check_precision(precision)
    if not isinstance(source, (str, os.PathLike)) or not os.fspath(source):
        raise UsageError(
            f"the weights are {source!r}; expected the path of a work folder, of a checkpoint or of"
            f" a PyTorch file, or one of {_listed(BACKBONES)}"
        )
    if method and method not in METHODS:
        raise UsageError(f"method {method!r} is unknown; choose one of {_listed(METHODS)}")
    backbone = _bare_backbone(source)
    if backbone:
        settings = _settings_of_backbone(str(source), backbone, method or FRAME_METHOD)
        of_file = str(source) not in BACKBONES
        path = source if of_file else imagenet_file(backbone, otherwise=_WITHOUT_NETWORK)
        return make_network(
            _absolute(source) if of_file else backbone,
            settings,
            pretrained_backbone(str(path), backbone),
            precision=precision,
            origin=(
                f"{backbone} with ImageNet weights, which never saw an action; its frames are"
                f" compared by {settings.title}"
            ),
        )
    weights = load_weights(Path(source), method)
    if method and weights.settings.method != method:
        found = weights.settings.method
        raise OtherMethodError(
            f"{weights.source} is a network of {found}, not of {method}; leave the method out",
            found,
        )
    return make_network(
        _absolute(weights.source),
        weights.settings,
        weights.variables,
        rule=_rule(weights.source, weights.settings, weights.meta),
        precision=precision,
        origin=_origin(weights.settings, weights.meta),
    )


def make_network(
    source: str,
    settings: Settings,
    variables: Mapping[torch_map.Path, np.ndarray],
    *,
    rule: ClipRule | None = None,
    precision: str = DEFAULT_PRECISION,
    origin: str = "",
) -> Network:
    """Makes a network of weights that are in memory.

    Args:
        source: what to call them.
        settings: those of the network's method.
        variables: value of every parameter and statistic by its path.
        rule: which frames it looks at; by default that of the SSv2 benchmark.
        precision: what it computes in.
        origin: what is known of its training.

    Raises:
        UsageError: `precision` is unknown.
        MoloError: a parameter is missing, left over or of another shape.
    """
    check_precision(precision)
    rule = rule or ClipRule()
    graphdef, params, batch_stats = abstract_network(settings)
    _check_variables(source, (params, batch_stats), variables)
    # The digest of 360 MB takes most of a second, and lets other threads work.
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(network_digest, settings, rule, precision, variables)
        return Network(
            source=source,
            settings=settings,
            graphdef=graphdef,
            params=filled(params, variables),
            batch_stats=filled(batch_stats, variables),
            rule=rule,
            precision=PRECISIONS[precision],
            origin=origin,
            digest=digest.result(),
        )


def check_precision(precision: str) -> None:
    """Checks that there is a precision of this name.

    Raises:
        UsageError: there is none.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is unknown; choose one of {_listed(PRECISIONS)}")


def _absolute(path: str | os.PathLike[str]) -> str:
    """A saved classifier is opened in other folders too."""
    return str(Path(path).absolute())


def variables_of(network: Network) -> dict[torch_map.Path, np.ndarray]:
    """Returns the value of every parameter and statistic by its path."""
    return {
        path: np.asarray(leaf[...])
        for state in (network.params, network.batch_stats)
        for path, leaf in nnx.to_flat_state(state)
    }


def _check_variables(source: str, states: tuple[nnx.State, ...], variables: Mapping) -> None:
    wanted = {
        path: tuple(leaf.shape) for state in states for path, leaf in nnx.to_flat_state(state)
    }
    given = {path: tuple(np.shape(value)) for path, value in variables.items()}
    if wanted == given:
        return
    path = next(p for p in (*wanted, *given) if wanted.get(p) != given.get(p))
    name = ".".join(map(str, path))
    shapes = [str(each[path]) if path in each else "absent" for each in (given, wanted)]
    raise MoloError(
        f"{source} does not hold the weights of its network: {name} is {shapes[0]}, expected"
        f" {shapes[1]}"
    )


def _bare_backbone(source: str | os.PathLike[str]) -> str:
    """Returns the backbone that the source holds alone, or nothing."""
    if str(source) in BACKBONES and not Path(source).exists():
        return str(source)
    path = Path(source)
    if not torch_files.is_torch_path(path):
        return ""
    _, tensors = torch_map.without_prefix(torch_files.read(path).tensors)
    if not torch_map.is_torchvision(tensors):
        return ""
    return torch_map.recognize_backbone(torch_map.from_torchvision(tensors))


def _settings_of_backbone(source: str, backbone: str, method: str) -> Settings:
    def settings(name: str) -> Settings:
        return settings_from_json({"method": name, "backbone": backbone, "num_classes": 1})

    def learns_nothing_else(name: str) -> bool:
        states = abstract_network(settings(name))[1:]
        return all(p[0] == "backbone" for state in states for p, _ in nnx.to_flat_state(state))

    if not learns_nothing_else(method):
        fitting = [name for name in METHODS if learns_nothing_else(name)]
        raise OtherMethodError(
            f"{source} holds a backbone alone, and {method} has further weights, which have to be"
            f" trained; choose one of {_listed(fitting)}",
            f"a backbone alone ({backbone})",
        )
    return settings(method)


def _rule(source: str, settings: Settings, meta: Mapping[str, Any]) -> ClipRule:
    """Returns the frames that a network was trained to look at, or else those of SSv2."""
    known = Provenance.of_meta(meta).seen if meta else {}
    names = [field.name for field in dataclasses.fields(ClipRule)]
    found = {name: known[f"data.{name}"] for name in names if f"data.{name}" in known}
    if "num_frames" not in found and hasattr(settings, "frames"):
        found["num_frames"] = settings.frames
    try:
        rule = ClipRule(**found)
    except ValueError as error:
        raise MoloError(f"{source} is damaged: {error}") from error
    if len(found) < len(names):
        _LOGGER.info(
            "%s does not say which frames it was trained on; it gets %d frames of %d×%d pixels, the"
            " middle %d of them, as on SSv2",
            *(source, rule.num_frames, rule.resize, rule.resize, rule.crop),
        )
    return rule


def _origin(settings: Settings, meta: Mapping[str, Any]) -> str:
    what = f"{settings.title} with {settings.backbone}"
    trained = Provenance.of_meta(meta).trained if meta else (None,)
    lists = [f"{len(each.classes)} classes of {each.dataset}" for each in trained if each]
    if not lists or None in trained:
        more = f" beside {', then '.join(lists)}" if lists else ""
        return f"{what}; it is not known what it was trained on{more}"
    return f"{what}, trained on {', then on '.join(lists)}"


def network_digest(
    settings: Settings, rule: ClipRule, precision: str, variables: Mapping[Any, np.ndarray]
) -> str:
    """Returns the SHA-256 of everything that features depend on, hexadecimal."""
    digest = hashlib.sha256()
    told = [settings.to_json(), dataclasses.asdict(rule), precision]
    digest.update(json.dumps(told, sort_keys=True).encode())
    for path in sorted(variables, key=str):
        value = np.ascontiguousarray(variables[path])
        digest.update(f"{path} {value.dtype} {value.shape}".encode())
        digest.update(value.data if value.ndim else value.tobytes())
    return digest.hexdigest()


def _listed(names: Any) -> str:
    return ", ".join(names)
