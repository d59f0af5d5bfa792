import gc
import os
import weakref
from fractions import Fraction

import numpy as np
import pytest
from video_kinds import _UNEVEN, FRAMES, KINDS, VIDEO
from videos import read_packets, write_packets

from molo_jax.data.video import decode
from molo_jax.data.video.clock import FrameClock
from molo_jax.data.video.containers import BadVideoError, Deadline
from molo_jax.data.video.timed import last_moment, timed_frames, video_seconds

# Kinds of file whose frames are shown at other times than 25 a second; by the code of a frame.
UNEVEN = {
    "H.264 at uneven times": [time / 90 for time in _UNEVEN],
    "VP9 at uneven times": [time / 90 for time in _UNEVEN],
    "VP8 without a frame rate": [time / 90 for time in _UNEVEN],
    "H.264 at 29.97 a second": [number * 1001 / 30000 for number in range(FRAMES)],
}
# Containers round times to milliseconds, MPEG ones to 1/90000 second.
ROUNDING = 1.1e-3


def expected_times(name, codes):
    if name == "XviD in AVI with frames not coded":
        # Of two frames that are alike, the second one is left out, and the next one shows its code.
        return np.array([n for n in range(FRAMES) if n not in (5, 21, 34)]) / 25
    moments = UNEVEN.get(name, [number / 25 for number in range(FRAMES)])
    return np.array([moments[code] - moments[codes[0]] for code in codes])


@pytest.mark.parametrize("name", KINDS)
def test_every_frame_comes_once_in_order_with_the_time_at_which_it_is_shown(
    name, file_of_kind, read_codes
):
    path, codes = file_of_kind(name)
    frames = list(timed_frames(path))
    assert [frame.number for frame in frames] == list(range(len(codes)))
    shown = [read_codes(frame.pixels()[None]) for frame in frames]
    assert shown == [([code], [VIDEO]) for code in codes]
    times = [frame.seconds for frame in frames]
    np.testing.assert_allclose(times, expected_times(name, codes), atol=ROUNDING)
    assert times[0] == 0


@pytest.mark.parametrize("name", KINDS)
def test_the_packets_tell_when_the_last_frame_ends(name, file_of_kind):
    path, _ = file_of_kind(name)
    last = list(timed_frames(path))[-1]
    beyond = 0.0
    if name == "H.264 that begins within an open group":
        # The packets of frames that cannot be decoded count.
        beyond = 3 / 25
    assert last_moment(path) == pytest.approx(
        last.seconds + last.duration + beyond, abs=2 * ROUNDING
    )
    assert last.duration > 0


def test_what_the_header_says_is_the_length_for_a_progress_bar(file_of_kind):
    assert video_seconds(file_of_kind("H.264 in MP4")[0]) == pytest.approx(1.6)
    assert video_seconds(file_of_kind("VP9 in WebM")[0]) == pytest.approx(1.6)
    assert video_seconds(file_of_kind("H.264 in AVI")[0]) == pytest.approx(1.6)
    assert video_seconds(file_of_kind("VP8 without a length")[0]) is None


def test_a_frame_is_converted_only_if_its_pixels_are_asked_for(file_of_kind, monkeypatch):
    path, _ = file_of_kind("H.264 in MP4")
    converted = []
    convert = decode.UprightPixels.__call__
    monkeypatch.setattr(
        decode.UprightPixels,
        "__call__",
        lambda self, frame: converted.append(frame.pts) or convert(self, frame),
    )
    for frame in timed_frames(path):
        if frame.number in (3, 30):
            frame.pixels()
    assert converted == [3 * 512, 30 * 512]


def test_frames_come_one_at_a_time_and_none_is_kept(file_of_kind):
    path, _ = file_of_kind("H.264 in MP4 without B-frames")
    alive = weakref.WeakSet()
    most = 0
    for frame in timed_frames(path):
        alive.add(frame)
        gc.collect()
        most = max(most, len(alive))
    assert most <= 2


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_videos_come_upright(degrees, file_of_kind):
    path, _ = file_of_kind(f"H.264 turned by {degrees} degrees")
    shape = next(timed_frames(path)).pixels().shape
    assert shape == ((48, 64, 3) if degrees == 180 else (64, 48, 3))


# Times that are missing


def test_a_file_with_neither_times_nor_a_rate_is_bad(file_of_kind, monkeypatch):
    path, _ = file_of_kind("H.264 in MP4")
    monkeypatch.setattr(FrameClock, "read", lambda self, frame: (None, Fraction(0)))
    with pytest.raises(BadVideoError, match="says neither when its frames are shown nor how many"):
        next(timed_frames(path))


# Files that are damaged, or none


def read_as_far_as_it_goes(path, read_codes):
    """The codes and times of what comes before the error, and the error."""
    codes, times = [], []
    with pytest.raises(BadVideoError) as error:  # noqa: PT012
        for frame in timed_frames(str(path)):
            codes += read_codes(frame.pixels()[None])[0]
            times.append(frame.seconds)
    return codes, times, error.value


FAST = {"file_options": {"movflags": "faststart"}}
FORMATS = {
    "mp4 with its index in front": ("a.mp4", FAST),
    "mp4 in fragments": ("a.mp4", {"file_options": {"movflags": "frag_keyframe+empty_moov"}}),
    "MPEG-4 in mp4": ("a.mp4", FAST | {"codec": "mpeg4"}),
    "VP9 in mp4": ("a.mp4", FAST | {"codec": "libvpx-vp9"}),
    "avi": ("a.avi", {"codec": "mpeg4", "tag": "XVID"}),
    "Motion JPEG in AVI": ("a.avi", {"codec": "mjpeg"}),
    "mkv": ("a.mkv", {}),
    "webm": ("a.webm", {"codec": "libvpx"}),
    "gif": ("a.gif", {"codec": "gif", "pixels": "rgb8"}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_file_gives_the_whole_frames_before_the_cut_and_then_says_that_it_is_truncated(
    name, write_video, tmp_path
):
    file_name, options = FORMATS[name]
    path = write_video(
        tmp_path / file_name, video=7, frames=100, stream_options={"g": "10"}, **options
    )
    right = [frame.pixels() for frame in timed_frames(str(path))]
    content = path.read_bytes()
    for share in (0.7, 0.71, 0.72, 0.73, 0.74, 0.75):
        kept = int(len(content) * share)
        if "fragments" in name:
            # FFmpeg does not open a file that ends within the index of a fragment.
            kept = content.index(b"mdat", kept) + 60
        path.write_bytes(content[:kept])
        times = []
        with pytest.raises(BadVideoError) as error:  # noqa: PT012
            for frame in timed_frames(str(path)):
                times.append(frame.seconds)
                # Behind the last whole packet, a frame that others refer to comes earlier.
                np.testing.assert_array_equal(frame.pixels(), right[round(25 * frame.seconds)])
        assert 40 <= len(times) <= 90
        np.testing.assert_allclose(np.diff(times[:-3]), 1 / 25, atol=ROUNDING)
        assert times == sorted(times)
        assert error.value.reason.startswith("truncated")
        assert not error.value.transient
        assert 0 < last_moment(str(path)) <= 4.0 + ROUNDING


def test_a_packet_that_cannot_be_decoded_ends_the_frames_at_its_place(
    write_video, read_codes, tmp_path
):
    whole = write_video(tmp_path / "whole.mp4", frames=60, stream_options={"g": "10", "bf": "0"})
    packets = read_packets(whole)
    packets[33].data = packets[33].data[:4] + b"\xff" * (len(packets[33].data) - 4)
    write_packets(tmp_path / "a.mp4", whole, packets)
    codes, times, error = read_as_far_as_it_goes(tmp_path / "a.mp4", read_codes)
    assert codes == list(range(33))
    np.testing.assert_allclose(times, np.arange(33) / 25)
    assert error.reason == "damaged: its frames cannot be decoded to the end"


# Kind -> file name, options, and where the holes begin, as parts of the file.
HOLES = {
    "mkv": ("a.mkv", {}, (0.4, 0.45, 0.5, 0.6)),
    "webm": ("a.webm", {"codec": "libvpx"}, (0.4, 0.45, 0.5, 0.6)),
    # A hole within one of its frames, which are large, is found by nobody.
    "Motion JPEG in AVI": ("a.avi", {"codec": "mjpeg"}, (0.4,)),
    "XviD in AVI": ("a.avi", {"codec": "mpeg4", "tag": "XVID"}, (0.4, 0.5)),
}


@pytest.mark.parametrize("name", HOLES)
def test_the_frames_end_at_a_hole_that_decoders_pass_over(name, write_video, read_codes, tmp_path):
    file_name, options, shares = HOLES[name]
    path = write_video(
        tmp_path / file_name, video=5, frames=100, stream_options={"g": "1"}, **options
    )
    content, lengths, reasons = path.read_bytes(), [], set()
    start = max(content.find(part) for part in (b"movi", b"\x1f\x43\xb6\x75"))
    for share in shares:
        for length in (90, 300, 900):
            begin = start + int((len(content) - start) * share)
            path.write_bytes(content[:begin] + bytes(length) + content[begin + length :])
            codes, times, error = read_as_far_as_it_goes(path, read_codes)
            assert codes == list(range(len(codes)))
            np.testing.assert_allclose(times, np.array(codes) / 25, atol=ROUNDING)
            # At most the frame before the hole is lost too.
            assert len(codes) >= 100 * share * 0.9
            lengths.append(len(codes))
            reasons.add(error.reason.split(" byte")[0])
    assert max(lengths) < 85
    assert reasons <= {"damaged: at", "damaged: its frames cannot be decoded to the end"}
    assert "damaged: at" in reasons or name == "XviD in AVI"


def test_a_file_without_an_index_or_without_frames_is_bad_at_once(write_video, tmp_path):
    path = write_video(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[:-300])
    for function in (lambda p: next(timed_frames(p)), video_seconds, last_moment):
        with pytest.raises(BadVideoError, match="truncated"):
            function(str(path))


def test_what_is_no_video_is_said(write_audio, tmp_path):
    (tmp_path / "text.mp4").write_text("not a video\n")
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, reason in (
        ("text.mp4", "not a video file"),
        ("pipe.mp4", "not a regular file"),
        ("absent.mp4", "cannot be opened: No such file"),
    ):
        for function in (lambda p: next(timed_frames(p)), video_seconds, last_moment):
            with pytest.raises(BadVideoError, match=reason):
                function(str(tmp_path / name))
    with pytest.raises(BadVideoError, match="no video stream"):
        next(timed_frames(str(write_audio(tmp_path / "a.m4a"))))


def test_a_deadline_ends_the_reading(file_of_kind):
    path, _ = file_of_kind("H.264 in MP4")
    deadline = Deadline(60)
    frames = timed_frames(path, deadline)
    next(frames)
    deadline._end = 0
    with pytest.raises(BadVideoError, match="takes longer") as error:
        list(frames)
    assert error.value.transient


def test_a_reading_that_is_given_up_closes_the_file(file_of_kind):
    path, _ = file_of_kind("H.264 in MP4")
    before = len(os.listdir("/proc/self/fd"))
    frames = timed_frames(path)
    next(frames)
    frames.close()
    assert len(os.listdir("/proc/self/fd")) == before
