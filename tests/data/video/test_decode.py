import os
from pathlib import Path

import av
import numpy as np
import pytest
from video_kinds import FRAMES, KINDS, RIGHT, VIDEO, needs_decord
from videos import read_packets, write_packets

from molo_jax.data.store.preparation import probe_or_reason
from molo_jax.data.store.records import Settings
from molo_jax.data.video import decode, jumps
from molo_jax.data.video.containers import UNLIMITED
from molo_jax.data.video.decode import (
    BadVideoError,
    decode_clip,
    decode_in_order,
    probe,
    read_whole,
    scan,
)
from molo_jax.data.video.encode import encode_or_reason
from molo_jax.data.video.frames import FrameRateError, frame_chooser


def choose(*frames: int):
    return lambda length, fps: np.array(frames)


def choices(length: int):
    """Frame numbers as a rule might choose them, and in any order with repetitions."""
    rng = np.random.default_rng(length)
    yield np.arange(length)
    for _ in range(4):
        yield np.sort(rng.choice(length, 8, replace=False))
        yield rng.choice(length, 5)


def choose_all(length: int, fps: float) -> np.ndarray:
    return np.arange(length)


def all_frames(path: str) -> list[np.ndarray]:
    return list(read_whole(path, choose_all, lambda frame: frame)[2].values())


# The right frames


@pytest.mark.parametrize("name", KINDS)
def test_the_frames_asked_for_are_the_frames_delivered_first_and_later(
    name, file_of_kind, read_codes, monkeypatch
):
    path, codes = file_of_kind(name)
    jumps_made = []
    jump = decode.jump
    monkeypatch.setattr(decode, "jump", lambda *a: jumps_made.append(a[0]) or jump(*a))
    # Jump whenever that is allowed, whether it pays or not.
    plan = {True: "jump", False: "in_order"}
    monkeypatch.setattr(decode, "reading_plan", lambda metadata, _: plan[metadata.jumps_are_right])
    for numbers in choices(len(codes)):
        first, metadata = decode_clip(path, choose(*numbers), 48)
        assert (first.shape, first.dtype) == ((len(numbers), 48, 48, 3), np.uint8)
        expected = [codes[number] for number in numbers]
        assert read_codes(first) == (expected, [VIDEO] * len(numbers))
        later, same_metadata = decode_clip(path, choose(*numbers), 48, metadata)
        np.testing.assert_array_equal(later, first)
        assert same_metadata == metadata
        assert metadata.length == len(codes)
    assert bool(jumps_made) == (KINDS[name].decord == RIGHT)


@pytest.mark.parametrize("name", KINDS)
def test_reading_in_order_gives_the_pixels_of_the_first_decoding(name, file_of_kind):
    path, codes = file_of_kind(name)
    metadata, _, first = read_whole(path, choose_all, lambda frame: frame)
    frames = dict(decode_in_order(path, metadata, range(len(codes))))
    assert list(frames) == list(range(len(codes)))
    assert all(np.array_equal(frames[number], first[number]) for number in frames)
    some = dict(decode_in_order(path, metadata, {17, 3, 9}))
    assert list(some) == [3, 9, 17]
    assert all(np.array_equal(some[number], first[number]) for number in some)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_videos_come_upright(degrees, file_of_kind, read_codes):
    path, codes = file_of_kind(f"H.264 turned by {degrees} degrees")
    frames = all_frames(path)
    assert read_codes(np.stack(frames)) == (codes, [VIDEO] * FRAMES)
    assert frames[0].shape == ((48, 64, 3) if degrees == 180 else (64, 48, 3))


def test_frames_of_changing_size_are_given_as_they_are(file_of_kind):
    path, _ = file_of_kind("VP8 of a size that changes")
    frames = all_frames(path)
    assert {frame.shape for frame in frames[:20]} == {(48, 64, 3)}
    assert {frame.shape for frame in frames[20:]} == {(96, 128, 3)}


@pytest.mark.parametrize(
    ("name", "announced"),
    [
        ("VP8 with hidden frames", 40),
        ("XviD in AVI with frames not coded", 40),
        ("H.264 that begins within an open group", None),
    ],
)
def test_the_choice_is_made_anew_where_fewer_frames_are_shown_than_packets_are_there(
    name, announced, file_of_kind
):
    path, codes = file_of_kind(name)
    seen = []

    def choose_last(length, fps):
        seen.append(length)
        return np.array([length - 1])

    expected = scan(path)
    assert expected.length > len(codes)
    assert expected.length == announced or announced is None
    metadata, numbers, _ = read_whole(path, choose_last, lambda frame: None)
    assert seen == [expected.length, len(codes)]
    assert numbers.tolist() == [len(codes) - 1]
    assert (metadata.length, metadata.jumps_are_right) == (len(codes), False)


def test_a_file_that_has_another_number_of_frames_each_time_is_bad(file_of_kind, monkeypatch):
    path, codes = file_of_kind("VP8 with hidden frames")
    frames = decode._Reading.frames

    def one_fewer_each_time(self, wanted, last=None):
        yield from frames(self, wanted, last)
        self.count -= len(counts)
        counts.append(self.count)

    counts = []
    monkeypatch.setattr(decode._Reading, "frames", one_fewer_each_time)
    with pytest.raises(BadVideoError) as error:
        read_whole(path, choose_all, lambda frame: frame)
    text = f"{len(codes) - 1} frames could be decoded, {len(codes)} were expected"
    assert error.value.reason == text


def test_the_choice_gets_length_and_frame_rate(write_video, tmp_path):
    path = str(write_video(tmp_path / "a.mp4", frames=23, fps=12))
    seen = []

    def note(length, fps):
        seen.append((length, fps))
        return np.array([0])

    _, metadata = decode_clip(path, note, 32)
    decode_clip(path, note, 32, metadata)
    assert seen == [(23, 12.0)] * 2


def test_a_video_of_one_frame_fills_the_clip(write_video, read_codes, tmp_path):
    path = str(write_video(tmp_path / "a.mp4", video=7, frames=1))
    clip, metadata = decode_clip(path, frame_chooser("segments", np.full(5, 0.7)), 32)
    assert read_codes(clip) == ([0] * 5, [7] * 5)
    assert metadata.length == 1


def test_jumps_are_made_where_the_plan_says_so_and_only_there(
    write_video, read_codes, tmp_path, monkeypatch
):
    path = str(write_video(tmp_path / "a.mp4", frames=200, stream_options={"g": "10"}))
    jumped = []
    jump = decode.jump
    monkeypatch.setattr(decode, "jump", lambda *a: jumped.append(a[2]) or jump(*a))
    _, metadata = decode_clip(path, choose(199), 32)
    for numbers in ([150, 195], [3, 1], list(range(0, 200, 9))):
        clip, _ = decode_clip(path, choose(*numbers), 32, metadata)
        assert read_codes(clip)[0] == numbers
    assert jumped == [[150, 195]]


@needs_decord
@pytest.mark.parametrize("trouble", ["an error", "another length"])
def test_a_jump_that_fails_is_made_up_for_by_reading_in_order(
    trouble, write_video, read_codes, tmp_path, monkeypatch
):
    path = str(write_video(tmp_path / "a.mp4", frames=60, stream_options={"g": "10"}))
    _, metadata = decode_clip(path, choose(0), 32)
    opened = []

    class Reader:
        def __init__(self, *_, **__):
            opened.append(trouble)
            if trouble == "an error":
                raise RuntimeError("no")

        def __len__(self):
            return 61

    monkeypatch.setattr(jumps.installed_decord(), "VideoReader", Reader)
    clip, _ = decode_clip(path, choose(55, 52), 32, metadata)
    assert read_codes(clip)[0] == [55, 52]
    assert opened == [trouble]


# Names and titles


@pytest.mark.parametrize(
    "name",
    ["a:b.mp4", "ünï ☃ 'q' %03d.mp4", "-\n.mp4", b"\xff.mp4"],
    ids=["colon", "signs", "newline", "not UTF-8"],
)
def test_names_may_hold_any_characters(name, write_video, read_codes, tmp_path, monkeypatch):
    name = os.fsdecode(name)
    made = write_video(tmp_path / "made.mp4", frames=60, stream_options={"g": "10"})
    made.rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert probe(name).length == 60
    _, metadata = decode_clip(name, choose(0), 32)
    clip, _ = decode_clip(name, choose(59, 41), 32, metadata)
    assert read_codes(clip)[0] == [59, 41]
    # decord wants UTF-8; what it cannot open is read in order.
    unknown_to_decord = jumps.installed_decord() is not None and name == "\udcff.mp4"
    assert (jumps.jump(name, metadata, [41], UNLIMITED) is None) == unknown_to_decord


def test_titles_in_another_encoding_do_no_harm(write_video, tmp_path):
    path = write_video(tmp_path / "a.avi", codec="mpeg4", file_options={"fflags": "-bitexact"})
    content = path.read_bytes()
    software = content.index(b"Lavf", content.index(b"ISFT"))
    path.write_bytes(content[:software] + "Größe".encode("latin-1")[:4] + content[software + 4 :])
    assert scan(str(path)).length == probe(str(path)).length == 17


# The quick look


@pytest.mark.parametrize("name", KINDS)
def test_a_quick_look_finds_about_the_number_of_frames(name, file_of_kind):
    path, codes = file_of_kind(name)
    probed = probe(path)
    # From the duration, where the container does not count its frames.
    assert 0.8 * len(codes) <= probed.length <= 1.3 * len(codes)
    assert probed.rate == scan(path).rate or "without a frame rate" in name


def test_a_quick_look_reads_the_beginning_only(write_video, tmp_path):
    path = write_video(tmp_path / "a.avi", codec="mpeg4", frames=60)
    spoil(path, 0.4, 0.5)
    assert probe(str(path)).length == 60
    with pytest.raises(BadVideoError, match="damaged"):
        scan(str(path))


# Bad files


def spoil(path: Path, first: float, last: float = 1.0) -> None:
    """Overwrites what is between two fractions of the part of a file that holds frames."""
    content = bytearray(path.read_bytes())
    begin = max(
        content.find(name) for name in (b"mdat", b"movi", b"\x1f\x43\xb6\x75", b"\0\0\1\xba")
    )
    start, stop = (begin + int((len(content) - begin) * part) for part in (first, last))
    content[start:stop] = bytes(stop - start)
    path.write_bytes(content)


FASTSTART = {"file_options": {"movflags": "faststart"}}
DAMAGED = {
    "h264": ("a.mp4", FASTSTART),
    "h264 in mkv": ("a.mkv", {}),
    "h264 in avi": ("a.avi", {}),
    "hevc": ("a.mp4", FASTSTART | {"codec": "libx265"}),
    "mpeg4": ("a.mp4", FASTSTART | {"codec": "mpeg4"}),
    "xvid": ("a.avi", {"codec": "mpeg4", "tag": "XVID"}),
    "vp8": ("a.webm", {"codec": "libvpx"}),
    "vp9": ("a.webm", {"codec": "libvpx-vp9"}),
    "av1": ("a.mp4", FASTSTART | {"codec": "libsvtav1"}),
    "mjpeg": ("a.avi", {"codec": "mjpeg"}),
    "mpeg2": ("a.mpg", {"codec": "mpeg2video"}),
}


HOLE, END = (0.35, 0.4), (0.4, 1.0)
# A program stream has no length, and may end anywhere.
DAMAGES = [
    (name, part) for name in DAMAGED for part in (HOLE, END) if (name, part) != ("mpeg2", END)
]


@pytest.mark.parametrize(("name", "part"), DAMAGES)
def test_damage_is_found_whatever_frames_are_chosen(name, part, write_video, tmp_path):
    file_name, options = DAMAGED[name]
    path = tmp_path / file_name
    if name == "hevc":
        options = options | {"stream_options": {"x265-params": "log-level=none"}}
    write_video(path, frames=60, colored=True, **options)
    decode_clip(str(path), choose(0), 32)
    spoil(path, *part)
    for frames in ([0, 0], [0, 1], [58, 59]):
        with pytest.raises(BadVideoError, match=rf"{file_name}: damaged: ") as error:
            decode_clip(str(path), choose(*frames), 32)
        assert error.value.path == str(path)


def test_damage_that_its_decoder_passes_over_is_found_in_av1(file_of_kind, tmp_path):
    whole, path = Path(file_of_kind("AV1 in MP4")[0]), tmp_path / "a.mp4"
    content = whole.read_bytes()
    packets = [packet.data for packet in read_packets(whole)]
    large = [packet for packet in packets if len(packet) > 20 and content.count(packet) == 1]
    for packet in (large[2], large[-1]):
        path.write_bytes(content.replace(packet, bytes(len(packet))))
        with pytest.raises(BadVideoError, match="damaged: its frames cannot be decoded to the end"):
            decode_clip(str(path), choose(0), 32)


@pytest.mark.parametrize("name", [name for name, part in DAMAGES if part == END])
def test_a_cut_file_is_called_truncated(name, write_video, tmp_path):
    file_name, options = DAMAGED[name]
    path = tmp_path / file_name
    write_video(path, frames=60, **options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    for read in (scan, probe, lambda path: decode_clip(path, choose(0), 32)):
        with pytest.raises(BadVideoError, match="truncated"):
            read(str(path))


def test_unusable_videos_are_named_and_nothing_is_printed(
    write_video, write_audio, tmp_path, capfd
):
    write_audio(tmp_path / "audio.mp4")
    write_video(tmp_path / "no_frames.mp4", frames=0)
    write_video(tmp_path / "cut.mp4").write_bytes((tmp_path / "no_frames.mp4").read_bytes()[:-9])
    write_video(tmp_path / "damaged.mp4", frames=120, **FASTSTART)
    spoil(tmp_path / "damaged.mp4", 0.9)
    (tmp_path / "text.mp4").write_text("an essay\n" * 30)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    reasons = {
        "audio": "it has no video stream (audio only?)",
        "no_frames": "it has no video stream (audio only?)",
        "cut": "truncated: ",
        "damaged": "damaged: its frames cannot be decoded to the end",
        "text": "not a video file (it begins with b'an essay",
        "empty": "the file is empty (0 bytes)",
        "folder": "cannot be opened: Is a directory",
        "pipe": "not a regular file",
        "gone": "cannot be opened: No such file or directory",
    }
    good = str(write_video(tmp_path / "good.mp4"))
    _, metadata = decode_clip(good, choose(0), 32)
    for name, reason in reasons.items():
        path = str(tmp_path / f"{name}.mp4")
        reads = {
            "probe": probe,
            "first": lambda path: decode_clip(path, choose(0), 32),
            "later": lambda path: decode_clip(path, choose(16), 32, metadata),
        }
        if name == "damaged":  # its first frames are whole
            assert reads.pop("probe")(path).length == 120
            reads.pop("later")(path)
        for read in reads.values():
            with pytest.raises(BadVideoError) as error:
                read(path)
            assert error.value.path == path
            assert error.value.reason.startswith(reason)
            assert str(error.value) == f"bad video {path}: {error.value.reason}"
    assert capfd.readouterr() == ("", "")


def test_a_picture_for_a_sound_is_no_video(write_audio, tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mjpeg", rate=25)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        image = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")
        container.mux(picture.encode(image))
        container.mux(picture.encode())
    with pytest.raises(BadVideoError, match="no video stream"):
        scan(str(path))


def test_a_codec_without_a_decoder_is_named(write_video, tmp_path):
    path = write_video(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"none"))
    with pytest.raises(BadVideoError, match="there is no decoder for its video stream"):
        scan(str(path))


def test_a_video_that_never_shows_a_frame_is_bad(file_of_kind, tmp_path):
    whole, path = Path(file_of_kind("VP8 in WebM")[0]), tmp_path / "a.webm"
    packets = read_packets(whole)
    for packet in packets:
        packet.data = bytes([packet.data[0] & ~0x10]) + packet.data[1:]
    write_packets(path, whole, packets)
    for read in (probe, lambda path: decode_clip(path, choose(0), 32)):
        with pytest.raises(BadVideoError, match="none of its frames can be decoded"):
            read(str(path))


def test_colors_that_cannot_be_converted_are_named(write_video, tmp_path):
    path = write_video(tmp_path / "a.mp4", colors={"colorspace": 8})  # YCgCo
    with pytest.raises(BadVideoError, match=r"its colors cannot be converted to RGB \("):
        decode_clip(str(path), choose(0), 32)


def test_a_file_that_got_shorter_since_its_first_use_is_named(write_video, tmp_path):
    path = write_video(tmp_path / "a.webm", codec="libvpx", frames=40)
    _, metadata = decode_clip(str(path), choose(0), 32)
    write_video(path, codec="libvpx", frames=30)
    with pytest.raises(BadVideoError, match="it has 30 frames now, and had 40"):
        decode_clip(str(path), choose(2, 35), 32, metadata)


def test_a_refused_choice_makes_the_video_bad(write_video, tmp_path):
    path = write_video(tmp_path / "a.mp4")

    def refuse(length, fps):
        raise FrameRateError("the frame rate is nan")

    with pytest.raises(BadVideoError, match=r"a\.mp4: the frame rate is nan"):
        decode_clip(str(path), refuse, 32)


def test_a_mistake_of_the_program_in_the_choice_is_no_fault_of_the_video(write_video, tmp_path):
    path = write_video(tmp_path / "a.mp4")

    def mistake(length, fps):
        return np.concatenate([])

    for metadata in (None, scan(str(path))):
        with pytest.raises(ValueError, match="need at least one array") as raised:
            decode_clip(str(path), mistake, 32, metadata)
        assert not isinstance(raised.value, BadVideoError)


# Resources


def test_frames_are_held_one_at_a_time(write_video, tmp_path):
    path = str(write_video(tmp_path / "a.mp4", frames=30))
    frames = decode_in_order(path, scan(path), range(30))
    files = len(os.listdir("/proc/self/fd"))
    numbers = [next(frames)[0] for _ in range(5)]
    assert numbers == [0, 1, 2, 3, 4]
    assert len(os.listdir("/proc/self/fd")) == files + 1
    frames.close()
    assert len(os.listdir("/proc/self/fd")) == files


def test_many_videos_leave_neither_memory_nor_open_files_behind(write_video, tmp_path):
    good = str(write_video(tmp_path / "a.mp4", frames=60, stream_options={"g": "10"}))
    bad = write_video(tmp_path / "b.mp4", frames=40, **FASTSTART)
    spoil(bad, 0.6)
    choice = frame_chooser("segments", np.full(8, 0.5))

    def decode_many(count):
        for number in range(count):
            if number % 10 == 0:
                with pytest.raises(BadVideoError):
                    decode_clip(str(bad), choice, 64)
            _, metadata = decode_clip(good, choice, 64)
            decode_clip(good, choice, 64, metadata)
            decode_clip(good, choose(57), 64, metadata)  # jumps

    decode_many(60)
    memory, files = resident_megabytes(), len(os.listdir("/proc/self/fd"))
    decode_many(240)
    assert resident_megabytes() - memory < 10
    assert len(os.listdir("/proc/self/fd")) == files


def resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


# Whatever goes wrong is that video's


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RecursionError("maximum depth"), "reading it failed (RecursionError: maximum depth)"),
        (KeyError("stream"), "reading it failed (KeyError: 'stream')"),
        (MemoryError(), "there was not enough memory for its frames"),
    ],
)
def test_any_error_while_a_video_is_read_is_one_of_that_video(
    error, reason, write_video, tmp_path, monkeypatch
):
    path = str(write_video(tmp_path / "a.mp4"))

    def fail(*_):
        raise error

    monkeypatch.setattr(decode, "_Reading", fail)
    with pytest.raises(BadVideoError) as found:
        decode_clip(path, choose(0), 32)
    assert (found.value.path, found.value.reason) == (path, reason)
    monkeypatch.setattr(decode, "check_file", fail)
    assert probe_or_reason(path) == reason
    assert encode_or_reason(path, Settings.of("x")) == reason
