"""What was run in a work folder, and with which versions: `commands.jsonl`."""

import datetime
import importlib.metadata
import json
import platform
from pathlib import Path

from molo_jax.files import written
from molo_jax.reporting.work_folder import COMMANDS_FILE

# On these the numbers depend; what is not installed is left out.
_PACKAGES = (
    *("molo-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy"),
    *("tensorflow", "tensorflow-cpu", "array_record", "av", "decord", "opencv-python-headless"),
    *("simplejpeg", "scikit-learn", "matplotlib", "jinja2"),
)


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that numbers and pages depend on."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def record_command(workdir: Path, command: str) -> None:
    """Appends a command that has done its work, with the time and the versions.

    Raises:
        MoloError: the file cannot be written.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = {"time": now, "command": command, "versions": versions()}
    path = workdir / COMMANDS_FILE
    with written(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
