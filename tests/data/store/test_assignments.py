"""What a worker does with a record file that it is told to make, and when it refuses."""

import dataclasses
import os
import platform

import pytest
from preparing import in_this_process, make_plan

from molo_jax import files
from molo_jax.data.store import assignments
from molo_jax.data.store.assignments import Assignment, Run, carry_out
from molo_jax.data.store.processes import Lost
from molo_jax.data.store.records import Manifest, manifest_path
from molo_jax.data.store.shards import Shard
from molo_jax.errors import MoloError

HERE = f"the worker on {platform.node()}"


@pytest.fixture
def run(tmp_path):
    (tmp_path / "work").mkdir()
    return Run.new(tmp_path / "work", workers=0, seconds=60)


@pytest.fixture
def assignment(video_tree, run, monkeypatch):
    monkeypatch.setattr(assignments, "in_order", in_this_process)
    plan = make_plan(video_tree)
    shard = Shard(run.folder / "records", "train", tuple(plan.lists["train"][:3]), plan.settings)
    return Assignment.of(shard, run)


def found(run):
    return sorted(path.name for path in run.folder.iterdir())


def test_a_record_file_is_made_once(assignment, run, monkeypatch):
    with run.going_on():
        carry_out(assignment)
        assert assignment.is_done()
        monkeypatch.setattr(assignments, "in_order", None)
        carry_out(assignment)
    assert found(run) == ["records", "records.json"]


def test_a_video_that_took_too_long_is_not_tried_again_in_the_same_run(
    assignment, run, monkeypatch
):
    late = Lost("decoding it took longer than 1 s")
    monkeypatch.setattr(assignments, "in_order", lambda *_, **__: (x for x in [late] * 3))
    with run.going_on():
        carry_out(assignment)
        monkeypatch.setattr(assignments, "in_order", None)
        carry_out(assignment)
    outcomes = Manifest.read(manifest_path(assignment.shard.path)).outcomes
    assert [outcome.reason for outcome in outcomes] == [str(late)] * 3
    # The next preparation does.
    assert not assignment.shard.is_made()


@pytest.mark.parametrize("key", ["", "another preparation"])
def test_a_worker_stops_once_the_preparation_has_ended(assignment, run, monkeypatch, key):
    done = []

    def end_at_the_second(function, tasks, **options):
        for result in in_this_process(function, tasks, **options):
            done.append(result)
            if len(done) == 2:
                run_file = run.folder / assignments.RUN_FILE
                run_file.write_text(key) if key else run_file.unlink()
            yield result

    monkeypatch.setattr(assignments, "in_order", end_at_the_second)
    with run.going_on():
        carry_out(assignment)
    assert len(done) == 2
    assert found(run) == []
    carry_out(assignment)
    assert found(run) == []


def test_relative_paths_hold_in_another_folder(video_tree, tmp_path, monkeypatch):
    monkeypatch.chdir(video_tree)
    plan = make_plan(video_tree)
    line = dataclasses.replace(plan.lists["train"][0], file="videos/2_0.mp4")
    run = Run.new(tmp_path, workers=0, seconds=60)
    shard = Shard(tmp_path / "records", "train", (line,), plan.settings)
    monkeypatch.setattr(assignments, "in_order", in_this_process)
    monkeypatch.chdir(tmp_path)
    with run.going_on():
        carry_out(Assignment.of(shard, run))
    manifest = Manifest.read(tmp_path / "records.json")
    # The path is kept as it was given, so that the files are those of a local preparation.
    assert (manifest.listed[0].file, manifest.records) == ("videos/2_0.mp4", 1)


def refusal(assignment):
    with assignment.run.going_on(), pytest.raises(MoloError) as raised:
        carry_out(assignment)
    return str(raised.value)


def test_other_versions_are_refused_with_both(assignment, run):
    wanted = run.environment | {"av": "1.0", "Python": "3.0"}
    other = dataclasses.replace(run, environment=wanted)
    here = run.environment
    assert refusal(dataclasses.replace(assignment, run=other)) == (
        f"{HERE} has Python {here['Python']} instead of 3.0, av {here['av']} instead of 1.0;"
        " install the same versions on every machine, then start it again"
    )
    assert found(run) == []


def test_the_sources_of_the_package_are_part_of_its_version():
    assert assignments.environment()["molo_jax"] == files.digest_of_sources()


def test_a_folder_that_is_not_shared_is_named(assignment, run, tmp_path):
    elsewhere = dataclasses.replace(run, folder=tmp_path / "not there")
    with pytest.raises(MoloError) as raised:
        carry_out(dataclasses.replace(assignment, run=elsewhere))
    assert str(raised.value) == (
        f"{HERE} does not find {tmp_path}/not there; --out must be a folder that all machines"
        " share, under the same path"
    )
    lines = tuple(
        dataclasses.replace(line, file=f"/elsewhere/{line.name}.mp4")
        for line in assignment.shard.listed
    )
    shard = dataclasses.replace(assignment.shard, listed=lines)
    assert refusal(dataclasses.replace(assignment, shard=shard)).startswith(
        f"{HERE} finds no video of a record file, such as /elsewhere/2_0.mp4; --videos"
        " must be a folder that all machines share"
    )


def test_of_some_videos_that_are_gone_the_others_are_kept(assignment, run):
    lines = list(assignment.shard.listed)
    lines[1] = dataclasses.replace(lines[1], file=f"{lines[1].file}.gone")
    shard = dataclasses.replace(assignment.shard, listed=tuple(lines))
    with run.going_on():
        carry_out(dataclasses.replace(assignment, shard=shard))
    assert Manifest.read(manifest_path(shard.path)).records == 2
    assert not os.path.exists(run.folder / assignments.RUN_FILE)
