"""Bytes behind the frames of a video, and bytes of its frames that are missing."""

import contextlib
import random
from pathlib import Path

import numpy as np
import pytest

from molo_jax.data.video.containers import BadVideoError, check_file
from molo_jax.data.video.decode import read_whole

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
    "many zeros": bytes(200_000),
    "a cut-off free box": (90_000).to_bytes(4, "big") + b"free" + bytes(50),
    "a cut-off uuid box": (90_000).to_bytes(4, "big") + b"uuid" + NOISE[:50],
}


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("name", FORMATS | STREAMS)
def test_bytes_behind_the_last_frame_change_nothing(name, tail, write_video, read_codes, tmp_path):
    path = make(name, write_video, tmp_path)
    path.write_bytes(path.read_bytes() + TAILS[tail])
    assert codes_of(path, read_codes) == (list(range(FRAMES)), [VIDEO] * FRAMES)


RECORDINGS = {
    "transport stream": STREAMS["transport stream"],
    "transport stream with time codes": STREAMS["transport stream with time codes"],
    "vob": STREAMS["vob"],
    "colors": ("a.ts", {"codec": "mpeg2video", "colored": True}),
    "B-frames": ("a.vob", {"codec": "mpeg2video", "colored": True, "stream_options": {"bf": "2"}}),
    "MPEG-4": ("a.ts", {"codec": "mpeg4", "colored": True}),
}


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recording_may_end_within_a_packet_and_within_a_picture(
    name, write_video, read_codes, tmp_path
):
    file_name, options = RECORDINGS[name]
    path = write_video(tmp_path / file_name, video=VIDEO, frames=FRAMES, **options)
    content = path.read_bytes()
    for lost in range(1, 1800, 19):
        path.write_bytes(content[:-lost])
        frames, videos = codes_of(path, read_codes)
        assert set(videos) == {VIDEO}
        # The last picture in the order of decoding may be the last but one that is shown.
        assert frames[:-1] == list(range(len(frames) - 1))
        assert len(frames) - 1 <= frames[-1] <= len(frames)


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


@pytest.mark.parametrize("length", [2**56 - 2, 2**48, 100])
def test_an_element_that_is_larger_than_the_file_is_cut_off(length, write_video, tmp_path):
    path = make("mkv", write_video, tmp_path)
    content = path.read_bytes()
    large = (length | 1 << 56).to_bytes(8, "big")
    for start in (content[:4], content[: content.index(b"\x18\x53\x80\x67") + 4]):
        path.write_bytes(start + large + bytes(40))
        size, end = len(start) + 48, len(start) + 8 + length
        with pytest.raises(BadVideoError) as error:
            check_file(str(path))
        reason = f"truncated: the header announces {end} bytes, the file has {size}"
        assert (error.value.reason, error.value.transient) == (reason, False)


def test_an_avi_that_is_announced_to_be_larger_is_read_to_the_end_of_its_frames(
    write_video, read_codes, tmp_path
):
    path = make("avi", write_video, tmp_path)
    content = bytearray(path.read_bytes())
    for announced in (len(content), len(content) + 5000, 2**31, 2**32 - 1):
        content[4:8] = announced.to_bytes(4, "little")
        path.write_bytes(content)
        assert codes_of(path, read_codes) == (list(range(FRAMES)), [VIDEO] * FRAMES)
