"""Files and data sets of small videos whose pixels say which video and which frame they are."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import videos
from video_kinds import KINDS

from molo_jax.data.clips.dataset import VideoDataset


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    return videos.write_video


@pytest.fixture(scope="session")
def write_audio() -> Callable[[Path], Path]:
    return videos.write_audio


@pytest.fixture(scope="session")
def read_codes() -> Callable[[np.ndarray], tuple[list[int], list[int]]]:
    return videos.read_codes


@pytest.fixture(scope="session")
def file_of_kind(tmp_path_factory) -> Callable[[str], tuple[str, list[int]]]:
    """Gives a file of one of `KINDS`, with the numbers of the frames that a player shows."""

    @functools.cache
    def make(name: str) -> tuple[str, list[int]]:
        kind = KINDS[name]
        path = tmp_path_factory.mktemp("kind") / kind.file_name
        return str(path), kind.make(path)

    return make


# Class number -> number of videos; the numbers have gaps, as lists cut from larger ones have.
CLASS_SIZES = {2: 7, 3: 6, 11: 5, 40: 7}
VIDEO_FRAMES = 17


@pytest.fixture(scope="session")
def video_tree(tmp_path_factory) -> Path:
    """A folder `videos` and a folder `splits` with a train list of four classes.

    The n-th video of the list in (class, file) order has the code n.
    """
    root = tmp_path_factory.mktemp("tree")
    lines, code = [], 0
    for class_id, size in CLASS_SIZES.items():
        for number in range(size):
            name = f"{class_id}_{number}"
            videos.write_video(root / "videos" / f"{name}.mp4", video=code, frames=VIDEO_FRAMES)
            lines.append(f"train{class_id}/{name}\n")
            code += 1
    (root / "splits").mkdir()
    (root / "splits" / "train_few_shot.txt").write_text("".join(lines))
    return root


@pytest.fixture
def open_dataset(video_tree) -> Callable[..., VideoDataset]:
    """Opens the train list over a folder, by default the whole one."""

    def open_it(root: Path | None = None, on_bad_video: str = "fail") -> VideoDataset:
        return VideoDataset.open(
            root or video_tree / "videos",
            video_tree / "splits",
            "train",
            on_bad_video=on_bad_video,
            how_to_get="Ask the owner.",
        )

    return open_it


@pytest.fixture
def spoiled_videos(video_tree, tmp_path) -> Path:
    """The videos with four spoiled in three ways: 2_1, 2_4, 11_0 and 40_3."""
    for path in (video_tree / "videos").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "2_1.mp4").write_text("not a video\n")
    whole = (tmp_path / "2_4.mp4").read_bytes()
    (tmp_path / "2_4.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "11_0.mp4").unlink()
    (tmp_path / "40_3.mp4").write_bytes(b"")
    return tmp_path
