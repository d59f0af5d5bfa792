"""Reads and writes PyTorch's checkpoint files as dictionaries of NumPy arrays.

Nothing of a file is ever run, and nothing is read before its size is known to be one that a network
can have. Reading needs no PyTorch; writing a ``.pth`` or ``.pyth`` file does.
"""

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from molo_jax.errors import MoloError
from molo_jax.files import check_file, new_name, replacing
from molo_jax.weights.torch_archive import MAX_PICKLE, TooLargeError, open_archive
from molo_jax.weights.torch_map import listed
from molo_jax.weights.torch_pickle import DTYPES, CodeError, Other, Tensor

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
# Bytes of the weights of a network: the largest, ResNet-50, has 90 million parameters, which take
# 0.67 GiB even as float64. With the two moments of Adam beside them a file has three times as many.
MAX_WEIGHTS = 2**30
MAX_FILE = 3 * MAX_WEIGHTS
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
    """Checks that what writing a file of this kind needs is installed.

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
        MoloError: when the file is absent, empty, cut off or of another kind, is larger than that
            of any network, holds code, or holds what is no tensor where the tensors are.
    """
    check_file(path, "a PyTorch file")
    size = path.stat().st_size
    if size == 0:
        raise MoloError(f"{path} is empty")
    safe = path.suffix.lower() == SAFETENSORS
    limit = MAX_WEIGHTS + MAX_PICKLE if safe else MAX_FILE
    if size > limit:
        optimizer = "" if safe else " with its optimizer"
        raise MoloError(
            f"{path} has {size:,} bytes, and the file of a network{optimizer} at most {limit:,}"
        )
    return TorchFile(_read_safetensors(path)) if safe else _read_archive(path)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    library = _safetensors()
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
        if MAX_PICKLE < header <= path.stat().st_size:
            raise MoloError(
                f"{path}: the list of its tensors has {header:,} bytes, and that of a network at"
                f" most {MAX_PICKLE:,}"
            )
        file.seek(0)
        # Of what only looks like such a file, the beginning is enough to say so.
        content = file.read() if header <= MAX_PICKLE else file.read(MAX_PICKLE)
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


def _read_archive(path: Path) -> TorchFile:
    # A file that may not be opened is an OSError of its own; broken ones give them too.
    path.open("rb").close()
    try:
        with open_archive(path) as archive:
            file, tensors = _unpack(path, archive.content)
            storages = {tensor.storage for tensor in tensors.values()}
            numbers = {storage: archive.read(storage) for storage in storages}
    except (MoloError, MemoryError):
        raise
    except CodeError as error:
        raise MoloError(
            f"{path} holds {listed([error])}, which is code and no tensor; nothing of the file was"
            " run. Save the weights alone: torch.save(model.state_dict(), FILE)"
        ) from error
    except TooLargeError as error:
        raise MoloError(f"{path}: {error}") from error
    # A broken file gives BadZipFile, RuntimeError, EOFError, KeyError, OSError and others.
    except Exception as error:
        raise MoloError(_why_unreadable(path)) from error
    arrays = {name: _array(tensor, numbers[tensor.storage]) for name, tensor in tensors.items()}
    return dataclasses.replace(file, tensors=arrays)


def _why_unreadable(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(12)
    if start.startswith(_MAGIC):
        return f"{path} is cut off, damaged, holds code, or was not written by torch.save"
    return f"{path} is no PyTorch file; it begins with {start!r}"


def _unpack(path: Path, content: Any) -> tuple[TorchFile, dict[str, Tensor]]:
    """Finds weights, epoch and configuration in what was saved; the arrays are still to read."""
    if not isinstance(content, Mapping):
        kind = content.kind if isinstance(content, Other) else type(content).__name__
        raise MoloError(f"{path} holds a {kind}, no dictionary of tensors")
    found = [key for key in _CONTAINERS if isinstance(content.get(key), Mapping)]
    if len(found) > 1:
        raise MoloError(f"{path} holds weights in several places: {listed(found)}; keep one")
    if not found:
        return TorchFile({}), _tensors(path, content, "the file")
    epoch, cfg = content.get("epoch"), content.get("cfg")
    known = {found[0]} | ({"epoch"} if type(epoch) is int else set())
    known |= {"cfg"} if isinstance(cfg, str) else set()
    file = TorchFile(
        tensors={},
        container=found[0],
        epoch=epoch if type(epoch) is int else None,
        cfg=cfg if isinstance(cfg, str) else "",
        ignored=tuple(str(key) for key in content if key not in known),
    )
    return file, _tensors(path, content[found[0]], found[0])


def _tensors(path: Path, entries: Mapping[Any, Any], where: str) -> dict[str, Tensor]:
    """Checks that all entries are plain tensors of a size that a network can have."""
    wrong = [f"{name} ({kind})" for name, value in entries.items() if (kind := _unsuitable(value))]
    wrong += [f"{name!r} (no text as its name)" for name in entries if not isinstance(name, str)]
    if wrong:
        raise MoloError(f"{path}: {where} holds what is no plain tensor: {listed(wrong)}")
    if not entries:
        raise MoloError(f"{path}: {where} holds no tensors")
    _check_sizes(path, entries)
    return dict(entries)


def _unsuitable(value: Any) -> str:
    """Returns the word for what is no plain tensor, and nothing for one that is."""
    if not isinstance(value, Tensor):
        return value.kind if isinstance(value, Other) else type(value).__name__
    if value.dtype not in DTYPES:
        return value.dtype
    if value.lazy:
        return f"{value.dtype}, with {value.lazy} still to do"
    return ""


def _check_sizes(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuses what no network has before any of its numbers are read.

    A tensor can show the same few numbers of a file again and again, and a file can name more
    numbers than it has.
    """
    shown = {name: t.size * DTYPES[t.dtype].itemsize for name, t in tensors.items()}
    name = max(shown, key=shown.__getitem__)
    stored = sum(storage.nbytes for storage in {t.storage for t in tensors.values()})
    if max(sum(shown.values()), stored) > MAX_WEIGHTS:
        largest = f"{listed([name])}, of shape {tensors[name].shape}, has {shown[name]:,}"
        raise MoloError(
            f"{path}: its tensors show {sum(shown.values()):,} bytes of {stored:,} stored ones"
            f" ({largest}), and those of a network have at most {MAX_WEIGHTS:,}"
        )
    outside = [
        f"{name} (bytes up to {t.end * DTYPES[t.dtype].itemsize:,} of {t.storage.nbytes:,})"
        for name, t in tensors.items()
        if t.end * DTYPES[t.dtype].itemsize > t.storage.nbytes
    ]
    if outside:
        raise MoloError(f"{path}: tensors reach beyond what is stored: {listed(outside)}")


def _array(tensor: Tensor, numbers: bytes) -> np.ndarray:
    """Returns a tensor's values, a view of the numbers."""
    dtype = DTYPES[tensor.dtype]
    if not tensor.size:
        return np.zeros(tensor.shape, dtype)
    flat = np.frombuffer(numbers, dtype, count=len(numbers) // dtype.itemsize)[tensor.offset :]
    strides = [stride * dtype.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)


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
    # The same name every time, so that the next run takes over what a killed one has left.
    with replacing(path, new_name(path)) as temporary:
        temporary.write_bytes(content)


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MoloError(f"writing a .pth or .pyth file needs PyTorch; {_INSTALL}") from error
    return torch


def _safetensors() -> Any:
    try:
        import safetensors
    except ImportError as error:
        raise MoloError(f"a .safetensors file needs safetensors; {_INSTALL}") from error
    return safetensors
