"""The prepared data of the end-to-end mode: what was given, or the generated videos."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from molo_jax.data.store.records import BUILDER, SETTINGS_FILE, VERSION, Settings, read_settings
from molo_jax.errors import MoloError, UsageError

# Where the generated videos go if no folder is given.
FOLDER = "runs/benchmark"
_GENERATED = "synthetic"


def prepared_data(options: dict[str, Any]) -> dict[str, Any]:
    """What the pipeline has to know of the data; generates them where no folder is given.

    Returns:
        `prepared` (the folder), `dataset`, `resize` and `sampling`.

    Raises:
        UsageError: the folder has no prepared videos, or several data sets of which none is
            chosen, or their frames are smaller than the crop.
        MoloError: the videos cannot be generated.
    """
    folder, name = options["data"], options["dataset"]
    if folder is None:
        folder, name = FOLDER, _GENERATED
        generate(folder)
    settings = _settings(folder, name)
    if settings.resize < options["crop"]:
        raise UsageError(
            f"--crop is {options['crop']}; expected at most {settings.resize}, the side of the"
            f" prepared frames of {settings.dataset} in {folder}"
        )
    if settings.keep == "window" and settings.num_frames != options["frames"]:
        raise UsageError(
            f"--frames is {options['frames']}; expected {settings.num_frames}, for which the frames"
            f" of {settings.dataset} in {folder} were chosen"
        )
    return {
        "prepared": str(folder),
        "dataset": settings.dataset,
        "resize": settings.resize,
        "sampling": "window" if settings.keep == "window" else "segments",
    }


def generate(folder: str) -> None:
    """Prepares the generated videos; those that are there already are taken.

    Raises:
        MoloError: the preparation failed.
    """
    print(f"preparing the generated videos in {folder}", flush=True)
    command = ["-m", "molo_jax.prepare", f"--dataset={_GENERATED}", f"--out={folder}"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise MoloError(f"the videos could not be prepared: {last.removeprefix('error: ')}")


def _settings(folder: str, name: str | None) -> Settings:
    paths = sorted(Path(folder).glob(f"{BUILDER}/*/{VERSION}/{SETTINGS_FILE}"))
    found = {each.dataset: each for each in map(read_settings, paths)}
    if not found:
        raise UsageError(
            f"--data is {folder}, which holds no prepared videos; expected a folder that was --out"
            " of python -m molo_jax.prepare"
        )
    if name is None and len(found) > 1:
        raise UsageError(
            f"--data is {folder}, which holds {' and '.join(found)}; choose one with --dataset"
        )
    if name is not None and name not in found:
        raise UsageError(
            f"--dataset is {name}, but {folder} holds {' and '.join(found)}; choose what is there"
        )
    return found[name] if name else next(iter(found.values()))
