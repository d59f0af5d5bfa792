"""The benchmark of the data: its numbers fit together, and its files are what they should be."""

import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

from molo_jax.data.clips.episodes import ClipRequest
from molo_jax.errors import MoloError

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
SIZES = {"way": 2, "shot": 1, "query": 1, "classes": 2, "videos_per_class": 2, "workers": 2}
KINDS = ["ssv2", "kinetics", "ucf101"]
# All kinds, as by default.
TINY = [f"--{name}={value}" for name, value in SIZES.items()] + [
    "--seconds_scale=0.1",
    "--episodes=2",
    "--rounds=2",
]


def run(*command):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, env=environment
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What the benchmark prints and writes."""
    folder = tmp_path_factory.mktemp("data_benchmark")
    path = folder / "numbers.json"
    result = run(FOLDER / "data.py", *TINY, f"--clips={folder / 'clips'}", f"--json={path}")
    assert result.returncode == 0, result.stderr
    return result.stdout, json.loads(path.read_text()), folder / "clips"


@pytest.fixture
def clips(monkeypatch):
    """The generator of the files."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import _clips

    return _clips


def printed_rates(printed):
    """Clips/s, episodes/s and ratio of each line of the table, by its letter."""
    rows = re.findall(r"^\((\w)\) .{22} +(\S+) +(\S+) +(\S+) \((\S+) to (\S+)\)", printed, re.M)
    return {letter: list(map(float, numbers)) for letter, *numbers in rows}


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_follows_from_the_recorded_rounds(measured, kind):
    printed, numbers, _ = measured
    assert list(numbers["kinds"]) == KINDS
    rates = numbers["kinds"][kind]["clips_per_second"]
    official = rates["official"]
    # One table for each kind, and the summary behind the last one.
    table = printed_rates(printed.split("gray levels: (b)")[1 + KINDS.index(kind)])
    assert list(table) == ["a", "b", "c", "d", "e"]
    for (clips, episodes, ratio, low, high), name in zip(table.values(), rates, strict=True):
        assert len(rates[name]) == 2
        assert clips == pytest.approx(statistics.median(rates[name]), abs=0.06)
        assert episodes == pytest.approx(clips / 4, abs=0.02)
        assert ratio == pytest.approx(
            statistics.median(rates[name]) / statistics.median(official), abs=0.006
        )
        pairs = [a / b for a, b in zip(rates[name], official, strict=True)]
        assert (low, high) == pytest.approx((min(pairs), max(pairs)), abs=0.006)


@pytest.mark.parametrize("kind", KINDS)
def test_the_summary_holds_the_ratios_of_the_medians(measured, kind):
    printed, numbers, _ = measured
    medians = {
        name: statistics.median(rates)
        for name, rates in numbers["kinds"][kind]["clips_per_second"].items()
    }
    expected = [
        medians["direct"] / medians["official"],
        medians["prepared"] / medians["official"],
        medians["raw"] / medians["prepared"],
        medians["prepared"] / medians["jpeg"],
    ]
    row = re.search(rf"^{kind} +(\S+) +(\S+) +(\S+) +(\S+)$", printed, re.M)
    assert list(map(float, row.groups())) == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize("kind", KINDS)
def test_all_paths_deliver_the_same_frames_before_they_are_timed(measured, kind):
    _, numbers, _ = measured
    difference = numbers["kinds"][kind]["difference"]
    # Rounding to whole gray levels alone, and JPEG.
    assert 0.2 < difference["direct"] < 0.3
    assert difference["direct"] < difference["prepared"] < 3


# Frames as JPEG: all of them, or of 30 those that a window of a whole tenth of a video can show.
@pytest.mark.parametrize(
    ("name", "extension", "frames"),
    [("ssv2", "webm", 8), ("kinetics", "mp4", 8), ("ucf101", "avi", 18)],
)
def test_memory_and_disk_are_those_of_each_path(measured, name, extension, frames):
    _, numbers, folder = measured
    kind = numbers["kinds"][name]
    # More than an interpreter with its libraries.
    assert set(kind["peak_memory"]) == {"official", "direct", "prepared"}
    assert all(memory > 100 * 2**20 for memory in kind["peak_memory"].values())
    assert kind["raw_bytes"] == frames * 256 * 256 * 3
    assert 5_000 < kind["jpeg_bytes"] / frames < 60_000
    files = list((folder / name / "videos").rglob(f"*.{extension}"))
    assert len(files) == kind["videos"] == 4
    assert kind["file_bytes"] == sum(file.stat().st_size for file in files) / 4
    assert not list(folder.rglob(".raw*"))


@pytest.mark.parametrize(
    ("kind", "codec", "tag", "size", "rate", "line"),
    [
        ("ssv2", "vp9", None, (240, 427), 12, "train3/3002"),
        (
            "kinetics",
            "h264",
            "avc1",
            (256, 340),
            30,
            "train3//train_256/class_3/v0000003002_000012_000022.mp4",
        ),
        ("ucf101", "mpeg4", "XVID", (240, 320), 25, "train3//videos/Class3/v_Class3_g02_c01.avi"),
    ],
)
def test_a_generated_file_is_like_those_of_the_benchmark(
    clips, tmp_path, kind, codec, tag, size, rate, line
):
    clips._write_video(tmp_path, kind, 0.1, 0, (3, 2))
    assert clips.KINDS[kind].list_line(3, 2) == line
    (path,) = (p for p in tmp_path.rglob("*") if p.is_file())
    assert path.relative_to(tmp_path / "videos").with_suffix("") == Path(
        line.partition("/")[2].lstrip("/")
    ).with_suffix("")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.codec.canonical_name == codec
        assert tag is None or stream.codec_context.codec_tag == tag
        assert stream.average_rate == rate
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == max(8, round(0.1 * rate * clips.KINDS[kind].seconds))
    assert frames[0].shape == (*size, 3)
    # Something moves in every frame.
    moves = [np.abs(a.astype(int) - b).mean() for a, b in itertools.pairwise(frames)]
    assert min(moves) > 1


def test_generated_files_depend_on_their_place_and_the_seed_alone(clips, tmp_path):
    written = {}
    for number, (seed, place) in enumerate([(0, (0, 0)), (0, (0, 0)), (1, (0, 0)), (0, (0, 1))]):
        folder = tmp_path / str(number)
        clips._write_video(folder, "ucf101", 0.05, seed, place)
        (path,) = folder.rglob("*.avi")
        written[number] = path.read_bytes()
    assert written[0] == written[1]
    assert len(set(written.values())) == 3


def test_files_are_kept_and_those_of_other_settings_refused(clips, tmp_path):
    settings = {"classes": 1, "videos_per_class": 2, "seconds_scale": 0.05, "seed": 0}
    clips.make_clips(tmp_path, "ucf101", **settings)
    files = sorted((tmp_path / "videos").rglob("*.avi"))
    files[0].write_bytes(b"kept")
    files[1].unlink()
    clips.make_clips(tmp_path, "ucf101", **settings)
    assert files[0].read_bytes() == b"kept"
    assert files[1].stat().st_size > 1000
    assert len(list((tmp_path / "videos/videos/Class0").iterdir())) == 2
    lines = (tmp_path / "splits/train_few_shot.txt").read_text().splitlines()
    assert lines == [f"train0//videos/Class0/v_Class0_g0{n}_c01.avi" for n in range(2)]
    with pytest.raises(MoloError, match=r"holds videos made with .* remove the folder"):
        clips.make_clips(tmp_path, "ucf101", **settings | {"seed": 1})


def test_a_file_that_fails_with_decords_default_threads_is_read_with_one(
    clips, monkeypatch, tmp_path
):
    import _official_way as official

    clips._write_video(tmp_path, "ssv2", 0.2, 0, (0, 0))
    file = str(tmp_path / "videos/0.webm")
    options = {"sampler": None, "sampling": "segments", "files": [[file]]}
    episodes = official._Episodes(options)
    request = ClipRequest(0, 0, np.full(8, 0.5))
    expected, failures = episodes.views((request,), lambda: 3)
    assert failures == 0
    assert expected.shape == (1, 8, 3, 224, 224)
    whole = official.decord.VideoReader

    def reader(path, num_threads=0):
        if num_threads != 1:
            raise official.decord.DECORDError("Error sending packet.")
        return whole(path, num_threads=num_threads)

    monkeypatch.setattr(official.decord, "VideoReader", reader)
    views, failures = episodes.views((request, request), lambda: 3)
    assert failures == 2
    assert all(np.array_equal(view, expected[0]) for view in views)


def test_clips_of_other_frames_are_refused():
    program = f"""
import sys; sys.path.insert(0, {str(FOLDER)!r})
import numpy as np
import data
from molo_jax.errors import MoloError
class Fake:
    def __init__(self, last):
        self.clips = np.full((1, 3, 2, 2, 3), 50.0)
        self.clips[:, -1] += last
    def call(self, method, index):
        return self.clips
def differences(direct, prepared):
    workers = {{"official": Fake(0), "direct": Fake(direct), "prepared": Fake(prepared)}}
    return {{n: round(d, 6) for n, d in data._check_same_clips(workers).items()}}
print(differences(0.3, 3))
for wrong in (0.9, 3), (0.3, 6), (float("nan"), 3):
    try:
        differences(*wrong)
    except MoloError as error:
        print(error)
print("tensorflow" in sys.modules, "torch" in sys.modules)
"""
    result = run("-c", program)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "{'direct': 0.1, 'prepared': 1.0}"
    assert ["do not deliver the same frames" in line for line in lines[1:4]] == [True] * 3
    # What each process imports anew is to be little: it counts as its memory.
    assert lines[4] == "False False"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--kinds=ssv2,hmdb51", "--kinds is ssv2,hmdb51; expected some of ssv2,kinetics,ucf101"),
        ("--way=7", "--classes is 6; such episodes need at least 7"),
        ("--query=7", "--videos_per_class is 7; such episodes need at least 8"),
        ("--json=/no/such/folder/x", "--json is /no/such/folder/x; expected a file in a folder"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(option, message):
    result = run(FOLDER / "data.py", option)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1


def test_the_load_of_other_programs_is_told_from_ones_own(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import _memory

    # Seconds on the clock, of all programs, and of this one.
    moments = iter([(10.0, 50.0, 7.0), (12.0, 56.0, 11.0), (13.0, 57.0, 13.0)])
    monkeypatch.setattr(_memory.OtherLoad, "_now", lambda self: next(moments))
    load = _memory.OtherLoad()
    assert load.cores() == 1.0
    assert load.cores() == pytest.approx(1 / 3)
    monkeypatch.undo()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    times = os.times()
    spent = _memory._ticks(os.getpid()) / os.sysconf("SC_CLK_TCK")
    assert spent == pytest.approx(times.user + times.system, abs=0.1)
    _, busy, own = load._now()
    assert spent <= own <= busy


def test_peak_memory_counts_the_processes_that_a_process_starts(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    from _memory import PeakMemory

    child = "import time; held = bytearray(90 * 2**20); print(flush=True); time.sleep(60)"
    parent = (
        "import subprocess, sys;"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}]);"
        "sys.stdin.read(); child.kill()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        process.stdout.readline()
        memory = PeakMemory(process.pid)
        with memory.watching():
            time.sleep(0.6)
    finally:
        process.communicate()
    assert 90 * 2**20 < memory.bytes < 200 * 2**20
