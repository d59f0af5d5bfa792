"""Where features are exported to, and whether that can be."""

import importlib.util
import os
from pathlib import Path

from molo_jax.errors import MoloError, UsageError

_PROJECTOR = "projector:"
_ENDINGS = (".npz", ".parquet")
NO_PYARROW = (
    "to write .parquet, pyarrow is needed; install it with: pip install 'molo-jax[parquet]', or"
    " export a file .npz"
)


def parse_export(text: str) -> tuple[str, Path]:
    """Reads where features are exported to, and finds out before the work whether that can be.

    Returns:
        `.npz`, `.parquet` or `projector`, and the file or the folder.

    Raises:
        UsageError: it is neither, or in a folder that does not exist or cannot be written to.
        MoloError: pyarrow is needed and not installed.
    """
    is_projector = text.startswith(_PROJECTOR)
    path = Path(text.removeprefix(_PROJECTOR))
    kind = "projector" if is_projector else path.suffix.lower()
    if not path.name or not (is_projector or kind in _ENDINGS):
        raise UsageError(
            f"--export={text}: expected a file .npz or .parquet, or {_PROJECTOR}FOLDER"
        )
    parent = path.absolute().parent
    if not parent.is_dir() or (path.is_dir() and not is_projector):
        what = "a folder" if is_projector else "a file"
        raise UsageError(f"--export={text}: expected {what} in a folder that exists")
    if not os.access(parent, os.W_OK):
        raise UsageError(f"--export={text}: the folder {parent} cannot be written to")
    if kind == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise MoloError(f"--export={text}: {NO_PYARROW}")
    return kind, path
