"""Which files are opened, whatever they are called, and for how long they are read."""

import os
from pathlib import Path

import av
import numpy as np
import pytest
from video_kinds import needs_decord

from molo_jax.data.store.processes import Lost
from molo_jax.data.store.records import Settings
from molo_jax.data.video import containers, decode, encode, jumps
from molo_jax.data.video.containers import BadVideoError, Deadline, check_file, open_container
from molo_jax.data.video.decode import decode_clip, read_whole
from molo_jax.data.video.metadata import open_video, packets_of


def only(*frames: int):
    return lambda length, fps: np.array(frames)


LISTS = {
    "ffconcat": "ffconcat version 1.0\nfile good.mp4\n",
    "ffconcat of itself": "ffconcat version 1.0\nfile a.mp4\n",
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:1,\ngood.mp4\n#EXT-X-ENDLIST\n",
    "mpd": '<?xml version="1.0"?>\n<MPD profiles="urn:mpeg:dash:profile:isoff-live:2011"></MPD>',
    "sdp": "v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "a picture": "P3\n1 1\n255\n0 0 0\n",
    "subtitles": "1\n00:00:01,000 --> 00:00:02,000\nhello\n",
}


@pytest.mark.parametrize("extension", [".mp4", ".mkv", ".ts", ".ogv", ".gif"])
@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_other_files_is_no_video(name, extension, write_video, tmp_path):
    write_video(tmp_path / "good.mp4")
    path = tmp_path / f"a{extension}"
    path.write_text(LISTS[name])
    with pytest.raises(BadVideoError, match="not a video file") as error:
        check_file(str(path))
    assert "\n" not in error.value.reason
    # Nor where the file was another one when it was checked.
    with pytest.raises(BadVideoError, match="it cannot be read"), open_video(str(path)):
        pass


@pytest.mark.parametrize(
    "name",
    [
        *("concat:good.mp4", "subfile,,start,0,end,0,,:good.mp4", "http:good.mp4"),
        *("a%03d.gif", "a%d.mp4", "a*.ogv"),
    ],
)
def test_a_name_is_never_a_protocol_or_a_pattern(
    name, write_video, read_codes, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    kinds = {"gif": {"codec": "gif", "pixels": "rgb8"}, "ogv": {"codec": "libvpx"}, "mp4": {}}
    write_video(tmp_path / "good.mp4", video=3)
    made = write_video(tmp_path / f"b{name[-4:]}", video=19, frames=17, **kinds[name[-3:]])
    with pytest.raises(BadVideoError, match="cannot be opened: No such file"):
        check_file(name)
    made.rename(name)
    _, _, kept = read_whole(name, lambda length, fps: np.arange(length), lambda frame: frame)
    assert read_codes(np.stack(list(kept.values()))) == (list(range(17)), [19] * 17)


def test_only_formats_that_open_no_second_file_are_allowed(write_video, tmp_path):
    allowed = containers._OPEN_OPTIONS["format_whitelist"].split(",")
    assert containers._OPEN_OPTIONS["protocol_whitelist"] == "file"
    following = {"concat", "hls", "dash", "sdp", "image2", "applehttp", "lavfi", "vobsub", "rtsp"}
    assert not following & set(allowed)
    assert set(allowed) <= {name for f in av.formats_available for name in f.split(",")}
    with open_container(str(write_video(tmp_path / "a.mp4"))) as container:
        assert container.format.name.startswith("mov,mp4")


def test_a_file_that_is_gone_when_it_is_opened_is_named_with_the_reason(tmp_path):
    path = str(tmp_path / "gone.mp4")
    with pytest.raises(BadVideoError) as error, open_video(path):
        pass
    assert str(error.value) == f"bad video {path}: cannot be opened: No such file or directory"


@needs_decord
@pytest.mark.parametrize("kind", ["a list of files", "VP8 in Ogg"])
def test_decord_opens_no_file_that_became_one_of_another_kind(
    kind, write_video, file_of_kind, tmp_path, monkeypatch
):
    path = write_video(tmp_path / "a.mp4", frames=60, stream_options={"g": "10"})
    _, metadata = decode_clip(str(path), only(0), 32)
    opened = []
    monkeypatch.setattr(jumps.installed_decord(), "VideoReader", lambda *a, **_: opened.append(a))
    (tmp_path / "good.mp4").write_bytes(path.read_bytes())
    if kind == "a list of files":
        path.write_text("ffconcat version 1.0\nfile good.mp4\n")
    else:
        path.write_bytes(Path(file_of_kind(kind)[0]).read_bytes())
    with pytest.raises(BadVideoError, match=r"not a video file|it has 40 frames now, and had 60"):
        decode_clip(str(path), only(55, 52), 32, metadata)
    assert opened == []


# Time


def test_reading_ends_when_the_time_is_up(write_video, tmp_path):
    path = str(write_video(tmp_path / "a.mp4"))
    _, metadata = decode_clip(path, only(0, 16), 32, seconds=60)
    for known in (None, metadata):
        with pytest.raises(BadVideoError) as error:
            decode_clip(path, only(0, 16), 32, known, seconds=0)
        assert error.value.reason == "reading it takes longer than 0 s"


def test_ffmpeg_is_interrupted_while_it_searches(write_video, tmp_path):
    path = write_video(tmp_path / "a.mpg", codec="mpeg2video")
    os.truncate(path, 1 << 30)
    # Nobody but FFmpeg looks at the time.
    with (
        pytest.raises(BadVideoError, match=r"a\.mpg: reading it takes longer than 0\.02 s"),
        open_container(str(path), Deadline(0.02)) as container,
    ):
        for _ in container.demux():
            pass


def test_the_time_is_looked_at_while_there_are_no_packets(write_video, tmp_path):
    path = str(write_video(tmp_path / "a.ts", codec="mpeg2video"))
    os.truncate(path, 1 << 30)
    deadline = Deadline(0.02)
    with (
        pytest.raises(BadVideoError, match=r"a\.ts: reading it takes longer than 0\.02 s"),
        open_video(path, deadline) as (container, stream),
    ):
        for _ in packets_of(path, container, stream, deadline):
            pass


def test_an_interrupt_of_ffmpeg_before_its_time_is_no_end_of_the_time(write_video, tmp_path):
    path = str(write_video(tmp_path / "a.mp4"))
    with pytest.raises(av.error.ExitError), open_container(path, Deadline(60)):
        raise av.error.ExitError(1, "Immediate exit requested")


# Another try


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (MemoryError(), True),
        (KeyError("stream"), False),
        (BadVideoError("a.mp4", "damaged"), False),
    ],
)
def test_what_may_go_better_another_time_is_marked_and_lost(error, transient, monkeypatch):
    def fail(*_):
        raise error

    with pytest.raises(BadVideoError) as caught, decode.one_video("a.mp4"):
        fail()
    assert caught.value.transient == transient
    monkeypatch.setattr(encode, "read_whole", fail)
    result = encode.encode_or_reason("a.mp4", Settings.of("x"))
    assert (result, isinstance(result, Lost)) == (caught.value.reason, transient)


def test_a_file_that_cannot_be_opened_and_one_that_takes_too_long_may_go_better(
    write_video, tmp_path
):
    gone, slow = str(tmp_path / "gone.mp4"), str(write_video(tmp_path / "a.mp4"))
    for path, seconds in ((gone, 60), (slow, 0)):
        with pytest.raises(BadVideoError) as error:
            decode_clip(path, only(0), 32, seconds=seconds)
        assert error.value.transient
    assert isinstance(encode.encode_or_reason(gone, Settings.of("x")), Lost)
