import os
from pathlib import Path

import numpy as np
import pytest

from molo_jax.data.decode import BadVideoError, decode_clip, resize_frames
from molo_jax.data.frames import frame_chooser

GOLDEN = np.load(Path(__file__).parents[2] / "parity_tests" / "golden" / "augment.npz")
CODECS = {
    "h264": ("a.mp4", {}),
    "h264 in open groups": ("a.mp4", {"stream_options": {"x264-params": "open-gop=1:keyint=6"}}),
    "h264 in avi": ("a.avi", {}),
    "mpeg4 with b-frames": ("a.mp4", {"codec": "mpeg4", "stream_options": {"bf": "2"}}),
    "xvid": ("a.avi", {"codec": "mpeg4", "tag": "XVID", "stream_options": {"bf": "2"}}),
    "vp8": ("a.webm", {"codec": "libvpx"}),
    "vp9": ("a.webm", {"codec": "libvpx-vp9"}),
    "mpeg2": ("a.mpg", {"codec": "mpeg2video"}),
    "mjpeg": ("a.avi", {"codec": "mjpeg"}),
}


def choose(*frames: int):
    return lambda length, fps: np.array(frames)


@pytest.mark.parametrize("name", CODECS)
def test_the_frames_that_were_asked_for_come_back(name, write_video, read_codes, tmp_path):
    file_name, options = CODECS[name]
    path = str(write_video(tmp_path / file_name, video=19, frames=41, **options))
    for frames in ([40, 3, 3, 22, 39], [0, 11, 13, 24, 29, 36]):
        clip = decode_clip(path, choose(*frames), 40)
        assert (clip.shape, clip.dtype) == ((len(frames), 40, 40, 3), np.uint8)
        assert read_codes(clip) == (frames, [19] * len(frames))


def test_the_choice_gets_length_and_frame_rate(write_video, tmp_path):
    path = str(write_video(tmp_path / "a.mp4", frames=23, fps=12))
    seen = []

    def note(length, fps):
        seen.append((length, fps))
        return np.array([0])

    decode_clip(path, note, 32)
    assert seen == [(23, 12.0)]


def test_a_video_of_one_frame_fills_the_clip(write_video, read_codes, tmp_path):
    path = str(write_video(tmp_path / "a.mp4", video=7, frames=1))
    clip = decode_clip(path, frame_chooser("segments", np.full(5, 0.7)), 32)
    assert read_codes(clip) == ([0] * 5, [7] * 5)


def test_the_resize_equals_the_official_one_up_to_rounding():
    small = resize_frames(GOLDEN["clip"], 40)[:, 4:36, 4:36]
    expected = GOLDEN["resize40_centre32"] * 255
    assert small.dtype == np.uint8
    assert np.abs(small - expected).max() <= 0.5 + 1e-3
    large = resize_frames(GOLDEN["clip"], 256)[:, 16:240, 16:240]
    probe = GOLDEN["resize256_centre224_probe"]
    assert abs(np.linalg.norm(large / 255) - probe[0]) < 0.02
    assert abs((large / 255).mean() - probe[1]) < 1e-4
    pixels = [large[0, 0, 0, 0], large[1, 100, 77, 2]]
    assert pixels == np.rint(probe[2:] * 255).tolist()


def test_shrinking_picks_pixels_and_does_not_blur():
    # At a third of the height and a fifth of the width, half-pixel centers fall on every third
    # pixel from 1 and every fifth from 2; antialiasing would average their neighborhoods.
    frames = np.random.default_rng(0).integers(0, 256, (2, 21, 35, 3), np.uint8)
    np.testing.assert_array_equal(resize_frames(frames, 7), frames[:, 1::3, 2::5])


def test_frames_of_the_right_size_stay_as_they_are():
    frames = np.random.default_rng(0).integers(0, 256, (2, 7, 7, 3), np.uint8)
    np.testing.assert_array_equal(resize_frames(frames, 7), frames)


def zero_payload(path: Path, first: float) -> None:
    """Overwrites the end of a faststart mp4, from a fraction of its length, with zeros."""
    content = bytearray(path.read_bytes())
    start = int(len(content) * first)
    content[start:] = bytes(len(content) - start)
    path.write_bytes(content)


def test_a_damaged_end_is_found_whatever_frames_are_chosen(write_video, tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, frames=60, file_options={"movflags": "faststart"})
    zero_payload(path, 0.8)
    for frames in ([0, 0], [0, 1], [58, 59]):
        with pytest.raises(BadVideoError, match=r"a\.mp4: damaged: its frames cannot"):
            decode_clip(str(path), choose(*frames), 32)


def test_unusable_videos_are_named_and_nothing_is_printed(
    write_video, write_audio, tmp_path, capfd
):
    write_audio(tmp_path / "audio.mp4")
    write_video(tmp_path / "no_frames.mp4", frames=0)
    write_video(tmp_path / "cut.mp4").write_bytes((tmp_path / "no_frames.mp4").read_bytes()[:-9])
    (tmp_path / "text.mp4").write_text("an essay\n" * 30)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    reasons = {
        "audio": "no video stream",
        "no_frames": "no video stream",
        "cut": "truncated",
        "text": "not a video file",
        "empty": "0 bytes",
        "folder": "Is a directory",
        "gone": "No such file",
    }
    for name, reason in reasons.items():
        path = str(tmp_path / f"{name}.mp4")
        with pytest.raises(BadVideoError, match=reason) as error:
            decode_clip(path, choose(0), 32)
        assert error.value.path == path
        assert path in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_a_refused_choice_makes_the_video_bad(write_video, tmp_path):
    path = write_video(tmp_path / "a.mp4")

    def refuse(length, fps):
        raise ValueError("the frame rate is nan")

    with pytest.raises(BadVideoError, match=r"a\.mp4: the frame rate is nan"):
        decode_clip(str(path), refuse, 32)


def test_many_videos_leave_neither_memory_nor_open_files_behind(write_video, tmp_path):
    good = write_video(tmp_path / "a.mp4", frames=25)
    bad = write_video(tmp_path / "b.mp4", frames=40, file_options={"movflags": "faststart"})
    zero_payload(bad, 0.6)
    choice = frame_chooser("segments", np.full(8, 0.5))

    def decode_many(count):
        for number in range(count):
            if number % 10 == 0:
                with pytest.raises(BadVideoError):
                    decode_clip(str(bad), choice, 64)
            decode_clip(str(good), choice, 64)

    decode_many(100)
    memory, files = resident_megabytes(), len(os.listdir("/proc/self/fd"))
    decode_many(400)
    assert resident_megabytes() - memory < 10
    assert len(os.listdir("/proc/self/fd")) == files


def resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
