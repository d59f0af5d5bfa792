"""What a preparation finds, refuses and reports."""

import dataclasses
import errno
import fcntl
import os
import shutil

import pytest
from preparing import make_plan, open_prepared, prepare_tree

from molo_jax.data.lists.splits import read_split
from molo_jax.data.store import preparation, tfds_builder
from molo_jax.data.store.preparation import check, find_videos, prepare
from molo_jax.data.store.records import prepared_folder
from molo_jax.errors import MoloError


def numbers(report, split="train"):
    found = report.to_json()["splits"][split]
    return [found[key] for key in ("listed", "found", "missing", "unreadable", "short", "usable")]


def test_the_check_reports_what_the_preparation_would(video_tree, spoiled_videos, tmp_path):
    checked = check(make_plan(video_tree, spoiled_videos))
    assert numbers(checked) == [25, 24, 1, 3, 0, 21]
    prepared = prepare(make_plan(video_tree, spoiled_videos), tmp_path / "out")
    assert numbers(prepared) == numbers(checked)
    problems = [
        {problem["video"]: problem["reason"] for problem in report.to_json()["problems"]}
        for report in (checked, prepared)
    ]
    assert set(problems[0]) == set(problems[1]) == {"2_1", "2_4", "11_0", "40_3"}
    assert problems[0]["40_3"] == problems[1]["40_3"] == "the file is empty (0 bytes)"
    assert problems[1]["2_1"].startswith("not a video file")


def test_the_check_decodes_no_video_to_its_end(video_tree, write_video, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("decoded")

    monkeypatch.setattr(preparation, "encode_or_reason", refuse)
    assert preparation.probe_or_reason(str(video_tree / "videos/2_0.mp4")) == 17


def test_videos_shorter_than_a_clip_are_counted(video_tree):
    plan = make_plan(video_tree, num_frames=18)
    assert numbers(check(plan)) == [25, 25, 0, 0, 25, 25]
    assert numbers(check(make_plan(video_tree, num_frames=17))) == [25, 25, 0, 0, 0, 25]


def test_a_class_without_enough_videos_is_named(video_tree, spoiled_videos):
    plan = make_plan(video_tree, spoiled_videos)
    need = dataclasses.replace(plan.needs["train"], n_shot=4)
    (sentence,) = check(dataclasses.replace(plan, needs={"train": need})).too_few()
    # Class 11 has 4 of its 5, the others 5 and more.
    assert "class 11" in sentence
    assert "4" in sentence


def test_a_folder_without_any_of_the_videos_is_refused(video_tree, tmp_path):
    lists = {"train": read_split(video_tree / "splits/train_few_shot.txt", "train")}
    with pytest.raises(MoloError, match=r"none of the 25 listed videos .* '2_0' .*"):
        find_videos(lists, tmp_path)


def test_a_second_preparation_at_the_same_time_is_refused(video_tree, tmp_path):
    folder = prepared_folder(tmp_path, "folder").parent
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(MoloError, match="another preparation is at work in"):
            prepare(make_plan(video_tree), tmp_path)


def test_a_disk_that_looks_too_small_is_refused_unless_forced(video_tree, tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "_WORTH_A_SAMPLE", 1)
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6, 10_000))
    message = r"preparing 25 videos needs about 0\.\d+ MB, .* has 0\.0 MB free.*--force"
    with pytest.raises(MoloError, match=message):
        prepare_tree(video_tree, tmp_path, monkeypatch)
    assert not list(tmp_path.glob("**/*array_record*"))
    prepare(make_plan(video_tree), tmp_path, force=True)
    assert open_prepared(tmp_path).class_sizes == (7, 6, 5, 7)


def test_the_estimate_is_close_to_what_is_written(video_tree, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(preparation, "_WORTH_A_SAMPLE", 1)
    with caplog.at_level("INFO"):
        prepare_tree(video_tree, tmp_path, monkeypatch)
    (line,) = [r.getMessage() for r in caplog.records if "videos need about" in r.getMessage()]
    estimate = float(line.split("about ")[1].split()[0])
    folder = prepared_folder(tmp_path, "folder")
    written = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    # A file is filled up to a multiple of 64 KiB.
    assert 0 <= written - estimate < 0.15


def test_a_crash_of_the_decoder_costs_one_video(video_tree, tmp_path, monkeypatch):
    def crash_at_one(function, tasks, **_):
        for path, settings in tasks:
            crashed = os.path.basename(path) == "3_3.mp4"
            yield "decoding it crashed the process" if crashed else function(path, settings)

    monkeypatch.setattr(tfds_builder, "in_order", crash_at_one)
    report = prepare(make_plan(video_tree), tmp_path)
    assert numbers(report) == [25, 25, 0, 1, 0, 24]
    (problem,) = report.to_json()["problems"]
    assert (problem["video"], problem["reason"]) == ("3_3", "decoding it crashed the process")


def test_who_is_at_work_in_a_folder_is_named_until_the_work_ends(tmp_path):
    with preparation.lock(tmp_path):
        own = rf"another preparation \(process {os.getpid()}\) is at work in {tmp_path}"
        with pytest.raises(MoloError, match=own), preparation.lock(tmp_path):
            pass
    with preparation.lock(tmp_path):
        pass


def test_a_full_disk_names_the_lock_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(preparation.os, "write", full)
    message = rf"^{tmp_path}/\.lock cannot be written: No space left on device; make room"
    with pytest.raises(MoloError, match=message), preparation.lock(tmp_path):
        raise AssertionError
