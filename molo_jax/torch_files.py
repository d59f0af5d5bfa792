"""Reads and writes PyTorch's checkpoint files as dictionaries of NumPy arrays.

Nothing of a file is ever run: pickles are read with ``weights_only=True``. A ``.safetensors`` file
needs no PyTorch.
"""

import dataclasses
import io
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from molo_jax.errors import MoloError
from molo_jax.model.torch_weights import listed

SAFETENSORS = ".safetensors"
SUFFIXES = (".pth", ".pyth", SAFETENSORS)
# Of a file to write: the official dictionary, or a state_dict alone.
OFFICIAL, BARE = "official", "bare"
LAYOUTS = (OFFICIAL, BARE)
# The prefix of the names in an official file.
PREFIX = "head."

# Where in a dictionary the weights can be; the first is the official place.
_CONTAINERS = ("model_state", "state_dict", "model_state_dict", "model")
_SAFETENSORS_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
# How the files of torch.save begin: a zip archive, or a pickle of protocol 2 or later.
_MAGIC = (b"PK", b"\x80")
_INSTALL = "install it with: pip install 'molo-jax[torch]'"


@dataclasses.dataclass(frozen=True)
class TorchFile:
    """What a PyTorch file holds.

    Attributes:
        tensors: the weights by the names they have in the file, in the dtypes they have there.
        container: the key of the dictionary that the weights are under; empty for a bare one.
        epoch: the number of the official dictionary, where it has one.
        cfg: the configuration of the official dictionary, as text.
        ignored: the dictionary's other keys.
    """

    tensors: dict[str, np.ndarray]
    container: str = ""
    epoch: int | None = None
    cfg: str = ""
    ignored: tuple[str, ...] = ()


def is_torch_path(path: Path) -> bool:
    """Whether a path is called like a PyTorch file."""
    return path.suffix.lower() in SUFFIXES


def check_installed(path: Path) -> None:
    """Checks that what a file of this kind needs is installed.

    Raises:
        MoloError: saying how to install it.
    """
    if path.suffix.lower() == SAFETENSORS:
        _safetensors()
    else:
        _torch()


def read(path: Path) -> TorchFile:
    """Reads the tensors of a `.pth`, `.pyth` or `.safetensors` file; runs nothing of it.

    Raises:
        MoloError: when the file is absent, empty, cut off or of another kind, holds code, or holds
            what is no tensor where the tensors are.
    """
    if path.is_dir():
        raise MoloError(f"{path} is a folder, not a PyTorch file")
    if not path.is_file():
        raise MoloError(f"{path} does not exist")
    if path.stat().st_size == 0:
        raise MoloError(f"{path} is empty")
    if path.suffix.lower() == SAFETENSORS:
        return TorchFile(_read_safetensors(path))
    return _unpack(path, _read_pickle(path))


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    library = _safetensors()
    content = path.read_bytes()
    try:
        entries = library.deserialize(content)
    except library.SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing: ")
        raise MoloError(
            f"{path} is cut off, damaged, or no .safetensors file ({reason}); it begins with"
            f" {content[:12]!r}"
        ) from error
    unknown = [f"{n} ({e['dtype']})" for n, e in entries if e["dtype"] not in _SAFETENSORS_DTYPES]
    if unknown:
        raise MoloError(f"{path} holds tensors of dtypes that are not known: {listed(unknown)}")
    return {
        name: np.frombuffer(entry["data"], _SAFETENSORS_DTYPES[entry["dtype"]]).reshape(
            entry["shape"]
        )
        for name, entry in entries
    }


def _read_pickle(path: Path) -> Any:
    torch = _torch()
    # A file that may not be opened is an OSError of its own; torch has them for broken ones too.
    path.open("rb").close()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    # A broken file gives UnpicklingError, RuntimeError, EOFError, KeyError, OSError and others.
    except Exception as error:
        raise MoloError(_why_unreadable(path, error)) from error


def _why_unreadable(path: Path, error: Exception) -> str:
    code = re.search(r"GLOBAL (\S+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and code:
        return (
            f"{path} holds {code[1]}, which is code and no tensor; nothing of the file was run."
            " Save the weights alone: torch.save(model.state_dict(), FILE)"
        )
    with path.open("rb") as file:
        start = file.read(12)
    if start.startswith(_MAGIC):
        return f"{path} is cut off, damaged, holds code, or was not written by torch.save"
    return f"{path} is no PyTorch file; it begins with {start!r}"


def _unpack(path: Path, content: Any) -> TorchFile:
    """Finds weights, epoch and configuration in what torch.load returned."""
    if not isinstance(content, Mapping):
        raise MoloError(f"{path} holds a {type(content).__name__}, no dictionary of tensors")
    found = [key for key in _CONTAINERS if isinstance(content.get(key), Mapping)]
    if len(found) > 1:
        raise MoloError(f"{path} holds weights in several places: {listed(found)}; keep one")
    if not found:
        return TorchFile(_arrays(path, content, "the file"))
    epoch, cfg = content.get("epoch"), content.get("cfg")
    known = {found[0]} | ({"epoch"} if type(epoch) is int else set())
    known |= {"cfg"} if isinstance(cfg, str) else set()
    return TorchFile(
        tensors=_arrays(path, content[found[0]], found[0]),
        container=found[0],
        epoch=epoch if type(epoch) is int else None,
        cfg=cfg if isinstance(cfg, str) else "",
        ignored=tuple(str(key) for key in content if key not in known),
    )


def _arrays(path: Path, entries: Mapping[Any, Any], where: str) -> dict[str, np.ndarray]:
    arrays = {name: _array(value) for name, value in entries.items()}
    wrong = [f"{name} ({array})" for name, array in arrays.items() if isinstance(array, str)]
    wrong += [f"{name!r} (no text as its name)" for name in arrays if not isinstance(name, str)]
    if wrong:
        raise MoloError(f"{path}: {where} holds what is no plain tensor: {listed(wrong)}")
    if not arrays:
        raise MoloError(f"{path}: {where} holds no tensors")
    return arrays


def _array(value: Any) -> np.ndarray | str:
    """Returns a tensor's values without copying them, or the word for what is no plain tensor."""
    torch = _torch()
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        return f"{value.layout} on {value.device.type}, {value.dtype}".replace("torch.", "")
    value = value.detach().resolve_conj().resolve_neg()
    if value.dtype == torch.bfloat16:
        return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    try:
        return value.numpy()
    # NumPy has no such dtype.
    except TypeError:
        return str(value.dtype).removeprefix("torch.")


def write(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    *,
    layout: str = OFFICIAL,
    epoch: int = 0,
    cfg: str = "",
) -> None:
    """Writes tensors to a file that is there as a whole or not at all.

    Args:
        path: `.safetensors` holds the tensors under their own names, whatever the layout; any
            other suffix is written by torch.save.
        tensors: bare official names and values, in the order to write.
        layout: `official` is the dictionary of `epoch`, `model_state` (names with the prefix
            `head.`), `optimizer_state` (empty) and `cfg`; `bare` is the tensors alone.
        epoch: for the official dictionary.
        cfg: for the official dictionary.

    Raises:
        MoloError: when PyTorch or safetensors is not installed.
        OSError: when the file cannot be written.
    """
    # A transposed view would be written in the order of its memory.
    plain = {name: np.array(value, order="C") for name, value in tensors.items()}
    if path.suffix.lower() == SAFETENSORS:
        _safetensors()
        from safetensors.numpy import save

        _write_whole(path, save(plain, metadata={"format": "pt"}))
        return
    torch = _torch()
    state = {name: torch.from_numpy(value) for name, value in plain.items()}
    content: dict[str, Any] = state
    if layout == OFFICIAL:
        named = {PREFIX + name: tensor for name, tensor in state.items()}
        content = {"epoch": epoch, "model_state": named, "optimizer_state": {}, "cfg": cfg}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    _write_whole(path, buffer.getbuffer())


def _write_whole(path: Path, content: bytes | memoryview) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MoloError(f"a .pth or .pyth file needs PyTorch; {_INSTALL}") from error
    return torch


def _safetensors() -> Any:
    try:
        import safetensors
    except ImportError as error:
        raise MoloError(f"a .safetensors file needs safetensors; {_INSTALL}") from error
    return safetensors
