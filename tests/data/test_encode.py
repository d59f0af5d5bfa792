"""What is stored of a video, up to the size of a record."""

import cv2
import numpy as np
import pytest

from molo_jax.data import encode
from molo_jax.data.containers import BadVideoError
from molo_jax.data.encode import EncodedVideo, encode_or_reason, encode_video
from molo_jax.data.processes import Lost
from molo_jax.data.records import Settings

SETTINGS = Settings("folder", resize=48, chroma="444")


def codes(video: EncodedVideo, read_codes) -> list[int]:
    """The numbers in the pixels of the stored frames."""
    images = [cv2.imdecode(np.frombuffer(i, np.uint8), cv2.IMREAD_COLOR_RGB) for i in video.images]
    return read_codes(np.stack(images))[0]


@pytest.fixture
def limit(monkeypatch):
    """Sets the size of a record to that of so many frames of a video."""

    def set_it(path: str, frames: float) -> None:
        sizes = [len(image) for image in encode_video(path, SETTINGS).images]
        monkeypatch.setattr(encode, "_MOST_BYTES", int(sum(sizes) / len(sizes) * frames))

    return set_it


def test_a_video_that_fits_is_stored_as_a_whole(write_video, read_codes, tmp_path, limit):
    path = str(write_video(tmp_path / "a.mp4", frames=50))
    limit(path, 50.1)
    video = encode_video(path, SETTINGS)
    assert video.numbers.tolist() == codes(video, read_codes) == list(range(50))
    assert (video.length, video.shortened) == (50, "")


@pytest.mark.parametrize(("room", "step"), [(45, 2), (27, 2), (22, 4), (6, 16), (0.1, 64)])
def test_of_a_video_that_does_not_fit_every_second_fourth_or_so_frame_is_stored(
    room, step, write_video, read_codes, tmp_path, limit
):
    path = str(write_video(tmp_path / "a.mp4", frames=50))
    limit(path, room)
    video = encode_video(path, SETTINGS)
    assert video.numbers.tolist() == codes(video, read_codes) == list(range(0, 50, step))
    assert video.length == 50
    assert video.shortened.startswith(f"{-(-50 // step)} of 50 frames are stored, evenly spaced")


def test_the_rule_shortens_what_max_frames_leaves(write_video, read_codes, tmp_path, limit):
    path = str(write_video(tmp_path / "a.mp4", frames=50))
    limit(path, 7)
    video = encode_video(path, Settings("folder", resize=48, chroma="444", max_frames=10))
    # The middles of ten equal parts, and every second of them.
    assert video.numbers.tolist() == codes(video, read_codes) == [2, 12, 22, 32, 42]


def test_a_second_reading_begins_with_an_empty_record(file_of_kind, read_codes, limit):
    # Fewer frames are shown than packets are there, so that it is read twice.
    path, expected = file_of_kind("VP8 with hidden frames")
    limit(path, len(expected) + 0.5)
    video = encode_video(path, SETTINGS)
    assert codes(video, read_codes) == expected
    assert video.shortened == ""


def test_what_may_go_better_another_time_is_lost(tmp_path):
    gone = encode_or_reason(str(tmp_path / "gone.mp4"), SETTINGS)
    assert isinstance(gone, Lost)
    assert gone == "cannot be opened: No such file or directory"


@pytest.mark.parametrize(
    ("error", "reason", "kind"),
    [
        (MemoryError(), "there was not enough memory for its frames", Lost),
        (KeyError("x"), "reading it failed unexpectedly (KeyError: 'x')", str),
        (BadVideoError("a.mp4", "damaged"), "damaged", str),
    ],
)
def test_every_exception_becomes_a_reason(error, reason, kind, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(encode, "read_whole", fail)
    result = encode_or_reason("a.mp4", SETTINGS)
    assert (result, type(result)) == (reason, kind)
