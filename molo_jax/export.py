"""The command that writes a network as programs which run without molo_jax.

python -m molo_jax.export --weights=SRC --out=DIR [--format=stablehlo|onnx] [--overwrite]

SRC is a work folder of training, a checkpoint, an official file, or a backbone such as resnet50.
DIR gets the embedder (clips to features), the matcher (features to scores) and metadata.json.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from molo_jax import cli
from molo_jax.errors import UsageError
from molo_jax.methods.settings import METHODS
from molo_jax.prediction.export_folder import (
    FORMATS,
    STABLEHLO,
    check_destination,
    check_installed,
)

_WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "A work folder of training, a checkpoint, an official file (.pth, .pyth, .safetensors), or a"
    " backbone with its ImageNet weights (resnet18, resnet34, resnet50).",
)
_OUT = flags.DEFINE_string("out", None, "Folder to make.")
_FORMAT = flags.DEFINE_enum(
    "format",
    STABLEHLO,
    FORMATS,
    "stablehlo: runs with JAX alone, on CPU and CUDA. onnx: runs in ONNX Runtime and its like; to"
    " write it needs the extra `onnx`.",
)
_METHOD = flags.DEFINE_enum(
    "method",
    None,
    list(METHODS),
    "The method of an official file whose tensors fit several, or how the frames of a backbone are"
    " compared.",
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an earlier export in DIR.")


def main(argv: Sequence[str]) -> None:
    """Runs the command with the parsed flags."""
    del argv
    for flag, value in (("weights", _WEIGHTS.value), ("out", _OUT.value)):
        if not value:
            raise UsageError(f"--{flag} is required; --help says what it is")
    out, form = Path(_OUT.value), _FORMAT.value
    check_installed(form)
    check_destination(out, overwrite=_OVERWRITE.value)
    # These import JAX, for which a mistake in the flags should not have to wait.
    from molo_jax.prediction.exporting import summary, write_export
    from molo_jax.prediction.sources import open_network

    network = open_network(_WEIGHTS.value, method=_METHOD.value or "", precision="float32")
    print(summary(write_export(network, out, form, overwrite=_OVERWRITE.value), out))


if __name__ == "__main__":
    # Nothing is computed, so a GPU that another program uses is left alone.
    os.environ["JAX_PLATFORMS"] = "cpu"
    cli.run(main)
