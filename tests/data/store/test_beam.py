"""Which Beam runner does the work with which options, and what is said where it cannot."""

import dataclasses
import platform
import sys
import tempfile

import pytest
from preparing import make_plan

from molo_jax.data.store import beam
from molo_jax.data.store.beam import Beam
from molo_jax.data.store.shards import Shard
from molo_jax.errors import MoloError, UsageError

PLACE = "dask_client_address=tcp://127.0.0.1:9"


@pytest.fixture(autouse=True)
def no_address(monkeypatch):
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)


def test_an_unknown_runner_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=r"--beam_runner=Dusk: Unexpected pipeline runner: Dusk\."):
        Beam("Dusk")
    with pytest.raises(UsageError, match=r"--beam_runner=no_such\.Runner: No module named"):
        Beam("no_such.Runner")


def test_no_folder_of_beam_is_left_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    Beam("DirectRunner")
    Beam("DaskRunner", [PLACE])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["DaskRunner", "dask", beam.dask_cluster.RUNNER])
def test_each_record_file_is_a_task_of_dask_unless_asked_otherwise(name):
    assert Beam(name, [PLACE])._options == [f"--{PLACE}", "--dask_partition_size=1"]
    split = "dask_npartitions=7"
    assert Beam(name, [f"--{PLACE}", split])._options == [f"--{PLACE}", f"--{split}"]


@pytest.mark.parametrize(
    ("runner", "options", "message"),
    [
        ("DaskRunner", [], "DaskRunner needs the address of a Dask scheduler: --beam_pipeline"),
        ("DaskRunner", ["dask_client_adress=x"], "no option dask_client_adress; did you mean dask"),
        ("DaskRunner", [PLACE, "flink=1"], "DaskRunner has no option flink; it has dask_client_"),
        ("DaskRunner", [PLACE, "dask_npartitions=x"], "dask_npartitions: invalid int value: 'x'"),
        ("DaskRunner", [PLACE, "dask_connection_timeout=x"], "timeout=x; expected a whole number"),
        ("DaskRunner", [PLACE, "dask_connection_timeout=0"], "timeout=0; expected a whole number"),
        ("DaskRunner", [PLACE, "dask_partition_size=-1"], "size=-1; expected a whole number from"),
        ("DaskRunner", ["dask_scheduler_file=/dev/null"], "/dev/null names no scheduler; `dask s"),
        ("DaskRuner", [PLACE], r"did you mean DaskRunner\?$"),
        ("", [], "--beam_runner is empty; expected a runner, such as DaskRunner"),
        ("DaskRunner", ["dask_scheduler_file=/none"], "dask_scheduler_file=/none does not exist"),
        ("DirectRunner", ["direct_num_workers=x"], "direct_num_workers: invalid int value: 'x'"),
        ("DataflowRunner", [], "Missing required option: project"),
    ],
)
def test_a_wrong_option_is_one_line(runner, options, message, capfd):
    with pytest.raises(UsageError, match=message) as raised:
        Beam(runner, options)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr().err == ""


def test_dasks_own_configuration_may_name_the_scheduler():
    from dask import config

    with config.set({"scheduler-address": "tcp://127.0.0.1:9"}):
        assert Beam("DaskRunner")._options == ["--dask_partition_size=1"]


@pytest.mark.parametrize(
    ("module", "runner", "extra"),
    [
        ("apache_beam", "DirectRunner", "beam"),
        ("apache_beam", "DaskRunner", "dask"),
        ("distributed", "DaskRunner", "dask"),
    ],
)
def test_a_missing_extra_is_named(monkeypatch, module, runner, extra):
    monkeypatch.setitem(sys.modules, module, None)
    message = rf'^--beam_runner={runner} needs the extra {extra} .*pip install .*\[{extra}\]"$'
    with pytest.raises(MoloError, match=message):
        Beam(runner, [PLACE] if runner == "DaskRunner" else [])


def test_what_a_worker_refuses_is_one_sentence_and_leaves_nothing(video_tree, tmp_path):
    plan = make_plan(video_tree)
    line = dataclasses.replace(plan.lists["train"][0], file="/elsewhere/2_0.mp4")
    shard = Shard(tmp_path / "records", "train", (line,), plan.settings)
    arguments = {"workers": 1, "seconds": 60, "advance": lambda _: None}
    with pytest.raises(MoloError) as raised:
        Beam("DirectRunner").make([shard], tmp_path, **arguments)
    assert str(raised.value) == (
        f"the worker on {platform.node()} finds no video of a record file, such as"
        " /elsewhere/2_0.mp4; --videos must be a folder that all machines share, under the same"
        " path. If these videos were removed meanwhile, run the same command again"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_progress_counts_the_videos_of_whole_record_files(video_tree, tmp_path, monkeypatch):
    counted = []
    plan = make_plan(video_tree)
    lines = plan.lists["train"][:5]
    shards = [
        Shard(tmp_path / f"records{i}", "train", tuple(lines[i : i + 2]), plan.settings)
        for i in (0, 2, 4)
    ]
    arguments = {"workers": 1, "seconds": 60, "advance": counted.append}
    Beam("DirectRunner").make(shards, tmp_path, **arguments)
    assert sum(counted) == 5
    assert set(counted) <= {0, 1, 2, 3, 4, 5}


def test_record_files_that_a_runner_has_not_made_are_missed(video_tree, tmp_path, monkeypatch):
    plan = make_plan(video_tree)
    shard = Shard(tmp_path / "records", "train", tuple(plan.lists["train"][:2]), plan.settings)
    monkeypatch.setattr(Beam, "_carry_out", lambda self, work: None)
    arguments = {"workers": 1, "seconds": 60, "advance": lambda _: None}
    message = f"1 of 1 record files were not made, such as {tmp_path}/records; do the workers"
    with pytest.raises(MoloError, match=message):
        Beam("DirectRunner").make([shard], tmp_path, **arguments)


def test_of_a_text_about_a_failed_worker_its_own_sentence_is_shown():
    text = (
        "Traceback (most recent call last):\n  File x\nmolo_jax.errors.MoloError: /a/b cannot be"
        " written: full. Go on\n\nDuring handling\n"
        "molo_jax.errors.MoloError: /a/b cannot be written: full. Go on [while running 'Prepare']\n"
    )
    runner = Beam("DirectRunner")
    assert runner._explained(RuntimeError(text)) == "/a/b cannot be written: full. Go on"
    assert runner._explained(ValueError("one\n  two")) == (
        "--beam_runner=DirectRunner: ValueError: one two. Record files that are whole are kept; the"
        " same command goes on from there"
    )
