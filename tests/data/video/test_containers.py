import builtins
import os

import pytest

from molo_jax.data.video.containers import BadVideoError, check_file
from molo_jax.data.video.decode import probe, scan

FORMATS = {
    "mp4 with its index at the end": ("a.mp4", {}),
    "mp4 with its index in front": ("a.mp4", {"file_options": {"movflags": "faststart"}}),
    "mp4 in fragments": ("a.mp4", {"file_options": {"movflags": "frag_keyframe+empty_moov"}}),
    "mov": ("a.mov", {}),
    "avi": ("a.avi", {"codec": "mpeg4", "tag": "XVID"}),
    "mkv": ("a.mkv", {}),
    "webm": ("a.webm", {"codec": "libvpx"}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_whole_file_passes_and_any_cut_is_found(name, write_video, tmp_path):
    file_name, options = FORMATS[name]
    path = write_video(tmp_path / file_name, **options)
    content = path.read_bytes()
    check_file(str(path))
    for kept in (len(content) * 9 // 10, len(content) * 3 // 5, len(content) // 3):
        path.write_bytes(content[:kept])
        with pytest.raises(BadVideoError, match="truncated") as error:
            check_file(str(path))
        assert (error.value.path, error.value.exit_code) == (str(path), 1)


@pytest.mark.parametrize("name", ["avi", "mkv", "webm"])
def test_a_walk_finds_a_hole_that_the_header_does_not_show(name, write_video, tmp_path):
    file_name, options = FORMATS[name]
    path = write_video(tmp_path / file_name, frames=60, **options)
    check_file(str(path), walk=True)
    content = path.read_bytes()
    start = max(content.find(part) for part in (b"movi", b"\x1f\x43\xb6\x75"))
    for share in (0.4, 0.5):
        begin = start + int((len(content) - start) * share)
        for hole in (bytes(60), b"\xff" * 60):
            path.write_bytes(content[:begin] + hole + content[begin + 60 :])
            check_file(str(path))
            with pytest.raises(BadVideoError, match=r"damaged: at byte \d+ there is no") as error:
                check_file(str(path), walk=True)
            place = int(error.value.reason.split()[3])
            # It is noticed at the next part, which is where the one with the hole should end.
            assert begin - 60 <= place <= begin + 200


def chunk(name: bytes, content: bytes, length: int | None = None) -> bytes:
    """A chunk of an AVI with its padding."""
    length = len(content) if length is None else length
    return name + length.to_bytes(4, "little") + content + bytes(len(content) % 2)


def avi(*frames: bytes, kind: bytes = b"AVI ", slack: int = 0, lists: int | None = None) -> bytes:
    movi = b"movi" + b"".join(frames)
    index = chunk(b"idx1", bytes(16 * len(frames)))
    body = kind + chunk(b"LIST", b"hdrl") + chunk(b"LIST", movi, lists) + index
    return chunk(b"RIFF", body, len(body) + slack)


FRAME = chunk(b"00dc", b"pictures")


@pytest.mark.parametrize("slack", [0, 1, 8])
def test_an_avi_may_announce_a_few_bytes_too_many(slack, tmp_path):
    path = tmp_path / "a.avi"
    path.write_bytes(avi(FRAME, FRAME, slack=slack))
    check_file(str(path), walk=True)


def test_an_avi_that_lost_the_end_of_its_frames_is_truncated_and_of_its_index_is_not(tmp_path):
    path = tmp_path / "a.avi"
    whole, index = avi(FRAME, FRAME), 8 + 2 * 16
    for content in (avi(FRAME, FRAME, slack=9), whole[:-1], whole[:-index]):
        path.write_bytes(content)
        check_file(str(path), walk=True)
    path.write_bytes(whole[: -index - 1])
    with pytest.raises(BadVideoError, match="truncated"):
        check_file(str(path))


def test_an_avi_in_several_parts_is_followed_through_all_of_them(tmp_path):
    path = tmp_path / "a.avi"
    groups = chunk(b"LIST", b"rec " + FRAME + FRAME)
    more = avi(groups, chunk(b"JUNK", bytes(5)), FRAME, kind=b"AVIX")
    path.write_bytes(avi(FRAME) + more)
    check_file(str(path), walk=True)
    path.write_bytes(avi(FRAME) + more.replace(groups, groups[:12] + bytes(8) + groups[20:]))
    check_file(str(path))
    with pytest.raises(BadVideoError, match="damaged"):
        check_file(str(path), walk=True)
    path.write_bytes(avi(FRAME) + more[:-80])
    with pytest.raises(BadVideoError, match="truncated"):
        check_file(str(path))


def test_an_avi_may_leave_out_the_padding_and_lengths_that_were_never_filled_in(tmp_path):
    path = tmp_path / "a.avi"
    odd = chunk(b"00dc", b"picture")
    path.write_bytes(avi(odd, FRAME, odd[:-1], FRAME, chunk(b"00dc", b""), FRAME))
    check_file(str(path), walk=True)
    path.write_bytes(avi(FRAME, FRAME, lists=0))
    check_file(str(path), walk=True)


def element(name: str, content: bytes, length: bytes | None = None) -> bytes:
    """An element of Matroska, its name in hexadecimal digits."""
    if length is None:
        length = (len(content) | 1 << 28).to_bytes(4, "big")
    return bytes.fromhex(name) + length + content


HEADER, UNKNOWN = element("1a45dfa3", b"webm"), b"\x01" + b"\xff" * 7
BLOCKS = element("e7", b"\0") + element("a3", b"picture") + element("a0", b"another picture")
INFO, CUES, FILLER = element("1549a966", b""), element("1c53bb6b", b"??"), element("ec", bytes(99))


@pytest.mark.parametrize("length", [None, UNKNOWN], ids=["known", "unknown"])
def test_clusters_with_and_without_length_are_followed(length, tmp_path):
    path = tmp_path / "a.webm"
    cluster = element("1f43b675", BLOCKS, length)
    path.write_bytes(HEADER + element("18538067", INFO + cluster + FILLER + cluster + CUES))
    check_file(str(path), walk=True)
    broken = element("1f43b675", BLOCKS + bytes(9) + BLOCKS, length)
    path.write_bytes(HEADER + element("18538067", INFO + cluster + broken + CUES))
    check_file(str(path))
    with pytest.raises(BadVideoError, match="damaged"):
        check_file(str(path), walk=True)


def test_a_block_that_reaches_beyond_its_cluster_is_damage(tmp_path):
    path = tmp_path / "a.webm"
    clusters = element("1f43b675", BLOCKS[:-3]) + element("1f43b675", BLOCKS)
    path.write_bytes(HEADER + element("18538067", INFO + clusters))
    with pytest.raises(BadVideoError, match="damaged"):
        check_file(str(path), walk=True)


def test_a_live_stream_may_end_within_a_frame(tmp_path):
    path = tmp_path / "a.webm"
    cluster = element("1f43b675", BLOCKS, UNKNOWN)
    path.write_bytes(HEADER + element("18538067", INFO + cluster[:-4], UNKNOWN))
    check_file(str(path), walk=True)


def test_the_message_of_a_cut_file_gives_both_lengths(tmp_path):
    path = tmp_path / "a.avi"
    path.write_bytes(b"RIFF" + (92).to_bytes(4, "little") + b"AVI " + bytes(38))
    with pytest.raises(BadVideoError) as error:
        check_file(str(path))
    reason = "truncated: the header announces 100 bytes, the file has 50"
    assert str(error.value) == f"bad video {path}: {reason}"
    assert error.value.reason == reason


def test_lengths_beyond_four_gigabytes_are_read(tmp_path):
    path = tmp_path / "a.mp4"
    box = (1).to_bytes(4, "big") + b"mdat" + (5 * 10**9).to_bytes(8, "big") + bytes(10)
    path.write_bytes(box)
    with pytest.raises(BadVideoError, match="announces 5000000000 bytes, the file has 26"):
        check_file(str(path))


def test_an_mp4_without_index_is_found_even_if_no_length_is_wrong(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(
        (12).to_bytes(4, "big") + b"ftypisom" + (0).to_bytes(4, "big") + b"mdat" + bytes(9)
    )
    with pytest.raises(BadVideoError, match="no index"):
        check_file(str(path))


@pytest.mark.parametrize("tail", [bytes(5), bytes(64), b"\0\0\0\x03trailing"])
def test_bytes_behind_the_last_box_do_no_harm(tail, write_video, tmp_path):
    path = write_video(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes() + tail)
    check_file(str(path))


def test_unknown_lengths_as_live_streams_have_them_pass(tmp_path):
    avi, webm = tmp_path / "a.avi", tmp_path / "a.webm"
    avi.write_bytes(b"RIFF" + bytes(4) + b"AVI " + bytes(50))
    webm.write_bytes(b"\x1a\x45\xdf\xa3\x82\0\0\x18\x53\x80\x67\x01" + b"\xff" * 7 + bytes(20))
    check_file(str(avi))
    check_file(str(webm))


def test_a_container_of_another_kind_is_left_to_the_decoder(write_video, tmp_path):
    check_file(str(write_video(tmp_path / "a.mpg", codec="mpeg2video")))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty (0 bytes)"),
        (b"an essay, not a film\n" * 9, "not a video file (it begins with b'an essay, not a ')"),
        (b"\x1a\x45\xdf", "not a video file (it begins with b'\\x1aE\\xdf')"),
    ],
)
def test_a_file_that_is_no_video_is_named_with_its_beginning(content, reason, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(BadVideoError) as error:
        check_file(str(path))
    assert error.value.reason == reason


def test_what_cannot_be_opened_is_named_with_the_reason(tmp_path):
    folder, loop = tmp_path / "folder.mp4", tmp_path / "loop.mp4"
    folder.mkdir()
    loop.symlink_to(loop)
    for path, reason in (
        (folder, "Is a directory"),
        (loop, "Too many levels of symbolic links"),
        (tmp_path / "gone.mp4", "No such file or directory"),
    ):
        with pytest.raises(BadVideoError, match=f"{path}: cannot be opened: {reason}"):
            check_file(str(path))


def test_a_file_without_read_permission_is_named(tmp_path, monkeypatch):
    def refuse(path, mode):
        raise PermissionError(13, "Permission denied", path)

    (tmp_path / "a.mp4").touch()
    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(BadVideoError, match=r"a\.mp4: cannot be opened: Permission denied"):
        check_file(str(tmp_path / "a.mp4"))


def test_a_device_is_no_video():
    with pytest.raises(BadVideoError, match="not a regular file"):
        check_file(os.devnull)


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(BadVideoError, match="not a regular file"):
        check_file(str(tmp_path / "pipe.mp4"))


@pytest.mark.parametrize("name", ["mp4 with its index in front", "mov", "mp4 in fragments"])
def test_an_mp4_that_lacks_the_last_byte_of_its_last_sample_is_truncated(
    name, write_video, tmp_path
):
    file_name, options = FORMATS[name]
    options = options if name != "mov" else {"file_options": {"movflags": "faststart"}}
    path = write_video(tmp_path / file_name, **options)
    content = path.read_bytes()
    place = content.rfind(b"mdat")
    end = place - 4 + int.from_bytes(content[place - 4 : place], "big")
    path.write_bytes(content[: end - 1])
    with pytest.raises(BadVideoError, match=f"reach to byte {end}, the file has {end - 1}"):
        check_file(str(path))


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile other.mp4\n",
        "#EXTM3U\n#EXTINF:1,\nother.mp4\n",
        '<?xml version="1.0"?><MPD><Period/></MPD>',
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    ],
)
def test_a_text_that_names_other_files_is_no_video(text, write_video, tmp_path):
    write_video(tmp_path / "other.mp4")
    path = tmp_path / "a.mp4"
    path.write_text(text)
    for read in (check_file, scan, probe):
        with pytest.raises(BadVideoError, match="not a video file"):
            read(str(path))


@pytest.mark.parametrize("depth", [20, 5000])
def test_parts_that_lie_deeply_inside_one_another_are_damage(depth, tmp_path):
    path = tmp_path / "a.mkv"
    clusters = b""
    for _ in range(depth):
        clusters = element("1f43b675", clusters + BLOCKS)
    path.write_bytes(HEADER + element("18538067", clusters))
    with pytest.raises(BadVideoError, match="inside one another"):
        check_file(str(path), walk=True)
    lists = b""
    for _ in range(depth):
        lists = chunk(b"LIST", b"rec " + lists)
    path.write_bytes(avi(chunk(b"LIST", b"movi" + lists)))
    with pytest.raises(BadVideoError, match="inside one another"):
        check_file(str(path), walk=True)
