import itertools
import logging
import resource
import weakref
from fractions import Fraction

import av
import numpy as np
import pytest
from video_kinds import FRAMES, KINDS
from videos import coded_frame, read_codes, read_packets, write_packets, write_video

from molo_jax.data.video.containers import BadVideoError, check_file
from molo_jax.data.video.timed import TimedFrame, timed_frames
from molo_jax.errors import MoloError, UsageError
from molo_jax.prediction.annotate import annotate
from molo_jax.prediction.timeline import Segment

ALL = [Segment(0.0, 100.0, "squat", True, 0.87)]


def frames_of(path):
    return [(frame.seconds, frame.pixels()) for frame in timed_frames(str(path))]


def write_large(path, *, frames=50, width=320, height=240, fps=25, audio="aac", times=None):
    """A gray video with a moving white square in the upper half, and with sound."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"bf": "2"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        if times:
            stream.codec_context.time_base = Fraction(1, 90)
        sound = container.add_stream(audio, rate=16000) if audio else None
        container.start_encoding()
        for number in range(frames):
            picture = np.full((height, width, 3), 128, np.uint8)
            picture[10:50, 4 * number : 4 * number + 40] = 255
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 90)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound:
            noise = np.random.default_rng(0).normal(0, 0.2, (1, 32000)).astype(np.float32)
            for place in range(0, 32000, 1000):
                part = av.AudioFrame.from_ndarray(noise[:, place : place + 1000], "fltp", "mono")
                part.rate, part.pts = 16000, place
                part.time_base = Fraction(1, 16000)
                container.mux(sound.encode(part))
            container.mux(sound.encode())
    return path


def sound_of(path):
    """The packets of the sound with their times."""
    with av.open(str(path)) as container:
        return [
            (float(p.pts * p.time_base), bytes(p))
            for p in container.demux(audio=0)
            if p.size and p.pts >= 0
        ]


def test_the_label_is_drawn_in_its_corner_and_the_rest_of_the_frames_stays(tmp_path):
    path = write_large(tmp_path / "a.mp4")
    segments = [
        Segment(0.0, 0.8, "squat", True, 0.9),
        Segment(0.8, 1.2, "none of these", False, float("nan")),
        Segment(1.2, 2.0, "lunge", True, 0.4),
    ]
    made = annotate(str(path), segments, tmp_path / "out.mp4")
    assert (made.frames, made.sound, made.error) == (50, True, None)
    before, after = frames_of(path), frames_of(tmp_path / "out.mp4")
    assert [time for time, _ in after] == [time for time, _ in before]
    for number, ((_, old), (_, new)) in enumerate(zip(before, after, strict=True)):
        assert new.shape == (240, 320, 3)
        difference = np.abs(new.astype(int) - old)
        # Encoding again costs a few gray levels.
        assert difference[:190].mean() < 2
        corner = difference[205:235, 5:100]
        if 20 <= number < 30:
            assert corner.mean() < 2
        else:
            assert corner.mean() > 30
    squat, lunge = after[10][1], after[40][1]
    assert np.abs(squat[205:235, 5:100].astype(int) - lunge[205:235, 5:100]).mean() > 5
    check_file(str(tmp_path / "out.mp4"))


def test_the_new_file_is_h264_in_yuv420p_with_its_colors_said(tmp_path):
    path = write_large(tmp_path / "a.mp4")
    annotate(str(path), ALL, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.colorspace, context.color_range) == (1, 1)


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv"])
def test_the_sound_is_still_there_packet_by_packet(ending, tmp_path):
    path = write_large(tmp_path / "a.mp4")
    annotate(str(path), ALL, tmp_path / f"out{ending}")
    before, after = sound_of(path), sound_of(tmp_path / f"out{ending}")
    assert len(after) > 25
    # Sound behind the last frame is left out.
    before = [packet for packet in before if packet[0] <= 2.0]
    assert [data for _, data in after] == [data for _, data in before]
    np.testing.assert_allclose(
        [time for time, _ in after], [time for time, _ in before], atol=1.1e-3
    )


@pytest.mark.parametrize(
    ("source", "audio", "ending", "name"),
    # FFmpeg refuses the first one when it is added, the second one when the file begins.
    [(".mov", "pcm_mulaw", ".mp4", "pcm_mulaw"), (".mkv", "libopus", ".mov", "opus")],
)
def test_sound_that_the_container_cannot_hold_is_left_out_and_that_is_said(
    source, audio, ending, name, tmp_path, caplog
):
    path = write_large(tmp_path / f"a{source}", audio=audio)
    with caplog.at_level(logging.WARNING):
        made = annotate(str(path), ALL, tmp_path / f"out{ending}")
    assert (made.frames, made.sound) == (50, False)
    assert f"out{ending} has no sound: its kind of file cannot hold {name}" in caplog.text
    assert annotate(str(path), ALL, tmp_path / f"out{source}").sound
    assert sound_of(tmp_path / f"out{source}")


def test_sound_and_frames_begin_together_where_the_stamps_of_a_file_do_not_begin_at_0(tmp_path):
    path = write_large(tmp_path / "a.ts")
    with av.open(str(path)) as container:
        first = min(p.pts * p.time_base for p in container.demux(video=0) if p.size)
    assert first > 0
    annotate(str(path), ALL, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        starts = [
            min(p.pts * p.time_base for p in container.demux(stream) if p.size)
            for stream in [container.streams.video[0]]
        ]
    assert starts == [0]
    before, after = sound_of(path), sound_of(tmp_path / "out.mp4")
    expected = [time - float(first) for time, _ in before]
    expected = [time for time in expected if 0 <= time <= 2.0]
    np.testing.assert_allclose([time for time, _ in after], expected, atol=1e-3)


def test_sound_before_the_first_frame_is_left_out(tmp_path):
    path = write_large(tmp_path / "a.mkv", frames=10, times=[45 + 9 * n for n in range(10)])
    annotate(str(path), ALL, tmp_path / "out.mkv")
    assert [time for time, _ in frames_of(tmp_path / "out.mkv")][:2] == [0, 0.1]
    # The last frame comes 0.9 s after the first one, and stays for 1/25 s.
    expected = [(time - 0.5, data) for time, data in sound_of(path) if 0.5 <= time <= 1.44]
    found = sound_of(tmp_path / "out.mkv")
    assert len(found) > 10
    assert [data for _, data in found] == [data for _, data in expected]
    np.testing.assert_allclose(
        [time for time, _ in found], [time for time, _ in expected], atol=1.1e-3
    )


def test_the_sound_of_an_avi_begins_with_its_first_frame_in_spite_of_frames_out_of_order(tmp_path):
    path = write_large(tmp_path / "a.avi", audio="libmp3lame")
    annotate(str(path), ALL, tmp_path / "out.mkv")
    before, after = sound_of(path), sound_of(tmp_path / "out.mkv")
    assert [data for _, data in after[:20]] == [data for _, data in before[:20]]
    np.testing.assert_allclose(
        [time for time, _ in after[:20]], [time for time, _ in before[:20]], atol=1.1e-3
    )


def test_uneven_times_are_kept(tmp_path):
    times = [0, 1, 2, 3, 45, 46, 90, 91, 92, 180, 181, 182, 183, 260]
    path = write_large(tmp_path / "a.mp4", frames=len(times), times=times, audio=None)
    for ending, error in ((".mp4", 1e-9), (".mkv", 6e-4)):
        made = annotate(str(path), ALL, tmp_path / f"out{ending}")
        assert (made.frames, made.sound) == (len(times), False)
        found = [time for time, _ in frames_of(tmp_path / f"out{ending}")]
        np.testing.assert_allclose(found, np.array(times) / 90, atol=error)


SOME_KINDS = (
    "H.264 in a transport stream",
    "H.264 without a container",
    "H.264 with an edit list",
    "H.264 in 10 bits",
    "H.264 turned by 90 degrees",
    "H.264 turned by 180 degrees",
    "VP8 of a size that changes",
    "VP8 without a frame rate",
    "XviD in AVI with B-frames",
    "AV1 in WebM",
    "GIF",
    "Motion JPEG in AVI with empty chunks",
)


@pytest.mark.parametrize("name", SOME_KINDS)
def test_every_kind_of_video_keeps_its_frames_and_their_times(name, tmp_path):
    kind = KINDS[name]
    path = tmp_path / kind.file_name
    codes = kind.make(path)
    made = annotate(str(path), [], tmp_path / "out.mp4")
    assert made.frames == len(codes)
    before, after = frames_of(path), frames_of(tmp_path / "out.mp4")
    np.testing.assert_allclose([t for t, _ in after], [t for t, _ in before], atol=1e-4)
    assert read_codes(np.stack([pixels for _, pixels in after]))[0] == codes
    assert after[0][1].shape == before[0][1].shape


def test_odd_sizes_grow_by_one_pixel_and_pixels_that_are_not_square_stay_so(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 63, 47, "yuvj420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for number in range(5):
            image = np.ascontiguousarray(coded_frame(0, number)[:47, :63])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    annotate(str(tmp_path / "a.mkv"), [], tmp_path / "out.mp4")
    assert [p.shape for _, p in frames_of(tmp_path / "out.mp4")] == [(48, 64, 3)] * 5
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


def test_pixels_that_are_not_square_are_turned_with_a_video_that_is_turned(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        stream.set_display_rotation(90)
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(coded_frame(0, number), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    annotate(str(tmp_path / "a.mp4"), [], tmp_path / "out.mp4")
    assert [p.shape for _, p in frames_of(tmp_path / "out.mp4")] == [(64, 48, 3)] * 5
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(3, 4)


def test_a_video_that_is_turned_has_its_pixels_turned_too(tmp_path):
    path = tmp_path / "a.mp4"
    KINDS["H.264 turned by 90 degrees"].make(path)
    annotate(str(path), ALL, tmp_path / "out.mp4")
    times, pixels = zip(*frames_of(tmp_path / "out.mp4"), strict=True)
    assert pixels[0].shape == (64, 48, 3)
    assert len(times) == FRAMES
    bottom, top = (
        np.stack([new[part].astype(int) for new in pixels])
        for part in (slice(50, 62), slice(0, 30))
    )
    old = np.stack([p.astype(int) for _, p in frames_of(path)])
    assert np.abs(bottom - old[:, 50:62]).mean() > 10
    assert np.abs(top - old[:, :30]).mean() < 6


def test_frames_are_written_one_after_the_other(tmp_path, monkeypatch):
    path = write_large(tmp_path / "a.mp4")
    alive, most, pixels = weakref.WeakSet(), [], TimedFrame.pixels

    def watched(frame):
        alive.add(frame)
        most.append(len(alive))
        return pixels(frame)

    monkeypatch.setattr(TimedFrame, "pixels", watched)
    done = []
    annotate(str(path), ALL, tmp_path / "out.mp4", progress=done.append)
    assert len(most) == 50
    # The first one is looked at before the others.
    assert max(most) <= 3
    np.testing.assert_allclose(done, np.arange(50) / 25)


def test_a_damaged_video_is_written_up_to_the_damage_which_is_said(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", frames=60, stream_options={"g": "10", "bf": "0"})
    packets = read_packets(whole)
    packets[33].data = packets[33].data[:4] + b"\xff" * (len(packets[33].data) - 4)
    write_packets(tmp_path / "a.mp4", whole, packets)
    made = annotate(str(tmp_path / "a.mp4"), [], tmp_path / "out.mp4")
    assert made.frames == 33
    assert "cannot be decoded to the end" in made.error.reason
    found = frames_of(tmp_path / "out.mp4")
    assert read_codes(np.stack([pixels for _, pixels in found]))[0] == list(range(33))


# What cannot be done


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_nothing_is_written_of_what_is_no_video(tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(BadVideoError, match="not a video file"):
        annotate(str(tmp_path / "a.mp4"), ALL, tmp_path / "out.mp4")
    assert files_in(tmp_path) == ["a.mp4"]


def test_an_ending_that_is_not_known_and_the_video_itself_are_refused(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=3)
    with pytest.raises(
        UsageError, match=r"out\.avi does not end like .*\.mp4, \.m4v, \.mov, \.mkv"
    ):
        annotate(str(path), ALL, tmp_path / "out.avi")
    (tmp_path / "link.mp4").symlink_to(path)
    for name in ("a.mp4", "link.mp4"):
        with pytest.raises(UsageError, match="is the video itself"):
            annotate(str(path), ALL, tmp_path / name)
    assert files_in(tmp_path) == ["a.mp4", "link.mp4"]


def test_a_file_that_cannot_be_written_is_said_and_nothing_stays(tmp_path, monkeypatch):
    path = write_large(tmp_path / "a.mp4", frames=10)
    with pytest.raises(MoloError, match=r"absent/out\.mp4 cannot be written: No such file"):
        annotate(str(path), ALL, tmp_path / "absent" / "out.mp4")
    (tmp_path / "out.mp4").write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(MoloError, match=r"out\.mp4 cannot be written: No space left.*make room"):
        annotate(str(path), ALL, tmp_path / "out.mp4")
    assert files_in(tmp_path) == ["a.mp4", "out.mp4"]
    assert (tmp_path / "out.mp4").read_text() == "old"


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_a_disk_that_becomes_full_is_said_and_nothing_stays(ending, tmp_path):
    path = write_large(tmp_path / "a.mp4")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, before[1]))
    try:
        with pytest.raises(MoloError, match=r"out.* cannot be written: File too large; allow"):
            annotate(str(path), ALL, tmp_path / f"out{ending}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files_in(tmp_path) == ["a.mp4"]


def test_an_interruption_leaves_nothing(tmp_path):
    path = write_large(tmp_path / "a.mp4", frames=30)
    calls = itertools.count()

    def interrupt(_):
        if next(calls) == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        annotate(str(path), ALL, tmp_path / "out.mp4", progress=interrupt)
    assert files_in(tmp_path) == ["a.mp4"]
