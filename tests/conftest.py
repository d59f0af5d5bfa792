import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

# Compiled programs are shared by all tests and by the commands that they start. Set before any
# test imports JAX; a folder that is already set is used, and kept from one run to the next.
_COMPILED = tempfile.TemporaryDirectory(prefix="molo-jax-tests-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _COMPILED.name)
os.environ.setdefault("JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def _write_moving_square(path: Path, direction: int, start: int, frames: int = 11) -> None:
    """Writes a bright square that moves by two pixels a frame on a plain ground."""
    path.parent.mkdir(parents=True, exist_ok=True)
    side, square = 40, 12
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            picture = np.full((side, side, 3), 20, np.uint8)
            move = (start + 2 * number * (1 if direction < 2 else -1)) % (side - square)
            y, x = (5, move) if direction % 2 else (move, 5)
            picture[y : y + square, x : x + square] = 230
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="session")
def write_motion() -> Callable[..., None]:
    return _write_moving_square


@pytest.fixture(scope="session")
def motion_data(tmp_path_factory) -> Path:
    """A folder `videos` and a folder `splits`; each split has three classes of four videos.

    The class numbers are 3, 5 and 8; the name of a class is in its videos' folder.
    """
    root = tmp_path_factory.mktemp("motions")
    (root / "splits").mkdir()
    for split in ("train", "val", "test"):
        lines = []
        for place, class_id in enumerate((3, 5, 8)):
            for number in range(4):
                name = f"{split}_motion{class_id}/{number}.mp4"
                _write_moving_square(root / "videos" / name, direction=place, start=3 * number)
                lines.append(f"{split}{class_id}//{name}\n")
        (root / "splits" / f"{split}_few_shot.txt").write_text("".join(lines))
    return root


@pytest.fixture
def keep_no_networks(tmp_path):
    """Removes what a test wrote: a network has 75 MB, and pytest keeps the files of three runs."""
    yield
    shutil.rmtree(tmp_path)
