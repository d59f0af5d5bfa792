"""Writes a network as programs that run without this package: StableHLO or ONNX."""

import contextlib
import hashlib
import importlib.metadata
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax import export

from molo_jax import files
from molo_jax.errors import MoloError
from molo_jax.nn.ops import traced_for
from molo_jax.prediction.export_folder import (
    EMBEDDER,
    MATCHER,
    METADATA,
    ONNX,
    STABLEHLO,
    check_destination,
    check_installed,
    file_of,
)
from molo_jax.prediction.plain import plain
from molo_jax.prediction.programs import CLIPS, MEMBERS, Program, programs
from molo_jax.prediction.sources import Network

# Raised when a reader of older metadata would misunderstand the new one.
FORMAT_VERSION = 1
# Where a StableHLO program runs.
PLATFORMS = ("cpu", "cuda")
# The operators of ONNX 1.16, which ONNX Runtime has from 1.18 on.
OPSET = 21
_PACKAGES = {STABLEHLO: ("jax", "jaxlib"), ONNX: ("jax", "jax2onnx", "onnx")}
_RESIZING = (
    "each frame becomes a square of the side `resize`, whatever its aspect ratio: bilinear with"
    " half-pixel centers, without antialiasing, rounded to whole gray levels with halves to even;"
    " the embedder itself crops the middle square of the side `crop` and normalizes it"
)
_SAMPLINGS = {
    "segments": (
        "segments: n = length // T; frame k is k n + n // 2, and k length // T where the video has"
        " fewer than T frames"
    ),
    "window": (
        "window in the middle: clip = 35 T fps / 12, or T (length // T) where the video is shorter;"
        " begin = max(length - clip + 1, 0) / 2; end = begin + clip - 35; frame k is begin + k (end"
        " - begin) / (T - 1) without its fraction, within 0 and length - 1"
    ),
}
_SCORES = (
    "the class with the largest logit is the prediction; the distance of a query to a class is the"
    " negative logit"
)
_DIMENSIONS = {
    "v": "clips that are embedded together",
    "s": "support clips",
    "q": "queries",
    "n": "classes",
}
_COMPUTES = {
    EMBEDDER: "features of each clip, which do not depend on the other clips",
    MATCHER: "scores of the classes for each query, which do not depend on the other queries",
}
_MEANINGS = {
    CLIPS: "RGB pixels, 0 to 255: clips, frames, rows, columns, colors",
    MEMBERS: "row i is zero but for a one at the class of support clip i; each class has a clip",
}


def write_export(
    network: Network, destination: Path, form: str, *, overwrite: bool = False
) -> dict[str, Any]:
    """Writes embedder, matcher and metadata into a new folder; all of it or nothing.

    Args:
        network: the network.
        destination: the folder.
        form: `stablehlo` or `onnx`.
        overwrite: replace an earlier export in that place.

    Returns:
        The metadata, as in the file.

    Raises:
        MoloError: the folder cannot be written or holds something else, or the network has an
            operation that the format lacks.
    """
    check_installed(form)
    files.recover_folder(destination)
    check_destination(destination, overwrite=overwrite)
    made = []
    for program in programs(network):
        try:
            made.append((program, _WRITERS[form](program)))
        # Whatever a converter raises for what it does not know.
        except Exception as error:
            raise MoloError(
                f"the {program.name} of {network.source} cannot be written as {form}:"
                f" {type(error).__name__}: {_first_line(error)}"
            ) from error
    metadata = _metadata(network, form, made)
    temporary = files.new_name(destination)
    with files.written(destination):
        temporary.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            for program, content in made:
                (temporary / file_of(program.name, form)).write_bytes(content)
            files.write_json(temporary / METADATA, metadata)
            files.replace_folder(destination)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return metadata


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def _stablehlo(program: Program) -> bytes:
    exported = export.export(jax.jit(program.function), platforms=PLATFORMS)
    return bytes(exported(*program.arguments).serialize())


@contextlib.contextmanager
def _without_warnings(*names: str) -> Iterator[None]:
    """Keeps libraries quiet: of shapes that no runtime needs, and of operations not used here."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _onnx(program: Program) -> bytes:
    import onnx
    from jax2onnx import to_onnx

    with traced_for(ONNX):
        function = plain(program.function, *program.arguments)
    with _without_warnings("onnx_ir", "jax2onnx"):
        model = to_onnx(
            function,
            inputs=jax.tree.leaves(program.arguments),
            model_name=program.name,
            opset=OPSET,
            input_names=program.inputs,
            output_names=program.outputs,
        )
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


_WRITERS: Mapping[str, Callable[[Program], bytes]] = {STABLEHLO: _stablehlo, ONNX: _onnx}


def _metadata(network: Network, form: str, made: Sequence[tuple[Program, bytes]]) -> dict[str, Any]:
    settings, rule = network.settings, network.rule
    sampling = "window" if rule.sampling.startswith("window") else rule.sampling
    runs = {"platforms": list(PLATFORMS)} if form == STABLEHLO else {"opset": OPSET}
    return {
        "format_version": FORMAT_VERSION,
        "format": form,
        "method": settings.method,
        "title": settings.title,
        "backbone": settings.backbone,
        "settings": settings.to_json(),
        "source": network.source,
        "origin": network.origin,
        "network_digest": network.digest,
        "clips": {
            "frames": rule.num_frames,
            "resize": rule.resize,
            "crop": rule.crop,
            "choice": _SAMPLINGS[sampling],
            "resizing": _RESIZING,
            "colors": "RGB, uint8",
        },
        "scores": _SCORES,
        "dimensions": _DIMENSIONS,
        "programs": {
            program.name: {
                "file": file_of(program.name, form),
                "sha256": hashlib.sha256(content).hexdigest(),
                "bytes": len(content),
                "computes": _COMPUTES[program.name],
                "inputs": _arrays(program.inputs, program.arguments),
                "outputs": _arrays(program.outputs, program.results),
            }
            for program, content in made
        },
        **runs,
        "versions": {
            name: importlib.metadata.version(name) for name in ("molo-jax", *_PACKAGES[form])
        },
    }


def _arrays(names: tuple[str, ...], tree: Any) -> list[dict[str, Any]]:
    described = []
    for name, leaf in zip(names, jax.tree.leaves(tree), strict=True):
        shape = [size if isinstance(size, int) else str(size) for size in leaf.shape]
        meaning = {"meaning": _MEANINGS[name]} if name in _MEANINGS else {}
        described.append({"name": name, "shape": shape, "dtype": str(leaf.dtype), **meaning})
    return described


def summary(metadata: Mapping[str, Any], destination: Path) -> str:
    """Says in lines what was written."""
    clips, written = metadata["clips"], metadata["programs"]
    sizes = [f"{each['file']} ({each['bytes'] / 1e6:.1f} MB)" for each in written.values()]
    rows = {
        "source": f"{metadata['source']}, {metadata['origin']}",
        "method": metadata["title"],
        "backbone": metadata["backbone"],
        "clips": f"{clips['frames']} frames of {clips['resize']}×{clips['resize']} pixels, the"
        f" middle {clips['crop']} of them; {clips['choice'].partition(':')[0]}",
        **{
            name: f"{_named(each['inputs'])} → {_named(each['outputs'])}"
            for name, each in written.items()
        },
        "written": f"{destination}: {', '.join(sizes)}, {METADATA}",
    }
    return "\n".join(f"{name:9} {value}" for name, value in rows.items())


def _named(arrays: list[dict[str, Any]]) -> str:
    return ", ".join(
        f"{each['name']} {each['dtype']} ({', '.join(map(str, each['shape']))})" for each in arrays
    )
