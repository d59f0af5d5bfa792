import builtins
import contextlib
import os
import random
from pathlib import Path

import numpy as np
import pytest

from molo_jax.data import container_parts
from molo_jax.data.containers import BadVideoError, check_file
from molo_jax.data.decode import read_whole

FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
SHARED_FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
FORMATS = {
    "mp4 with its index at the end": ("a.mp4", {}),
    "mp4 with its index in front": ("a.mp4", {"file_options": {"movflags": "faststart"}}),
    "mp4 in fragments": ("a.mp4", {"file_options": FRAGMENTS, "stream_options": {"g": "5"}}),
    "mp4 in fragments that count from their start": (
        "a.mp4",
        {"file_options": SHARED_FRAGMENTS, "stream_options": {"g": "5"}},
    ),
    "mp4 with sound": ("a.mp4", {"sound": True}),
    "mov": ("a.mov", {}),
    "avi": ("a.avi", {"codec": "mpeg4", "tag": "XVID"}),
    "mkv": ("a.mkv", {}),
    "webm": ("a.webm", {"codec": "libvpx"}),
    "wmv": ("a.wmv", {"codec": "wmv2"}),
    "flv": ("a.flv", {}),
    "ogv": ("a.ogv", {"codec": "libvpx"}),
    "gif": ("a.gif", {"codec": "gif", "pixels": "rgb8"}),
}
# They state no length.
STREAMS = {
    "live webm": ("a.webm", {"codec": "libvpx", "file_options": {"live": "1"}}),
    "transport stream": ("a.ts", {"codec": "mpeg2video"}),
    "transport stream with time codes": ("a.m2ts", {}),
    "program stream": ("a.mpg", {"codec": "mpeg1video"}),
    "vob": ("a.vob", {"codec": "mpeg2video"}),
}
VIDEO, FRAMES = 19, 17


def make(name: str, write_video, folder: Path) -> Path:
    file_name, options = (FORMATS | STREAMS)[name]
    return write_video(folder / file_name, video=VIDEO, frames=FRAMES, **options)


def last_needed(content: bytes) -> int:
    """Where the frames and what they cannot be found without end."""
    # What follows them: the list of fragments, and places to jump to in AVI, Matroska and ASF.
    for name in (b"mfra", b"idx1", b"\x1c\x53\xbb\x6b", b"\x90\x08\x00\x33\xb1\xe5\xcf\x11"):
        if name in content:
            return content.rindex(name) - 4 * (name == b"mfra")
    if content.startswith(b"FLV"):
        return len(content) - 4  # the length of the last part, once more
    return len(content) - content.startswith(b"GIF")


def codes_of(path: Path, read_codes) -> tuple[list[int], list[int]]:
    """The numbers of all frames and of their video."""
    _, numbers, kept = read_whole(str(path), lambda length, fps: np.arange(length), lambda f: f)
    return read_codes(np.stack([kept[number] for number in numbers]))


@pytest.mark.parametrize("name", FORMATS)
def test_a_whole_file_passes_and_every_cut_before_its_last_needed_byte_is_found(
    name, write_video, read_codes, tmp_path
):
    path = make(name, write_video, tmp_path)
    content = path.read_bytes()
    needed = last_needed(content)
    for kept in (len(content), needed):
        path.write_bytes(content[:kept])
        if (name, kept) not in (("mkv", needed), ("webm", needed)):  # more is announced
            assert codes_of(path, read_codes) == (list(range(FRAMES)), [VIDEO] * FRAMES)
    for kept in (needed - 1, len(content) * 9 // 10, len(content) // 2):
        path.write_bytes(content[:kept])
        with pytest.raises(BadVideoError, match=r"truncated: .* \d+") as error:
            check_file(str(path))
        assert (error.value.path, error.value.exit_code) == (str(path), 1)


NOISE = random.Random(0).randbytes(500_000)
TAILS = {
    "1 byte": NOISE[:1],
    "8 bytes": NOISE[:8],
    "1,300 bytes": NOISE[:1300],
    "500,000 bytes": NOISE,
    "zeros": bytes(5000),
    "a cut-off free box": (90_000).to_bytes(4, "big") + b"free" + bytes(50),
    "a cut-off uuid box": (90_000).to_bytes(4, "big") + b"uuid" + NOISE[:50],
}


@pytest.mark.parametrize("name", FORMATS | STREAMS)
def test_bytes_behind_the_last_frame_change_nothing(name, write_video, read_codes, tmp_path):
    path = make(name, write_video, tmp_path)
    content = path.read_bytes()
    for tail in TAILS.values():
        path.write_bytes(content + tail)
        assert codes_of(path, read_codes) == (list(range(FRAMES)), [VIDEO] * FRAMES)


@pytest.mark.parametrize("name", ["transport stream", "transport stream with time codes", "vob"])
def test_a_recording_may_end_within_a_packet_and_within_a_picture(
    name, write_video, read_codes, tmp_path
):
    path = make(name, write_video, tmp_path)
    content = path.read_bytes()
    for lost in range(1, 400, 19):
        path.write_bytes(content[:-lost])
        frames, videos = codes_of(path, read_codes)
        assert set(videos) == {VIDEO}
        assert set(range(FRAMES - 4)) <= set(frames) <= set(range(FRAMES))
        assert frames == sorted(frames)


def test_a_page_of_ogg_that_is_lost_is_damage(write_video, tmp_path):
    path = tmp_path / "a.ogv"
    write_video(path, frames=60, codec="libvpx", stream_options={"g": "5"})
    content = bytearray(path.read_bytes())
    pages = [place for place in range(len(content)) if content[place : place + 4] == b"OggS"]
    assert len(pages) > 4
    content[pages[3]] = 0
    path.write_bytes(content)
    with pytest.raises(BadVideoError, match=rf"damaged: at byte {pages[3]} there is no page"):
        check_file(str(path))


def test_frames_that_an_index_says_to_lie_behind_the_file_are_missing(write_video, tmp_path):
    path = make("mp4 with its index in front", write_video, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(BadVideoError) as error:
        check_file(str(path))
    reach = f"its frames and sound reach to byte {len(content)}, the file has {len(content) - 1}"
    assert error.value.reason == f"truncated: {reach}"


@pytest.mark.parametrize("cut", ["stsz", "stsc", "stco", "stbl", "trun"])
def test_an_index_of_nonsense_is_read_within_its_bounds(cut, write_video, tmp_path):
    path = make("mp4 in fragments" if cut == "trun" else "mov", write_video, tmp_path)
    content = bytearray(path.read_bytes())
    place = content.index(cut.encode()) + 4
    content[place : place + 24] = b"\xff" * 24
    path.write_bytes(content)
    with contextlib.suppress(BadVideoError):  # decided in a moment
        check_file(str(path))
    with pytest.raises(
        BadVideoError, match=r"(truncated|damaged|it has no|no decoder|not a video|\d+ frames)"
    ):
        codes_of(path, None)


# Hostile files


def nested(kind: str, depth: int) -> bytes:
    """A file whose parts lie inside one another."""
    inner = b""
    for _ in range(depth):
        if kind == "avi":
            inner = chunk(b"LIST", b"rec " + inner)
        else:
            inner = element("1f43b675", inner, (len(inner) | 1 << 56).to_bytes(8, "big"))
    if kind == "avi":
        return avi(inner)
    return HEADER + element("18538067", INFO + inner)


@pytest.mark.parametrize("kind", ["avi", "mkv"])
def test_parts_inside_one_another_are_followed_to_a_bounded_depth(kind, tmp_path):
    path = tmp_path / f"a.{kind}"
    path.write_bytes(nested(kind, 2))
    check_file(str(path), walk=True)
    path.write_bytes(nested(kind, 5000))
    with pytest.raises(BadVideoError) as error:
        check_file(str(path), walk=True)
    assert error.value.reason == "damaged: its parts lie inside one another, more than 8 deep"


@pytest.mark.parametrize("kind", ["avi", "mkv"])
def test_parts_are_followed_up_to_a_bounded_number(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(container_parts, "_MOST_PARTS", 50)
    path = tmp_path / f"a.{kind}"
    clusters = element("1f43b675", BLOCKS) * 40
    path.write_bytes(
        avi(*[FRAME] * 60) if kind == "avi" else HEADER + element("18538067", clusters)
    )
    with pytest.raises(BadVideoError, match=r"damaged: it has more than \d+ parts"):
        check_file(str(path), walk=True)


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


def test_an_avi_that_lost_the_end_of_its_frames_is_truncated_and_one_that_lost_its_index_is_not(
    tmp_path,
):
    path = tmp_path / "a.avi"
    for whole in (avi(FRAME, FRAME, slack=900), avi(FRAME, FRAME)[:-1], avi(FRAME, FRAME)[:-33]):
        path.write_bytes(whole)
        check_file(str(path), walk=True)
    path.write_bytes(avi(FRAME, FRAME)[:-41])
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
    path.write_bytes(avi(FRAME) + more[:-70])
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
