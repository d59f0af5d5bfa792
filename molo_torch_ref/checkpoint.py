"""Official checkpoints: a ``torch.save`` dictionary whose ``model_state`` has prefixed names."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

_PREFIXES = ("module.", "head.")


def official_tensors(path: str | Path) -> dict[str, Tensor]:
    """Reads the tensors of a checkpoint, without the prefixes of their names.

    The file is a ``.pth`` or ``.pyth`` with the official dictionary or a bare ``state_dict``, or a
    ``.safetensors``. Pickles are read with ``weights_only=True``: no code of the file runs.
    """
    if Path(path).suffix == ".safetensors":
        from safetensors.torch import load_file

        return _without_prefixes(load_file(path))
    content = torch.load(path, map_location="cpu", weights_only=True)
    return _without_prefixes(content.get("model_state", content))


def load_official(model: nn.Module, path: str | Path) -> None:
    """Loads a checkpoint into a model of the same architecture, strictly.

    Raises:
        RuntimeError: naming tensors that are missing, unexpected or of another shape.
    """
    model.load_state_dict(official_tensors(path), strict=True)


def _without_prefixes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    bare = dict(tensors)
    for prefix in _PREFIXES:
        bare = {name.removeprefix(prefix): tensor for name, tensor in bare.items()}
    return bare
