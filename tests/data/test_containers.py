import builtins
import os

import pytest

from molo_jax.data.containers import BadVideoError, check_file

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
    for kept in (len(content) - 1, len(content) * 3 // 5, len(content) // 3):
        path.write_bytes(content[:kept])
        with pytest.raises(BadVideoError, match="truncated") as error:
            check_file(str(path))
        assert (error.value.path, error.value.exit_code) == (str(path), 1)


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
