"""The command that converts checkpoints from PyTorch and back.

python -m molo_jax.convert SRC DST [--layout=official|bare] [--overwrite]

One of SRC and DST is a PyTorch file (.pth, .pyth or .safetensors), the other a folder: as SRC a
work folder of training, a folder of checkpoints or one checkpoint in it, as DST a new folder.
"""

import collections
import contextlib
import json
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from molo_jax import cli, config_files, files
from molo_jax.backbones import BACKBONES
from molo_jax.benchmarks import dataset_names
from molo_jax.config import base_config, config_keys
from molo_jax.errors import MoloError, UsageError
from molo_jax.methods.settings import DEFAULT_METHOD, METHODS
from molo_jax.old_checkpoints import config_of_now
from molo_jax.presets import config_file
from molo_jax.weights import torch_files
from molo_jax.weights.imagenet import BEST, LATEST
from molo_jax.workdir import keep_trainings_out

if TYPE_CHECKING:
    from molo_jax.methods.settings import Settings
    from molo_jax.weights.networks import Weights

_LAYOUT = flags.DEFINE_enum(
    "layout",
    None,
    torch_files.LAYOUTS,
    "What a .pth or .pyth file becomes: the official dictionary (default), or a state_dict alone.",
)
# Sections of the configuration that an evaluation depends on, and keys of them that it does not.
_EVALUATED = ("model", "method", "data", "eval")
_ELSEWHERE = ("method.name", "model.pretrained", "data.workers", "data.prefetch")

_METHOD = flags.DEFINE_enum(
    "method",
    None,
    list(METHODS),
    "The method of a PyTorch SRC whose tensors fit several (OTAM, Bi-MHM and ProtoNet have the"
    " same, HyRSM and HyRSM++ too); default: the first that fits.",
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace DST if it exists.")


def main(argv: Sequence[str]) -> None:
    """Runs the command with the parsed flags."""
    source, destination = (Path(argument) for argument in argv[1:])
    options = {"layout": _LAYOUT.value, "overwrite": _OVERWRITE.value, "method": _METHOD.value}
    print(convert(source, destination, **options))


def convert(
    source: Path,
    destination: Path,
    *,
    layout: str | None = None,
    overwrite: bool = False,
    method: str | None = None,
) -> str:
    """Converts a checkpoint; writes all of it or nothing.

    A checkpoint may be read while a training is at work in its work folder, as by an evaluation: a
    training never changes a checkpoint that is complete. The checkpoints of a work folder are not
    replaced while a training is at work there, and no training begins there meanwhile.

    Args:
        source: a PyTorch file, or a folder that holds a molo_jax checkpoint.
        destination: a folder to make, or a PyTorch file; the other kind than the source.
        layout: of a `.pth` or `.pyth` file: `official` (default) or `bare`.
        overwrite: replace what is at the destination.
        method: that of a PyTorch file whose tensors fit several.

    Returns:
        What was converted, and the command that uses it.

    Raises:
        UsageError: when source and destination are of one kind, or the layout does not fit.
        MoloError: when the source cannot be read or is no MoLo network, the destination exists, or
            a training is at work where its checkpoints would be replaced.
    """
    to_torch = torch_files.is_torch_path(destination)
    _check_direction(source, destination, torch_files.is_torch_path(source), to_torch)
    _check_layout(destination, layout, to_torch)
    with _trainings_kept_out(destination):
        return _convert(source, destination, layout, overwrite, to_torch, method)


def _trainings_kept_out(destination: Path) -> contextlib.AbstractContextManager[None]:
    """Takes the lock of the work folder that the destination's checkpoints belong to."""
    folder = destination.absolute().parent
    if destination.name in (LATEST, BEST) and folder.is_dir():
        return keep_trainings_out(folder, "choose another DST")
    return contextlib.nullcontext()


def _convert(
    source: Path,
    destination: Path,
    layout: str | None,
    overwrite: bool,
    to_torch: bool,
    method: str | None,
) -> str:
    if not to_torch:
        _recover(destination)
    _check_destination(destination, to_torch, overwrite)
    if to_torch:
        torch_files.check_installed(destination)

    from molo_jax.weights.networks import load_weights

    weights = load_weights(source, method or "")
    if method and weights.settings.method != method:
        raise UsageError(
            f"--method={method} is for PyTorch files with tensors of that method; {source} is of"
            f" {weights.settings.method}"
        )
    destination.absolute().parent.mkdir(parents=True, exist_ok=True)
    if to_torch:
        return _export(weights, destination, layout or torch_files.OFFICIAL)
    return _import(weights, destination)


def _check_direction(source: Path, destination: Path, from_torch: bool, to_torch: bool) -> None:
    if from_torch != to_torch:
        return
    both = "both are" if from_torch else "neither is"
    raise UsageError(
        f"SRC is {source} and DST is {destination}: {both} a PyTorch file (.pth, .pyth or"
        " .safetensors). To molo_jax: convert FILE.pyth FOLDER; to PyTorch: convert FOLDER FILE.pth"
    )


def _check_layout(destination: Path, layout: str | None, to_torch: bool) -> None:
    if layout and not to_torch:
        raise UsageError(f"--layout={layout} is for writing a PyTorch file; {destination} is none")
    if layout == torch_files.OFFICIAL and destination.suffix.lower() == ".safetensors":
        raise UsageError(
            f"--layout=official needs a .pth or .pyth file; {destination} can hold tensors alone"
        )


def _recover(destination: Path) -> None:
    """Puts right what a killed conversion has left beside the destination."""
    old = files.old_name(destination)
    if old.is_dir():
        _check_replaceable(old)
        files.recover_folder(destination)


def _check_destination(destination: Path, to_torch: bool, overwrite: bool) -> None:
    parents = destination.absolute().parents
    blocking = next((p for p in parents if p.exists() and not p.is_dir()), None)
    if blocking:
        raise MoloError(
            f"{destination} cannot be made: {blocking} is {files.kind_of(blocking)}, no folder"
        )
    if not (destination.exists() or destination.is_symlink()):
        return
    if not overwrite:
        raise MoloError(f"{destination} exists; choose another DST, or replace it with --overwrite")
    if to_torch and destination.is_dir():
        raise MoloError(f"{destination} is a folder, and a file would be written; remove it first")
    if not to_torch:
        _check_replaceable(destination)


def _check_replaceable(folder: Path) -> None:
    """Refuses to remove anything but checkpoints."""
    if folder.is_symlink() or not folder.is_dir():
        raise MoloError(f"{folder} is no folder of checkpoints; remove it first")
    other = sorted(entry.name for entry in folder.iterdir() if not entry.name.isdigit())
    if other:
        raise MoloError(
            f"{folder} holds other things than checkpoints ({other[0]}); remove it first, or choose"
            " another DST"
        )


def _import(weights: "Weights", destination: Path) -> str:
    """Writes a molo_jax checkpoint beside its place, then moves it there."""
    from molo_jax.engine.checkpoint import Checkpoints
    from molo_jax.weights.networks import abstract_network, filled

    _, params, batch_stats = abstract_network(weights.settings)
    model = {
        "params": filled(params, weights.variables),
        "batch_stats": filled(batch_stats, weights.variables),
    }
    meta = {"config": {}} | dict(weights.meta)
    meta |= {
        "architecture": weights.settings.to_json(),
        "step": weights.step,
        "source": Path(weights.source).name,
        "epoch": weights.file.epoch,
        "official_cfg": "" if weights.meta else weights.file.cfg,
    }
    temporary = files.new_name(destination)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with Checkpoints(temporary) as checkpoints:
            checkpoints.save(weights.step, meta=meta, model=model)
        files.replace_folder(destination)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    written = f"{destination / str(weights.step)}, a checkpoint of molo_jax"
    return _summary(weights, _ignored(weights), written, _evaluation(weights, destination))


def _export(weights: "Weights", destination: Path, layout: str) -> str:
    """Writes a PyTorch file."""
    # These import JAX, for which a mistake in the arguments should not have to wait.
    from molo_jax.weights import torch_meta
    from molo_jax.weights.networks import fixed_buffers
    from molo_jax.weights.torch_map import export_tensors

    _check_official(weights.source, weights.settings.backbone)
    tensors = export_tensors(weights.variables, fixed_buffers(weights.settings))
    # What the official file said that this checkpoint was once converted from, or else what this
    # checkpoint says of its training.
    epoch = weights.meta.get("epoch") or 0
    cfg = weights.meta.get("official_cfg") or torch_meta.to_cfg(weights.meta)
    torch_files.write(destination, tensors, layout=layout, epoch=epoch, cfg=cfg)
    program = (
        "from molo_torch_ref import load_official, make_network;"
        f" model = make_network({_torch_arguments(weights.settings)});"
        f" load_official(model, {json.dumps(str(destination))})"
    )
    bare = layout == torch_files.BARE or destination.suffix.lower() == torch_files.SAFETENSORS
    kind = "bare names" if bare else "the official dictionary"
    left = ["optimizer state"] if (Path(weights.source) / "optimizer").is_dir() else []
    written = f"{destination}, {kind}, {len(tensors)} tensors"
    return _summary(weights, left, written, f"python -c {shlex.quote(program)}")


def _check_official(source: str, backbone: str) -> None:
    """Checks that the official code has the backbone: only then do its tensors have names there.

    Raises:
        MoloError: the official code lacks it; the message names the backbones that it has.
    """
    official = [info.name for info in BACKBONES.values() if info.depths]
    if backbone not in official:
        raise MoloError(
            f"{source} cannot become a PyTorch file: the official code has no backbone {backbone},"
            f" so its tensors have no names there; it has {', '.join(official)}"
        )


def _torch_arguments(settings: "Settings") -> str:
    """Returns the arguments that make the network of the PyTorch reference, as Python."""
    arguments = {"backbone": settings.backbone}
    if settings.classifier:
        arguments = {"num_classes": settings.num_classes} | arguments
    stored = settings.to_json()
    # What decides which tensors there are.
    arguments |= {name: stored[name] for name in ("streams", "frames") if name in stored}
    if arguments.get("streams") == "both":
        del arguments["streams"]
    # JSON's quotes, as the shell's are around it.
    named = [f"{name}={json.dumps(value)}" for name, value in arguments.items()]
    return ", ".join([json.dumps(settings.method), *named])


def _ignored(weights: "Weights") -> list[str]:
    from molo_jax.weights.networks import fixed_buffers

    names = [f"{weights.prefix}{name}" for name in fixed_buffers(weights.settings)]
    fixed = [name for name in names if name in weights.file.tensors]
    found = [f"{name} (fixed, and as the network computes it)" for name in fixed]
    return [*weights.file.ignored, *found]


def _summary(weights: "Weights", ignored: Sequence[str], written: str, command: str) -> str:
    values = weights.variables.items()
    trained = sum(value.size for path, value in values if path[-1] not in _STATISTICS)
    rows = {
        "source": f"{weights.source}, {_kind(weights)}",
        "method": weights.settings.title,
        "backbone": weights.settings.backbone,
        "classes": str(weights.settings.num_classes),
        "trained": _training(weights),
        "tensors": f"{len(weights.variables)} with {trained:,} parameters",
        "widened": _widened(weights),
        "ignored": ", ".join(ignored),
        "written": written,
        "next": command,
    }
    return "\n".join(f"{name:9} {value}" for name, value in rows.items() if value)


def _training(weights: "Weights") -> str:
    """Says how many steps a network was trained, and on what, where its source says so."""
    dataset = _dataset(weights)
    if not dataset:
        return ""
    return f"{weights.step} steps on {dataset}"


def _dataset(weights: "Weights") -> str:
    name = weights.meta.get("config", {}).get("dataset", {}).get("name", "")
    return name if name in dataset_names() else ""


def _evaluation(weights: "Weights", destination: Path) -> str:
    """The command that evaluates a converted checkpoint, on the data that it was trained on."""
    from molo_jax.cli import load_config

    name = _dataset(weights) or "ssv2"
    stored = config_of_now(weights.meta.get("config", {}))
    shots = 1 if stored.get("eval", {}).get("shots") == [1] else 5
    file, method = config_file(name, shots=shots), weights.settings.method
    behind = "" if method == DEFAULT_METHOD else f":{method}"
    overrides = [("model.backbone", weights.settings.backbone)]
    if _dataset(weights):
        standard = (
            load_config(f"{file}{behind}") if config_files.find(file) else base_config(method)
        )
        overrides = _differences(stored, standard)
    overrides.append(("init_from", str(destination)))
    arguments = " ".join(f"--config.{key}={shlex.quote(str(value))}" for key, value in overrides)
    return f"python -m molo_jax.main --mode=eval --config={file}{behind} {arguments}"


def _differences(stored: Mapping[str, Any], config: ConfigDict) -> list[tuple[str, Any]]:
    """Returns the values of a training that its configuration file does not set, one a flag."""
    found = []
    for key in config_keys(config):
        section, _, name = key.rpartition(".")
        value = stored.get(section, {}).get(name) if section in _EVALUATED else None
        standard = config[section][name] if section in _EVALUATED else None
        if value is None or key in _ELSEWHERE or value == _as_json(standard):
            continue
        found += [(key, part) for part in (value if isinstance(value, list) else [value])]
    return found


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


# Variables that are no parameters.
_STATISTICS = ("mean", "var", "num_batches_tracked")


def _kind(weights: "Weights") -> str:
    if weights.file is None:
        return f"a checkpoint of molo_jax, step {weights.step}"
    container = weights.file.container
    prefix = f" with the prefix {weights.prefix}" if weights.prefix else " without prefix"
    epoch = "" if weights.file.epoch is None else f", epoch {weights.file.epoch}"
    return f"{container or 'bare state_dict'}, names{prefix}{epoch}"


def _widened(weights: "Weights") -> str:
    """Says which tensors had another dtype; all were converted without a change of value."""
    tensors = {} if weights.file is None else weights.file.tensors
    kinds = collections.Counter(str(np.asarray(tensor).dtype) for tensor in tensors.values())
    others = [kind for kind in sorted(kinds) if kind in ("float16", "bfloat16", "float64")]
    return ", ".join(f"{kinds[kind]} tensors from {kind} to float32, exactly" for kind in others)


if __name__ == "__main__":
    # A conversion needs no accelerator, which a training may be using.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    cli.run(main, ("SRC", "DST"))
