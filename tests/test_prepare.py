"""The command: what it says, what it writes, and its exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

from molo_jax.data.store.prepared import PreparedDataset
from molo_jax.data.store.records import prepared_folder

GOOD = 3


def run(*arguments: object, code: int = 0) -> tuple[str, str]:
    command = [sys.executable, "-m", "molo_jax.prepare", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout, result.stderr


def error_of(*arguments: object, code: int) -> str:
    """The one line that a failing command prints on stderr, apart from its log."""
    lines = run(*arguments, code=code)[1].splitlines()
    (line,) = [line for line in lines if line.startswith("error: ")]
    return line


@pytest.fixture
def faults(tmp_path, write_motion) -> Path:
    """Videos with every fault there is, and their three lists."""
    videos, lists = tmp_path / "videos", tmp_path / "lists"
    lists.mkdir()
    for split in ("train", "val", "test"):
        lines = []
        for class_id in (0, 1):
            for number in range(GOOD):
                name = f"{split}{class_id}{number}"
                write_motion(videos / split / f"{name}.mp4", class_id, number, frames=11)
                lines.append(f"{split}{class_id}/{name}")
        (lists / f"{split}_few_shot.txt").write_text("\n".join(lines) + "\n")
    good = (videos / "train/train00.mp4").read_bytes()
    odd = "odd % näme's #1"
    write_motion(videos / "deep/er" / f"{odd}.MP4", 0, 0)
    (videos / "empty.webm").touch()
    (videos / "cut.mp4").write_bytes(good[: len(good) // 2])
    (videos / "text.mp4").write_text("an essay\n" * 30)
    write_motion(videos / "single.mp4", 0, 0, frames=1)
    (videos / "folder.mp4").mkdir()
    (videos / "link.mp4").symlink_to("nowhere")
    (videos / "twice.mp4").write_bytes(good)
    (videos / "twice.mkv").write_bytes(good)
    os.mkfifo(videos / "pipe.avi")
    write_audio(videos / "audio.mp4")
    names = (odd, "empty", "cut", "text", "single", "folder", "link", "twice", "pipe", "audio")
    with (lists / "train_few_shot.txt").open("a") as file:
        file.writelines(f"train1/{name}\n" for name in (*names, "gone"))
    return tmp_path


def write_audio(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        sound.rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())


REASONS = {
    "empty": "the file is empty (0 bytes)",
    "cut": "truncated",
    "text": "not a video file",
    "folder": "a directory of that name",
    "link": "a link to nothing",
    "pipe": "not a regular file",
    "audio": "it has no video stream",
    "gone": "missing",
}
EPISODE = ("--n_way=2", "--n_shot=1", "--n_query=1", "--train_n_query=1", "--num_frames=4")


@pytest.mark.parametrize("check", [False, True])
def test_every_fault_is_reported_with_its_reason_and_the_rest_is_prepared(faults, check):
    report = faults / "report.json"
    arguments = (
        *("--dataset=folder", f"--videos={faults}/videos", f"--splits_dir={faults}/lists"),
        *(f"--out={faults}/out", f"--report={report}", "--resize=32", "--workers=1"),
        *EPISODE,
    )
    printed, _ = run(*arguments, *(["--check"] if check else []))
    content = json.loads(report.read_text())
    problems = {problem["video"]: problem for problem in content["problems"]}
    assert problems.keys() == REASONS.keys()
    for video, reason in REASONS.items():
        assert problems[video]["reason"].startswith(reason)
        assert (problems[video]["split"], problems[video]["class"]) == ("train", 1)
        assert reason in printed
    assert problems["cut"]["file"] == f"{faults}/videos/cut.mp4"
    train = content["splits"]["train"]
    numbers = [train[k] for k in ("listed", "found", "missing", "unreadable", "short", "usable")]
    assert sum(numbers[1:3]) == numbers[0] == 17
    assert numbers[3:] == [numbers[1] - 9, 1, 9]
    assert train["classes"]["1"]["usable"] == 6
    notes = {note["video"]: note["note"] for note in content["notes"]}
    assert notes.keys() == {"twice", "single"}
    assert notes["twice"] == f"further files, not used: {faults}/videos/twice.mkv"
    assert notes["single"].startswith("1 frame, fewer than the 4 of a clip")
    assert content["splits"]["test"]["usable"] == content["splits"]["test"]["listed"] == 6
    if check:
        assert not (faults / "out").exists()
        return
    dataset = PreparedDataset.open(
        f"{faults}/out", "folder", "train", on_bad_video="skip", how_to_get=""
    )
    assert dataset.bad_count == len(REASONS)
    assert f"--config.data.prepared={faults}/out" in printed
    names = {path.name for path in prepared_folder(faults / "out", "folder").iterdir()}
    assert {"dataset_info.json", "features.json", "preparation.json"} < names
    assert not [path for path in (faults / "out").rglob("*") if path.name.endswith(".part")]


def test_too_few_videos_for_the_episodes_are_said_before_the_first_frame_is_decoded(faults):
    arguments = (
        *("--dataset=folder", f"--videos={faults}/videos", f"--splits_dir={faults}/lists"),
        *(f"--out={faults}/out", "--resize=32", "--workers=1"),
    )
    line = error_of(*arguments, "--n_way=3", code=1)
    assert line == (
        "error: 3-way episodes need 3 classes in every split: train 2, val 2 and test 2; add"
        " classes to train, val and test, or use --n_way=2"
    )
    line = error_of(*arguments, "--n_way=2", "--n_shot=2", code=1)
    assert line == (
        "error: train episodes (1-shot with 6 queries) need 7 videos of a class: class 0 has 3;"
        " add videos, take these classes out or use --train_n_query=2"
    )
    assert not (faults / "out").exists()


def test_damage_that_leaves_too_few_videos_ends_with_an_error_after_the_work(faults):
    (faults / "videos/train/train02.mp4").write_text("an essay\n" * 30)
    arguments = (
        *("--dataset=folder", f"--videos={faults}/videos", f"--splits_dir={faults}/lists"),
        *(f"--out={faults}/out", "--resize=32", "--workers=1", "--n_way=2", "--n_shot=2"),
    )
    printed, errors = run(*arguments, "--train_n_query=2", code=1)
    assert errors.splitlines()[-1] == (
        "error: not enough for the episodes asked: one thing is lacking, see the list above"
    )
    assert (
        " has 2 usable videos of 3 listed; 1-shot with 2 queries needs 3\n  what to do: replace the"
        " unreadable videos, take these classes out or use --train_n_query=1"
    ) in printed
    assert prepared_folder(faults / "out", "folder").exists()
    assert json.loads((faults / "out/report_folder.json").read_text())["dataset"] == "folder"


@pytest.fixture
def eighteen(tmp_path, write_motion) -> Path:
    """A folder of 18 classes of two videos, and two files that are none."""
    root = tmp_path / "mine"
    write_motion(root / "class 00/0.mp4", 0, 0)
    for class_id in range(18):
        (root / f"class {class_id:02}").mkdir(exist_ok=True)
        for number in range(2):
            path = root / f"class {class_id:02}" / f"{number}.mp4"
            if not path.exists():
                os.link(root / "class 00/0.mp4", path)
    (root / "class 03/notes.txt").touch()
    (root / ".DS_Store").touch()
    return root


SMALL = ("--train_n_query=1", "--n_shot=1", "--resize=32", "--workers=1")


def test_eighteen_classes_are_divided_so_that_the_episodes_can_be_made(eighteen, tmp_path):
    out = tmp_path / "out"
    printed, _ = run("--dataset=folder", f"--videos={eighteen}", f"--out={out}", *SMALL)
    lines = printed.splitlines()
    assert lines[0] == (
        "classes of the splits, by --ratio=8,5,5 and --seed=0 (64,12,24 would give 12,2,4 classes,"
        " too few for an episode):"
    )
    report = json.loads((out / "report_folder.json").read_text())
    division = report["division"]
    assert (division["by"], division["ratio"], division["seed"]) == ("ratio", [8, 5, 5], 0)
    for line, (split, size) in zip(
        lines[1:], (("train", 8), ("val", 5), ("test", 5)), strict=False
    ):
        names = division["classes"][split]
        assert line == f"  {split} ({size}): {', '.join(names)}"
        dataset = PreparedDataset.open(out, "folder", split, on_bad_video="fail", how_to_get="")
        assert list(dataset.split.class_names) == names
    assert {left["file"]: left["reason"] for left in report["left_out"]} == {
        ".DS_Store": "its name begins with a dot",
        "class 03/notes.txt": ".txt is no extension of a video",
    }
    assert "  1 × .txt is no extension of a video: class 03/notes.txt\n" in printed
    assert "\nevery class has enough videos for the episodes asked\n" in printed


def test_a_ratio_that_does_not_do_is_answered_with_one_that_does(eighteen, tmp_path):
    arguments = ("--dataset=folder", f"--videos={eighteen}", f"--out={tmp_path}/out", *SMALL)
    line = error_of(*arguments, "--ratio=64,12,24", code=1)
    assert line == (
        "error: 18 classes, divided into train 12, val 2 and test 4; 5-way episodes need 5 in each:"
        " use --ratio=8,5,5"
    )
    line = error_of(*arguments, "--ratio=100,0,0", code=2)
    assert line == (
        "error: --n_shot=1 asks for test episodes, but no class is in the test split; give --ratio"
        " a third share, or leave --n_shot out"
    )
    assert not (tmp_path / "out").exists()


def test_a_ratio_beside_another_division_is_refused(faults):
    lists = ("--dataset=folder", f"--videos={faults}/videos", f"--splits_dir={faults}/lists")
    line = error_of(*lists, "--check", "--ratio=1,1,1", code=2)
    assert line == (
        "error: --ratio=1,1,1 is not used, because the lists divide the classes; leave --ratio out"
    )


def test_a_check_says_once_what_is_lacking_and_what_it_cannot_find(eighteen):
    printed, errors = run("--dataset=folder", f"--videos={eighteen}", "--check", code=1)
    assert "losses" not in printed
    assert printed.endswith(
        "  … and 3 more, see --report=FILE\n"
        "  what to do: add videos, take these classes out or use --train_n_query=1 --n_shot=1\n"
        "\n"
        "checked   the headers only: damage inside a file is found when it is decoded\n"
    )
    assert errors == (
        "error: not enough for the episodes asked: 13 things are lacking, see the list above\n"
    )


def test_the_generated_videos_are_prepared_too(tmp_path):
    counts = [f"--{split}_videos=1" for split in ("train", "val", "test")]
    episode = ("--n_shot=1", "--n_query=1", "--train_n_query=1")
    printed, errors = run(
        *("--dataset=synthetic", f"--out={tmp_path}", "--seed=3", *counts, *episode), code=1
    )
    assert "of split train has 1 usable video; 1-shot with 1 query needs 2" in printed
    assert errors.splitlines()[-1] == (
        "error: not enough for the episodes asked: 100 things are lacking, see the list above"
    )
    for split, classes in (("train", 64), ("val", 12), ("test", 24)):
        lines = (tmp_path / "splits" / f"{split}_few_shot.txt").read_text().splitlines()
        assert len(lines) == classes
        for line in lines:
            assert (tmp_path / "videos" / line.partition("//")[2]).stat().st_size > 500
        dataset = PreparedDataset.open(
            tmp_path, "synthetic", split, on_bad_video="fail", how_to_get=""
        )
        assert dataset.class_sizes == (1,) * classes
        assert dataset.settings.resize == 32
        folders = {line.partition("//")[2].split("/")[0] for line in lines}
        assert folders <= set(dataset.split.class_names) | {""}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--dataset and --videos and --out must be given"),
        (["--dataset=ssv2", "--out=x"], "--videos must be given"),
        (["--dataset=ssv2", "--videos=x"], "--out must be given"),
        (["--dataset=ssv3", "--videos=x", "--out=y"], "--dataset=ssv3 is not known; choose one"),
        (["--dataset=synthetic", "--out=y", "--check"], "it takes no --check"),
        (["--dataset=ssv2", "--videos=x", "--out=y", "--split_file=z"], "--split_file is for "),
        (["--dataset=ssv2", "--videos=x", "--out=y", "--quality=0"], "quality"),
        (["--dataset=folder", "--videos=x", "--out=y", f"--seed={2**32}"], "--seed=4294967296"),
        (["--dataset=folder", "--videos=x", "--out=y", "--ratio=1,2"], "must be three whole numb"),
        (["--dataset=ssv2", "--videos=x", "--out=y", "--vidoes=z"], "did you mean --videos?"),
        (
            ["--dataset=ssv2", "--videos=x", "--out=y", "--beam_pipeline_options=a=b"],
            "--beam_pipeline_options needs --beam_runner",
        ),
        (
            ["--dataset=ssv2", "--videos=x", "--check", "--beam_runner=DaskRunner"],
            "--check works on this machine; it takes no --beam_runner",
        ),
        (
            ["--dataset=ssv2", "--videos=x", "--out=gs://bucket/y"],
            "--out=gs://bucket/y is no folder; mount the storage as a file system",
        ),
        (
            ["--dataset=ssv2", "--videos=/nowhere", "--out=y", "--beam_runner=DaskRunner"],
            "DaskRunner needs the address of a Dask scheduler: --beam_pipeline_options=dask_client",
        ),
    ],
)
def test_wrong_flags_are_one_line_and_exit_code_2(arguments, message):
    assert message in error_of(*arguments, code=2)


def test_a_stopped_check_says_that_it_keeps_nothing(write_motion, tmp_path):
    write_motion(tmp_path / "videos/a/0.mp4", 0, 0)
    for number in range(1, 3000):
        os.link(tmp_path / "videos/a/0.mp4", tmp_path / f"videos/a/{number}.mp4")
    (tmp_path / "lists").mkdir()
    lines = "".join(f"train0//a/{number}.mp4\n" for number in range(3000))
    (tmp_path / "lists/train_few_shot.txt").write_text(lines)
    arguments = [
        *(sys.executable, "-m", "molo_jax.prepare", "--dataset=folder", "--check", "--workers=1"),
        *(f"--videos={tmp_path}/videos", f"--splits_dir={tmp_path}/lists"),
    ]
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    # It says how the classes are divided just before it begins.
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "error: stopped by SIGINT; a check keeps nothing"
    assert "Traceback" not in errors


def test_a_missing_folder_is_one_line_and_exit_code_1(faults):
    lists = f"--splits_dir={faults}/lists"
    line = error_of("--dataset=folder", "--videos=/nowhere", lists, f"--out={faults}/o", code=1)
    assert "cannot list the video folder /nowhere: No such file or directory" in line
    line = error_of(
        *("--dataset=ssv2", f"--videos={faults}/videos", "--splits_dir=/nowhere"),
        *(f"--out={faults}/o",),
        code=1,
    )
    assert "cannot read the split list /nowhere/train_few_shot.txt" in line
    assert not (faults / "o").exists()


def living(group: int) -> list[str]:
    """The processes of a group that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has ended meanwhile
            continue
        if int(its_group) == group and state != "Z":
            found.append(path.parent.name)
    return found


def all_end(group: int) -> bool:
    """Whether the processes of a group end within some seconds."""
    deadline = time.monotonic() + 10
    while living(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not living(group)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_preparation_ends_its_processes_and_goes_on_later(write_motion, tmp_path, number):
    for class_name in ("a", "b"):
        for video in range(150):
            path = tmp_path / f"videos/{class_name}/{video}.mp4"
            if video == 0:
                write_motion(path, 0, 0, frames=200)
                first = path
            else:
                os.link(first, path)
    (tmp_path / "lists").mkdir()
    lines = [f"train{c}//{n}/{v}.mp4\n" for c, n in enumerate("ab") for v in range(150)]
    (tmp_path / "lists/train_few_shot.txt").write_text("".join(lines))
    arguments = [
        *(sys.executable, "-m", "molo_jax.prepare", "--dataset=folder", f"--out={tmp_path}/out"),
        *(f"--videos={tmp_path}/videos", f"--splits_dir={tmp_path}/lists"),
        *("--workers=1", "--resize=64", "--n_way=2"),
    ]
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not list(tmp_path.glob("out/**/.*.part")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    said = f"stopped by {signal.Signals(number).name}; record files that are whole are kept"
    assert f"error: {said}" in errors
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("out/**/*.part"))
    assert all_end(process.pid)
    assert subprocess.run(arguments, capture_output=True, check=False).returncode == 0
    dataset = PreparedDataset.open(
        tmp_path / "out", "folder", "train", on_bad_video="fail", how_to_get=""
    )
    assert dataset.class_sizes == (150, 150)
