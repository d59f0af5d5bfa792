"""Which files FFmpeg opens, whatever they are called."""

import av
import numpy as np
import pytest

from molo_jax.data import containers
from molo_jax.data.containers import BadVideoError, check_file, open_container
from molo_jax.data.decode import read_whole
from molo_jax.data.facts import open_video

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
