"""The clips of a bank as points for the projector of TensorBoard, with a picture of each.

The folder that is written is the `--logdir` of TensorBoard. The point of a clip is the mean over
all but the last axis of the first array that the method keeps of it: of MoLo the mean of the
appearance tokens.
"""

import math
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from molo_jax.bank.exporting import ExportedClips, plain
from molo_jax.errors import MoloError
from molo_jax.files import new_name, recover_folder, replace_folder, written
from molo_jax.prediction.trees import describe

# The browser has to hold all of them: so many points, and so many numbers of all points.
MOST_POINTS, MOST_NUMBERS = 10_000, 10_000_000
CONFIG, TENSORS, METADATA, SPRITE = (
    "projector_config.pbtxt",
    "tensors.tsv",
    "metadata.tsv",
    "sprite.png",
)
# The side of a sprite that browsers can still show, and of a picture in it at most.
_SPRITE_SIDE, _PICTURE_SIDE = 8192, 64
_PICTURES_AT_ONCE = 64
_BLOCK = 256
_HEADER = ("class", "class_id", "video", "draw")

# (positions of the class and the video, number of the draw) -> the frames (t, h, w, 3) of the
# clip; None where it cannot be read any more.
ReadClip = Callable[[int, int, int], UInt8[np.ndarray, "t h w 3"] | None]


def check_projector_folder(folder: Path) -> None:
    """Checks before any work that a folder can be made, or replaced as an earlier export.

    Raises:
        MoloError: it holds other things.
    """
    recover_folder(folder)
    if not (folder.exists() or folder.is_symlink()):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise MoloError(f"{folder} is no folder of a projector; choose another one")
    known = {CONFIG, TENSORS, METADATA, SPRITE}
    other = sorted({entry.name for entry in folder.iterdir()} - known)
    if other:
        raise MoloError(
            f"{folder} holds other things than a projector ({other[0]}); choose another folder"
        )


def export_projector(
    folder: Path, clips: ExportedClips, read_clip: ReadClip, workers: int
) -> tuple[int, int]:
    """Writes a folder for TensorBoard; an earlier one of that name is replaced as a whole.

    Where there are too many clips for a browser, as many as it can show are taken, evenly spread
    over the rows of the bank, so that every class and every draw is among them.

    Args:
        folder: the folder.
        clips: the clips.
        read_clip: reads the frames of a clip, of which the middle one is its picture.
        workers: clips read at the same time.

    Returns:
        The number of points, and that of the clips.

    Raises:
        MoloError: it cannot be written or replaced, or the features are no vectors.
    """
    check_projector_folder(folder)
    dtype, shape = next(iter(clips.arrays.values()))
    if not shape or not shape[-1]:
        raise MoloError(
            f"the first array of the features has the shape {shape} for each clip ({dtype}); points"
            " need at least one axis"
        )
    rows = chosen_rows(clips.rows, shape[-1])
    new = new_name(folder)
    try:
        with written(folder):
            new.mkdir(parents=True, exist_ok=True)
            with (new / TENSORS).open("w", encoding="ascii") as file:
                for points in _points(clips, rows):
                    np.savetxt(file, points, fmt="%.6g", delimiter="\t")
            _write_metadata(new / METADATA, clips, rows)
            side = write_sprite(new / SPRITE, rows, clips, read_clip, workers)
            (new / CONFIG).write_text(_config(clips, side), encoding="utf-8")
            replace_folder(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return len(rows), len(clips.rows)


def chosen_rows(rows: Int[np.ndarray, "r"], features: int) -> Int[np.ndarray, "p"]:
    """Returns as many rows as the projector can show, evenly spread over all."""
    most = max(1, min(MOST_POINTS, MOST_NUMBERS // features))
    if len(rows) <= most:
        return rows
    return rows[((np.arange(most) + 0.5) * len(rows) / most).astype(np.int64)]


def _points(clips: ExportedClips, rows: np.ndarray) -> Iterator[Float[np.ndarray, "p d"]]:
    for start in range(0, len(rows), _BLOCK):
        first = describe(clips.bank.take(rows[start : start + _BLOCK]))[1][0]
        yield first.reshape(len(first), -1, first.shape[-1]).mean(axis=1, dtype=np.float64)


def _write_metadata(path: Path, clips: ExportedClips, rows: np.ndarray) -> None:
    columns = clips.columns(rows)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("\t".join(_HEADER) + "\n")
        for values in zip(*(columns[name] for name in _HEADER), strict=True):
            file.write("\t".join(map(one_cell, values)) + "\n")


def one_cell(value: object) -> str:
    """Returns a value as a cell of a table of tabs; whatever ends a cell or a line is escaped."""
    text = plain(str(value))
    # Python's notion of what ends a line is the widest one.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def write_sprite(
    path: Path, rows: np.ndarray, clips: ExportedClips, read_clip: ReadClip, workers: int
) -> int:
    """Writes the pictures of clips side by side as one square, row by row.

    Returns:
        The side of one picture, in pixels.
    """
    across = math.ceil(math.sqrt(len(rows)))
    side = min(_PICTURE_SIDE, _SPRITE_SIDE // across)
    sprite = Image.new("RGB", (across * side, across * side), "white")

    def picture(place: tuple[int, int, int]) -> Image.Image:
        frames = read_clip(*place)
        if frames is None:
            return Image.new("RGB", (side, side), "gray")
        middle = Image.fromarray(np.asarray(frames[len(frames) // 2]))
        return middle.resize((side, side), Image.Resampling.LANCZOS)

    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(rows), _PICTURES_AT_ONCE):
            part = rows[start : start + _PICTURES_AT_ONCE]
            places = zip(*(each.tolist() for each in clips.bank.places(part)), strict=True)
            for number, image in enumerate(pool.map(picture, places), start):
                sprite.paste(image, (number % across * side, number // across * side))
    sprite.save(path, "PNG")
    return side


def _config(clips: ExportedClips, side: int) -> str:
    """The text of a `ProjectorConfig`; names of data sets and splits are plain words."""
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in clips.dataset)
    return (
        "embeddings {\n"
        f'  tensor_name: "{name} {clips.split.name}"\n'
        f'  tensor_path: "{TENSORS}"\n'
        f'  metadata_path: "{METADATA}"\n'
        "  sprite {\n"
        f'    image_path: "{SPRITE}"\n'
        f"    single_image_dim: {side}\n"
        f"    single_image_dim: {side}\n"
        "  }\n"
        "}\n"
    )
