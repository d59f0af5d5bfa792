"""Small videos whose pixels say which video and which frame they are."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from molo_jax.data.dataset import VideoDataset

WIDTH, HEIGHT, BITS = 64, 48, 8


def coded_frame(video: int, frame: int) -> np.ndarray:
    """The frame's number as 8 black or white columns above, the video's number below."""
    halves = []
    for number in (frame, video):
        bits = (number >> np.arange(BITS)) & 1
        row = np.repeat(bits.astype(np.uint8) * 255, WIDTH // BITS)
        halves.append(np.broadcast_to(row[None, :, None], (HEIGHT // 2, WIDTH, 3)))
    return np.concatenate(halves)


def _read_codes(clip: np.ndarray) -> tuple[list[int], list[int]]:
    """The frame numbers and the video numbers of a clip (t, h, w, c) of any size."""
    _, height, width, _ = clip.shape
    columns = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    weights = 1 << np.arange(BITS)
    above, below = (
        (clip[:, row, columns, 0] > 127) @ weights for row in (height // 4, height * 3 // 4)
    )
    return above.tolist(), below.tolist()


def _write_video(
    path: Path,
    *,
    video: int = 0,
    frames: int = 17,
    codec: str = "libx264",
    fps: int = 25,
    tag: str | None = None,
    stream_options: dict[str, str] | None = None,
    file_options: dict[str, str] | None = None,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=file_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=stream_options or {})
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        if tag:
            stream.codec_context.codec_tag = tag
        container.start_encoding()
        for number in range(frames):
            picture = av.VideoFrame.from_ndarray(coded_frame(video, number), "rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def _write_audio(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        sound.rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    return _write_video


@pytest.fixture(scope="session")
def write_audio() -> Callable[[Path], Path]:
    return _write_audio


@pytest.fixture(scope="session")
def read_codes() -> Callable[[np.ndarray], tuple[list[int], list[int]]]:
    return _read_codes


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
            _write_video(root / "videos" / f"{name}.mp4", video=code, frames=VIDEO_FRAMES)
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
