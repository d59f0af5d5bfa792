"""The folder of an export: what is in it, and whether it can be made. Nothing here imports JAX."""

import importlib.util
from pathlib import Path

from molo_jax import files
from molo_jax.errors import MoloError

STABLEHLO, ONNX = "stablehlo", "onnx"
FORMATS = (STABLEHLO, ONNX)
EMBEDDER, MATCHER = "embedder", "matcher"
METADATA = "metadata.json"
# What writing ONNX needs beside the package itself, all of it in the extra `onnx`.
_NEEDED = ("jax2onnx", "onnx")


def file_of(program: str, form: str) -> str:
    """Returns the name of the file of a program."""
    return f"{program}.{form}"


def check_installed(form: str) -> None:
    """Checks that what writing a format needs is installed, without importing any of it.

    Raises:
        MoloError: saying how to install it.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if form == ONNX and missing:
        raise MoloError(
            f"--format={ONNX} needs {' and '.join(missing)}; install with: pip install"
            " 'molo-jax[onnx]'"
        )


def check_destination(destination: Path, *, overwrite: bool) -> None:
    """Checks that a folder can be made or replaced, before any work.

    Raises:
        MoloError: it exists and is not to be replaced, is no earlier export, or cannot be made.
    """
    parents = destination.absolute().parents
    blocking = next((p for p in parents if p.exists() and not p.is_dir()), None)
    if blocking:
        raise MoloError(
            f"{destination} cannot be made: {blocking} is {files.kind_of(blocking)}, no folder"
        )
    if not (destination.exists() or destination.is_symlink()):
        return
    if not overwrite:
        raise MoloError(
            f"{destination} exists; choose another --out, or replace it with --overwrite"
        )
    if destination.is_symlink() or not destination.is_dir():
        raise MoloError(f"{destination} is no folder of an export; remove it first")
    names = {entry.name for entry in destination.iterdir()}
    # Files of other formats too: the whole folder is replaced.
    ours = {file_of(program, form) for program in (EMBEDDER, MATCHER) for form in FORMATS}
    other = sorted(names - ours - {METADATA})
    if other:
        raise MoloError(
            f"{destination} holds other things than an export ({other[0]}); remove it first, or"
            " choose another --out"
        )
