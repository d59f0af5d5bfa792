import hashlib
import os

import numpy as np
import pytest
import video_kinds
import videos

from molo_jax.data.video import frames
from molo_jax.data.video.clock import FrameClock
from molo_jax.data.video.containers import BadVideoError
from molo_jax.data.video.decode import decode_clip
from molo_jax.data.video.frames import frame_chooser
from molo_jax.data.video.timed import timed_frames
from molo_jax.errors import MoloError
from molo_jax.prediction import clips
from molo_jax.prediction.clips import ClipRule, identify, read_clip, spelled_time

RULE = ClipRule(num_frames=4, resize=64, crop=56)


@pytest.fixture
def video(tmp_path):
    return videos.write_video(tmp_path / "видео 視頻.mp4", video=5, frames=17)


def test_the_frames_in_the_middle_of_equal_segments_are_read(video):
    clip = read_clip(video, RULE)
    # 17 // 4 = 4 frames a segment, of which number 2.
    assert clip.numbers.tolist() == [2, 6, 10, 14]
    assert videos.read_codes(clip.pixels) == ([2, 6, 10, 14], [5] * 4)
    assert clip.pixels.shape == (4, 64, 64, 3)
    assert clip.seconds == pytest.approx(np.array([2, 6, 10, 14]) / 25)
    assert clip.name == str(video)
    assert clip.digest == hashlib.sha256(video.read_bytes()).hexdigest()


def test_the_times_of_frames_are_those_of_the_file(tmp_path):
    times = [18 * n if n < 12 else 216 + 3 * (n - 12) for n in range(24)]  # 5, then 30 a second
    path = videos.write_video(tmp_path / "uneven.mp4", frames=24, times=[90 + t for t in times])
    clip = read_clip(path, RULE)
    assert clip.numbers.tolist() == [3, 9, 15, 21]
    assert clip.seconds == pytest.approx([times[n] / 90 for n in (3, 9, 15, 21)], abs=1e-6)


@pytest.mark.parametrize("name", ["VP8 without a frame rate", "H.264 with an edit list"])
def test_times_are_those_of_the_frames_one_after_the_other(tmp_path, name):
    kind = video_kinds.KINDS[name]
    path = tmp_path / kind.file_name
    kind.make(path)
    clip = read_clip(path, RULE)
    times = [frame.seconds for frame in timed_frames(str(path))]
    assert clip.seconds.tolist() == [times[number] for number in clip.numbers]
    assert clip.seconds[-1] > 0.5


def test_a_file_with_neither_times_nor_a_rate_has_no_times(video, monkeypatch):
    monkeypatch.setattr(FrameClock, "read", lambda self, frame: (None, 0))
    assert read_clip(video, RULE).seconds is None


def test_the_time_limit_is_that_for_one_clip(video):
    _, digest = identify(video)
    with pytest.raises(BadVideoError, match="reading it takes longer than 1e-09 s"):
        read_clip(video, RULE, digest=digest, seconds=1e-9)


@pytest.mark.parametrize(
    ("sampling", "frames", "numbers"),
    [
        ("segments", 17, [2, 6, 10, 14]),
        ("segments", 100, [12, 37, 62, 87]),
        ("window_middle", 17, [1, 0, 0, 0]),
        ("window_middle", 100, [0, 22, 43, 65]),
    ],
)
def test_a_file_is_read_as_an_evaluation_reads_it_with_draws_in_the_middle(
    tmp_path, sampling, frames, numbers
):
    path = videos.write_video(tmp_path / "a.mp4", frames=frames, fps=12)
    choose = frame_chooser(sampling, np.full(4, 0.5))
    expected, metadata = decode_clip(str(path), choose, 64)
    clip = read_clip(path, ClipRule(4, sampling, resize=64, crop=56))
    np.testing.assert_array_equal(clip.pixels, expected)
    assert clip.numbers.tolist() == numbers
    # And as it is read again, when the frames of the file are known.
    again, _ = decode_clip(str(path), choose, 64, metadata)
    np.testing.assert_array_equal(clip.pixels, again)


def test_a_window_in_the_middle_is_read_where_the_network_learnt_from_windows(video):
    rule = ClipRule(num_frames=4, sampling="window", resize=64, crop=64)
    expected = frames.window_frames(17, 25.0, 4, None)
    assert read_clip(video, rule).numbers.tolist() == expected.tolist()


def test_thumbnails_keep_the_shape_of_the_video_and_small_frames_their_size(video, tmp_path):
    assert read_clip(video, RULE).thumbnails.shape == (4, 48, 64, 3)
    frame = np.zeros((400, 100, 3), np.uint8)
    assert clips.thumbnail(frame).shape == (160, 40, 3)


def test_a_video_that_is_stored_turned_is_read_upright(tmp_path):
    codes = video_kinds.turned(1)(tmp_path / "turned.mp4")
    clip = read_clip(tmp_path / "turned.mp4", RULE)
    expected = [codes[number] for number in clip.numbers]
    assert videos.read_codes(clip.pixels)[0] == expected
    assert len(set(expected)) == 4
    assert clip.thumbnails.shape == (4, 64, 48, 3)


def test_an_array_of_the_right_number_of_frames_is_taken_as_it_is():
    array = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    clip = read_clip(array, RULE)
    np.testing.assert_array_equal(clip.pixels, array)
    assert clip.numbers.tolist() == [0, 1, 2, 3]
    assert clip.seconds is None
    assert clip.digest == read_clip(array.copy(order="F"), RULE).digest
    assert clip.digest != read_clip(array[::-1], RULE).digest


def test_frames_of_a_longer_array_are_chosen_as_those_of_a_video():
    array = np.stack([videos.coded_frame(9, number) for number in range(41)])
    clip = read_clip(array, RULE)
    assert videos.read_codes(clip.pixels) == ([5, 15, 25, 35], [9] * 4)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((4, 8, 8, 4), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
    ],
)
def test_an_array_that_is_no_clip_is_refused_with_its_shape_and_type(array):
    with pytest.raises(MoloError, match="is no clip; expected frames, height, width, 3") as caught:
        read_clip(array, RULE)
    assert str(array.shape) in str(caught.value)
    assert str(array.dtype) in str(caught.value)


def test_a_video_of_one_frame_shows_it_again_and_again(tmp_path):
    one = videos.write_video(tmp_path / "one.mp4", video=2, frames=1)
    assert read_clip(one, RULE).numbers.tolist() == [0, 0, 0, 0]


def test_a_long_video_is_refused_before_it_is_read(tmp_path, monkeypatch):
    # 30 frames a tenth of a second apart in the file, 18 seconds each by its times.
    path = videos.write_video(
        tmp_path / "long.mp4", frames=30, times=[90 * 18 * n for n in range(30)]
    )
    monkeypatch.setattr(clips, "content_digest", lambda path: pytest.fail("it was read"))
    with pytest.raises(
        BadVideoError, match=r"lasts [89]:\d\d, and a clip at most 5:00; .*--window"
    ):
        read_clip(path, RULE)


def test_what_is_no_video_has_a_reason(tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    sound = tmp_path / "sound.mp4"
    videos.write_video(sound, frames=1, sound=True)
    os.mkfifo(tmp_path / "pipe.mp4")
    for path, reason in (
        (tmp_path / "absent.mp4", "No such file"),
        (tmp_path, "it is a folder"),
        (tmp_path / "pipe.mp4", "no regular file"),
        (text, "not a video file"),
    ):
        with pytest.raises(BadVideoError, match=reason):
            identify(path)


def test_times_are_spelled_for_people():
    assert [spelled_time(s) for s in (5, 65, 3600 * 2 + 5)] == ["0:05", "1:05", "2:00:05"]
    assert [spelled_time(s, 1) for s in (2.54, 59.96, 3661.5)] == ["0:02.5", "1:00.0", "1:01:01.5"]


@pytest.mark.parametrize(
    "wrong",
    [{"num_frames": 0}, {"resize": 8, "crop": 9}, {"sampling": "all"}, {"crop": 2.0}],
)
def test_a_rule_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        ClipRule(**wrong)
