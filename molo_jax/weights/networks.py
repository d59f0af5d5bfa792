"""Weights from files: any source of a whole network, and ImageNet weights for the backbone."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from flax import nnx

from molo_jax.backbones import backbone_info
from molo_jax.engine.checkpoint import Checkpoints
from molo_jax.errors import MoloError, shortened
from molo_jax.files import kind_of
from molo_jax.methods.settings import Settings, settings_class, settings_from_json
from molo_jax.weights import torch_files, torch_map, torch_meta
from molo_jax.weights.imagenet import BEST, IMAGENET, LATEST, imagenet_file

_PATH = torch_map.Path


@dataclasses.dataclass(frozen=True)
class Weights:
    """The weights of a whole network, and where they are from.

    Attributes:
        source: the file, or the one checkpoint, as it is shown.
        settings: those of the network's method. A PyTorch file tells the method, the backbone, the
            number of classes and, of TRX, the number of frames; the rest has its defaults.
        variables: value of every parameter and statistic by its path, in our layout.
        step: finished optimizer steps; 0 where the source does not count them.
        meta: what else a molo_jax checkpoint says of itself.
        file: what was read, where the source is a PyTorch file.
        prefix: the prefix of the names in that file.
    """

    source: str
    settings: Settings
    variables: Mapping[_PATH, np.ndarray]
    step: int = 0
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    file: torch_files.TorchFile | None = None
    prefix: str = ""


def load_weights(source: str | Path, method: str = "") -> Weights:
    """Reads the weights of a whole network from whatever holds them.

    Args:
        source: an official `.pth`, `.pyth` or `.safetensors` file; a work folder of training (the
            best network is preferred to the newest); a folder of checkpoints; or one checkpoint in
            it, `<folder>/<step>`.
        method: the one that a PyTorch file is of, where its tensors fit several.

    Raises:
        MoloError: naming what is wrong: an absent or damaged file, another architecture, tensors
            that are missing, left over, of another shape, or not finite.
    """
    path = Path(source)
    if torch_files.is_torch_path(path):
        return _from_file(path, method)
    return _from_checkpoint(path)


def _from_file(path: Path, method: str) -> Weights:
    file = torch_files.read(path)
    with _named(path):
        prefix, tensors = torch_map.without_prefix(file.tensors)
        if torch_map.is_torchvision(tensors):
            raise ValueError(
                f"it holds a backbone alone ({_torchvision_backbone(tensors)}), as torchvision's"
                f" ImageNet files do; train with --config.model.pretrained={path}"
            )
        # What a checkpoint of ours took along when it was converted.
        meta = torch_meta.from_cfg(file.cfg)
        settings = _settings_of(tensors, meta, method)
        shapes = _shapes(*abstract_network(settings)[1:])
        variables = torch_map.import_tensors(tensors, shapes, fixed_buffers(settings))
        variables = torch_map.exact_values(variables)
    step = meta.get("step", 0)
    return Weights(str(path), settings, variables, step, meta, file=file, prefix=prefix)


def _settings_of(
    tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any], method: str
) -> Settings:
    """Returns the settings that names, shapes and a record of ours tell.

    Raises:
        ValueError: the tensors are not those of a method with a known backbone.
    """
    stored = meta.get("architecture", {})
    found = torch_map.recognize(tensors, method or stored.get("method", ""))
    name, backbone, num_classes = found
    known = {"method": name, "backbone": backbone, "num_classes": num_classes}
    known |= settings_class(name).told_by_official(tensors)
    if stored.get("method", name) == name:
        with contextlib.suppress(ValueError, TypeError):
            return settings_from_json(stored | known)
    return settings_from_json(known)


@contextlib.contextmanager
def _named(source: str | Path) -> Iterator[None]:
    """Turns a ValueError of the weight map into a MoloError that names the file."""
    try:
        yield
    except ValueError as error:
        raise MoloError(f"{source}: {error}") from error


def _from_checkpoint(path: Path) -> Weights:
    while True:
        folder, step = find_checkpoint(path)
        try:
            return _read_checkpoint(folder, step)
        except MoloError:
            # A training at work there may have replaced it meanwhile.
            if find_checkpoint(path) == (folder, step):
                raise


def _read_checkpoint(folder: Path, step: int) -> Weights:
    with Checkpoints(folder, read_only=True) as checkpoints:
        source, meta = checkpoints.describe(step), checkpoints.meta(step)
        settings = stored_settings(source, meta.get("architecture"))
        try:
            _, params, batch_stats = abstract_network(settings)
        except (KeyError, TypeError, ValueError) as error:
            raise MoloError(f"{source} holds no network that can be built: {error}") from error
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        targets = {"model": {"params": params, "batch_stats": batch_stats}}
        model = jax.device_get(checkpoints.restore(step, targets, here)["model"])
    flat = {**_flat(model["params"]), **_flat(model["batch_stats"])}
    with _named(source):
        variables = torch_map.exact_values({p: np.asarray(v[...]) for p, v in flat.items()})
    return Weights(source, settings, variables, step=step, meta=meta)


def read_meta(source: str | Path) -> tuple[str, Mapping[str, Any]]:
    """Reads what the source of `load_weights` says of itself, without its weights.

    Returns:
        The source as it is shown, and the meta; a PyTorch file says nothing.

    Raises:
        MoloError: when a folder is absent, or holds no checkpoint.
    """
    path = Path(source)
    if torch_files.is_torch_path(path):
        return str(path), {}
    folder, step = find_checkpoint(path)
    with Checkpoints(folder, read_only=True) as checkpoints:
        return checkpoints.describe(step), checkpoints.meta(step)


def find_checkpoint(path: Path) -> tuple[Path, int]:
    """Finds the checkpoint that a work folder, a folder of checkpoints or a path of one stands for.

    Returns:
        The folder of checkpoints and the step.

    Raises:
        MoloError: when there is none.
    """
    if not path.exists():
        raise MoloError(f"{path} does not exist")
    if path.is_file():
        kinds = ", ".join(torch_files.SUFFIXES)
        raise MoloError(f"{path} is a file that ends in none of {kinds}")
    if not path.is_dir():
        raise MoloError(f"{path} is {kind_of(path)}, no folder of checkpoints")
    # The folder of one checkpoint holds these items.
    if path.name.isdigit() and (path / "model").is_dir() and (path / "meta").is_dir():
        return path.absolute().parent, int(path.name)
    for folder in (path / BEST, path / LATEST, path):
        if not any(entry.name.isdigit() for entry in _entries(folder)):
            continue
        with Checkpoints(folder, read_only=True) as checkpoints:
            step = checkpoints.latest_step()
        if step is not None:
            return folder.absolute(), step
    raise MoloError(
        f"{path} holds no molo_jax checkpoint: it has no {BEST}/ or {LATEST}/ with one, and no"
        " numbered folder"
    )


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def abstract_network(settings: Settings) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """Returns structure, parameters and statistics of a network, the latter without values."""
    abstract = nnx.eval_shape(lambda: settings.build(nnx.Rngs(0)))
    return nnx.split(abstract, nnx.Param, nnx.BatchStat)


def fixed_buffers(settings: Settings) -> dict[str, np.ndarray]:
    """Returns the tensors that official files hold beside the weights, by their names there."""
    return settings.network_class().fixed_buffers(settings)


def filled(state: nnx.State, variables: Mapping[_PATH, np.ndarray]) -> nnx.State:
    """Returns a state with the given values; those that are not given stay as they are."""
    return nnx.from_flat_state(
        {
            # The step function gives its arguments' memory away, so it must be the array's own.
            # `jnp.array` would compile a program for each shape.
            path: leaf.replace(jax.device_put(variables[path], may_alias=False))
            if path in variables
            else leaf
            for path, leaf in nnx.to_flat_state(state)
        }
    )


def _flat(state: nnx.State) -> dict[_PATH, Any]:
    return dict(nnx.to_flat_state(state))


def _shapes(*states: nnx.State) -> dict[_PATH, tuple[int, ...]]:
    return {p: tuple(leaf.shape) for state in states for p, leaf in _flat(state).items()}


def _other_structure(found: Settings, wanted: Settings, *, lacking: bool) -> dict[str, Any]:
    """Returns the settings of the found network that give it other tensors than the wanted one.

    Both are of the same method, backbone and number of classes. With `lacking`, only if the found
    network lacks tensors; then it may have some that are not wanted.
    """
    theirs, ours = found.to_json(), wanted.to_json()
    differing = {name: theirs[name] for name in ours if theirs[name] != ours[name]}
    if not differing:
        return {}
    has, needs = (_shapes(*abstract_network(each)[1:]) for each in (found, wanted))
    same = needs.items() <= has.items() if lacking else needs == has
    return {} if same else differing


def check_kind(source: str, found: Settings, wanted: Settings) -> None:
    """Checks that a network is of the configured method and backbone, and has all their tensors.

    Raises:
        MoloError: naming both and the value that fits.
    """
    if found.method != wanted.method:
        raise MoloError(
            f"{source} is a network of another method: {found.method} there and {wanted.method}"
            f" here; --config=FILE:{found.method} would fit"
        )
    if found.backbone != wanted.backbone:
        raise MoloError(
            f"{source} is of another architecture: backbone is {found.backbone} there and"
            f" {wanted.backbone} here; --config.model.backbone={found.backbone} would fit"
        )
    wanted = dataclasses.replace(wanted, num_classes=found.num_classes)
    for name, value in _other_structure(found, wanted, lacking=True).items():
        raise MoloError(
            f"{source} lacks parts of the configured network: {name} is {value} there and"
            f" {getattr(wanted, name)} here; --config.method.{name}={value} would fit"
        )


def check_same_network(where: str, stored: Mapping[str, Any], wanted: Settings) -> None:
    """Compares the network of a checkpoint's meta with the wanted one.

    Raises:
        MoloError: naming every field that differs and both values, or that it is no network.
    """
    settings = stored_settings(where, stored)
    found, here = settings.to_json(), wanted.to_json()
    names = [name for name in ("method", "backbone", "num_classes") if found[name] != here[name]]
    names = names or list(_other_structure(settings, wanted, lacking=False))
    differing = [
        f"{name} is {found[name]} in the checkpoint and {here[name]} here" for name in names
    ]
    if differing:
        raise MoloError(
            f"the checkpoint {where} is of another architecture: {'; '.join(differing)}. Use the"
            " configuration and the train split that it was made with, or another --workdir"
        )


def stored_settings(where: str, stored: Any) -> Settings:
    """Returns the settings of the network of a checkpoint.

    Args:
        where: the checkpoint.
        stored: the `architecture` of its meta.

    Raises:
        MoloError: these are no settings of a method.
    """
    try:
        settings = settings_from_json(stored)
        if type(settings.num_classes) is not int:
            raise TypeError("num_classes")
        return settings
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MoloError(
            f"{where} is no checkpoint of molo_jax: its architecture is {shortened(repr(stored))}"
        ) from error


def starting_weights(
    wanted: Settings,
    params: nnx.State,
    batch_stats: nnx.State,
    *,
    init_from: str = "",
    pretrained: str = "",
    new_classifier: bool = False,
) -> tuple[nnx.State, nnx.State]:
    """Returns what a training without a checkpoint begins with.

    Args:
        wanted: the settings of the network.
        params: its parameters, random.
        batch_stats: its statistics before any batch.
        init_from: the source of the weights of a whole network, see `load_weights`; or else
        pretrained: that of the weights of the backbone, see `pretrained_backbone`.
        new_classifier: leave the auxiliary classifier random.

    Raises:
        MoloError: when the files are absent, damaged or do not fit.
    """
    if init_from:
        variables = _of_whole_network(init_from, wanted, new_classifier)
    elif pretrained:
        variables = pretrained_backbone(pretrained, wanted.backbone)
    else:
        return params, batch_stats
    return filled(params, variables), filled(batch_stats, variables)


def _of_whole_network(
    init_from: str, wanted: Settings, new_classifier: bool
) -> Mapping[_PATH, np.ndarray]:
    weights = load_weights(init_from, wanted.method)
    check_kind(weights.source, weights.settings, wanted)
    logging.info("starting from the weights of %s", weights.source)
    classifier, then = wanted.classifier, weights.settings.num_classes
    if not classifier:
        return weights.variables
    if new_classifier:
        logging.info("the auxiliary classifier of %d classes starts anew", wanted.num_classes)
        return {p: v for p, v in weights.variables.items() if p[0] != classifier}
    if then != wanted.num_classes:
        raise MoloError(
            f"{weights.source} was trained on {then} classes, and the train split"
            f" has {wanted.num_classes}; with --config.init_new_classifier=true everything but the"
            " auxiliary classifier is taken"
        )
    return weights.variables


def pretrained_backbone(pretrained: str, backbone: str) -> dict[_PATH, np.ndarray]:
    """Reads the weights of a backbone from a torchvision checkpoint.

    Args:
        pretrained: the path of the checkpoint, or `imagenet`.
        backbone: which ResNet the network has.

    Returns:
        The values of all parameters and statistics of the backbone by their paths in the network.

    Raises:
        MoloError: when the file cannot be had or read, or holds something else than this backbone.
    """
    path = imagenet_file(backbone) if pretrained == IMAGENET else Path(pretrained)
    file = torch_files.read(path)
    with _named(path):
        _, tensors = torch_map.without_prefix(file.tensors)
        if not torch_map.is_torchvision(tensors):
            raise ValueError(_no_torchvision(path, tensors))
        found = _torchvision_backbone(tensors)
        if found != backbone:
            raise ValueError(_other_backbone(found, backbone))
        abstract = nnx.eval_shape(lambda: backbone_info(backbone).build(nnx.Rngs(0)))
        shapes = _shapes(nnx.state(abstract, (nnx.Param, nnx.BatchStat)))
        shapes = {("backbone", *path): shape for path, shape in shapes.items()}
        renamed = torch_map.from_torchvision(tensors)
        variables = torch_map.exact_values(torch_map.import_tensors(renamed, shapes))
    logging.info("starting with the %s of %s", backbone, path)
    return variables


def _torchvision_backbone(tensors: Mapping[str, np.ndarray]) -> str:
    return torch_map.recognize_backbone(torch_map.from_torchvision(tensors))


def _other_backbone(found: str, wanted: str) -> str:
    return (
        f"it holds a {found}, and config.model.backbone is {wanted};"
        f" --config.model.backbone={found} would fit"
    )


def _no_torchvision(path: Path, tensors: Mapping[str, np.ndarray]) -> str:
    if any(name.startswith("backbone.") for name in tensors):
        return f"it holds a whole network; use --config.init_from={path}"
    return (
        f"it is no ResNet of torchvision: none of its {len(tensors)} tensors is called layer1.…;"
        f" there is {torch_map.listed(tensors)}"
    )
