"""Jumps to single frames, with decord and without it: the same frames, errors and files."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from video_kinds import KINDS, RIGHT, needs_decord

from molo_jax.data.video import decode, jumps
from molo_jax.data.video.containers import UNLIMITED, BadVideoError, Deadline
from molo_jax.data.video.decode import decode_clip, decode_in_order, read_whole

PROVEN_KINDS = [name for name, kind in KINDS.items() if kind.decord == RIGHT]


def choose(*frames: int):
    return lambda length, fps: np.array(frames)


def frame_sets(length):
    """Single frames, clips, and both ends."""
    rng = np.random.default_rng(length)
    yield from ([0], [length - 1], [0, length - 1], [length // 2, length // 2 + 1])
    for _ in range(12):
        yield np.sort(rng.choice(length, min(8, length), replace=False)).tolist()


@pytest.fixture
def without_decord(monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    jumps.installed_decord.cache_clear()
    assert jumps.installed_decord() is None
    yield
    jumps.installed_decord.cache_clear()


@pytest.fixture
def long_video(write_video, tmp_path):
    """A keyframe every 10 of 200 frames, and what its first decoding tells."""
    options = {"g": "10", "sc_threshold": "0"}
    path = str(write_video(tmp_path / "a.mp4", frames=200, stream_options=options))
    return path, decode_clip(path, choose(0), 32)[1]


@pytest.mark.parametrize("name", PROVEN_KINDS)
def test_pyav_jumps_to_the_pixels_that_it_reads_in_order(name, file_of_kind, without_decord):
    path, codes = file_of_kind(name)
    metadata, _, frames = read_whole(path, lambda n, _: np.arange(n), lambda frame: frame)
    assert len(metadata.keyframe_times) == len(metadata.keyframes) >= 2
    for numbers in frame_sets(len(codes)):
        found = jumps.jump(path, metadata, numbers, UNLIMITED)
        assert len(found) == len(numbers)
        for number, frame in zip(numbers, found, strict=True):
            np.testing.assert_array_equal(frame, frames[number])


@pytest.mark.parametrize("codec", ["mpeg4", "mjpeg"])
def test_the_first_reading_and_the_later_ones_give_the_same_pixels(codec, tmp_path):
    """Of MPEG-4, decord's decoder gives other pixels than PyAV's, in a few of these frames."""
    path, numbers = str(tmp_path / "a.avi"), np.array([8, 60, 100, 170, 200, 263, 280, 285])
    random = np.random.default_rng(3)
    base = random.integers(0, 255, (120, 160, 3), dtype=np.uint8)
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.gop_size = 160, 120, 12
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(300):
            frame = np.roll(base, number * 3, 1)
            frame[:20, :20] = number % 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    first, metadata = decode_clip(path, lambda *_: numbers, 120)
    assert metadata.jumps_are_right
    assert not metadata.is_exact
    later, _ = decode_clip(path, lambda *_: numbers, 120, metadata)
    np.testing.assert_array_equal(first, later)


def test_a_jump_decodes_from_the_keyframe_on_only(long_video, without_decord, monkeypatch):
    path, metadata = long_video
    decoded = []
    whole_frames = jumps.whole_frames

    def counted(*arguments):
        for frame in whole_frames(*arguments):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(jumps, "whole_frames", counted)
    jumps.jump(path, metadata, [152, 155, 163, 199], UNLIMITED)
    step = metadata.keyframe_times[1] // 10
    numbers = [pts // step for pts in decoded]
    # To each of them from its keyframe on, or from where the last one was.
    assert numbers == [*range(150, 156), *range(160, 164), *range(190, 200)]


def test_an_earlier_keyframe_leads_there_too(file_of_kind, without_decord, read_codes):
    path, codes = file_of_kind("H.264 in MP4")
    _, metadata = decode_clip(path, choose(0), 32)
    # As if the time of a keyframe led FFmpeg to the one before it.
    times = list(metadata.keyframe_times)
    before = dataclasses.replace(metadata, keyframe_times=(*times[:-1], times[-1] - 1))
    found = jumps.jump(path, before, [metadata.keyframes[-1]], UNLIMITED)
    assert read_codes(np.stack(found))[0] == [codes[metadata.keyframes[-1]]]


def test_where_a_jump_ends_elsewhere_the_file_is_read_in_order(
    long_video, without_decord, read_codes, monkeypatch
):
    path, metadata = long_video
    elsewhere = dataclasses.replace(
        metadata, keyframe_times=tuple(time + 7 for time in metadata.keyframe_times)
    )
    read = []
    in_order = decode.decode_in_order
    monkeypatch.setattr(decode, "decode_in_order", lambda *a: read.append(a[2]) or in_order(*a))
    clip, _ = decode_clip(path, choose(150, 195), 32, elsewhere)
    assert read_codes(clip)[0] == [150, 195]
    assert read == [[150, 195]]
    decode_clip(path, choose(150, 195), 32, metadata)
    assert len(read) == 1


def test_a_jump_ends_when_the_time_is_up(long_video, without_decord):
    path, metadata = long_video
    with pytest.raises(BadVideoError, match="reading it takes longer than 0 s") as error:
        jumps.jump(path, metadata, [150], Deadline(0))
    assert error.value.transient


@pytest.mark.parametrize("error", [ImportError("no"), OSError("no library"), RuntimeError("no")])
def test_a_decord_that_cannot_be_loaded_is_as_none(error, monkeypatch, long_video, read_codes):
    class Broken:
        def find_spec(self, name, *_):
            if name == "decord":
                raise error

    monkeypatch.delitem(sys.modules, "decord", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    jumps.installed_decord.cache_clear()
    try:
        path, metadata = long_video
        clip, _ = decode_clip(path, choose(150, 195), 32, metadata)
        assert jumps.installed_decord() is None
    finally:
        jumps.installed_decord.cache_clear()
    assert read_codes(clip)[0] == [150, 195]


# The whole, in processes in which decord is there or is not.

PROGRAM = """
import hashlib, json, sys
from pathlib import Path
import numpy as np
from molo_jax.data.store.preparation import Plan, find_videos, prepare
from molo_jax.data.store.records import Settings
from molo_jax.data.store.report import Need
from molo_jax.data.lists.splits import read_split
from molo_jax.data.video import decode, jumps, metadata
from molo_jax.errors import MoloError

def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()

def main(root, out):
    said = {"decord at the start": "decord" in sys.modules}
    # Jump whenever that is allowed, whether it pays or not.
    decode.reading_plan = lambda m, _: "jump" if m.jumps_are_right else "in_order"
    for path in sorted((root / "videos").iterdir()):
        known, results = None, []
        for numbers in ([0], [3, 11, 16], [16], [1, 2, 30], [5, 15, 25, 35]):
            def choose(length, fps, numbers=numbers):
                return np.minimum(numbers, length - 1)
            try:
                clip, known = decode.decode_clip(str(path), choose, 40, known)
                results.append([digest(clip), known.length, str(known.rate)])
            except MoloError as error:
                results.append([str(error), type(error).__name__])
        said[path.name] = results
    lists = {"train": read_split(root / "splits/train_few_shot.txt", "train")}
    plan = Plan(Settings.of("folder", resize=40, num_frames=4), find_videos(lists, root / "videos"),
                {"train": Need(1, 1, 1)}, 4, 1, 60)
    prepare(plan, out)
    said["files"] = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*")) if "array_record" in path.name
    }
    said["decord"] = jumps.installed_decord() is not None
    print(json.dumps(said))

if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def some_of_everything(tmp_path_factory, file_of_kind):
    """A video of every kind that decord jumps in, turned ones, others, and damaged ones."""
    root = tmp_path_factory.mktemp("everything")
    (root / "videos").mkdir()
    others = [
        "H.264 turned by 90 degrees",
        "H.264 turned by 180 degrees",
        "H.264 in open groups",
        "XviD in AVI with B-frames",
        "VP8 with hidden frames",
        "AV1 in MP4",
        "GIF",
    ]
    names = []
    for place, kind in enumerate([*PROVEN_KINDS, *others]):
        content = Path(file_of_kind(kind)[0]).read_bytes()
        damaged = {"": content}
        if kind in ("H.264 in MP4", "VP9 in WebM", "Motion JPEG in AVI"):
            hole = slice(len(content) // 2, len(content) // 2 + 200)
            damaged["_cut"] = content[: len(content) * 2 // 3]
            damaged["_hole"] = content[: hole.start] + bytes(200) + content[hole.stop :]
            damaged["_text"] = b"an essay\n" * 30
        for label, data in damaged.items():
            name = f"{place:02d}{label}{Path(file_of_kind(kind)[0]).suffix}"
            (root / "videos" / name).write_bytes(data)
            names.append(name)
    (root / "splits").mkdir()
    lines = (f"train{number % 2}/{name}\n" for number, name in enumerate(names))
    (root / "splits/train_few_shot.txt").write_text("".join(lines))
    return root


@needs_decord
def test_frames_errors_and_prepared_files_are_the_same_without_decord(some_of_everything, tmp_path):
    program, hiding = tmp_path / "program.py", tmp_path / "hiding"
    program.write_text(PROGRAM)
    hiding.mkdir()
    # Also in the processes that the preparation starts.
    (hiding / "decord.py").write_text("raise ImportError('hidden')\n")
    root = str(Path(__file__).parents[3])
    said = []
    for number, path in enumerate([root, f"{hiding}{os.pathsep}{root}"]):
        result = subprocess.run(
            [sys.executable, program, some_of_everything, tmp_path / f"out{number}"],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        said.append(json.loads(result.stdout.splitlines()[-1]))
    present, hidden = said
    assert (present.pop("decord"), hidden.pop("decord")) == (True, False)
    assert present.pop("decord at the start") is hidden.pop("decord at the start") is False
    assert len(present["files"]) >= 2
    assert present == hidden
    # Both saw frames and errors.
    results = list(itertools.chain(*(v for k, v in present.items() if k != "files")))
    errors = {result[0] for result in results if result[-1] == "BadVideoError"}
    assert len({result[0] for result in results} - errors) >= 90
    for reason in ("truncated", "not a video file", "damaged"):
        assert any(reason in error for error in errors), reason


def test_a_set_that_is_read_in_order_is_the_same_as_by_jumps(long_video, without_decord):
    path, metadata = long_video
    numbers = [7, 41, 42, 150, 199]
    in_order = dict(decode_in_order(path, metadata, numbers))
    for number, frame in zip(numbers, jumps.jump(path, metadata, numbers, UNLIMITED), strict=True):
        np.testing.assert_array_equal(frame, in_order[number])
