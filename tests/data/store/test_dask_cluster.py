"""A preparation by the workers of a real Dask cluster on this machine."""

import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import dask_programs
import pytest
from distributed import Client, KilledWorker
from preparing import make_plan, prepare_tree
from programs import QUICK
from troubled_decoder import CRASH, ENDLESS, SLOW, ask_for, troubled

from molo_jax.data.store import assignments, dask_cluster, records, tfds_builder
from molo_jax.data.store.beam import Beam
from molo_jax.data.store.dask_cluster import Cluster
from molo_jax.data.store.preparation import prepare
from molo_jax.data.store.records import prepared_folder
from molo_jax.errors import MoloError

PATIENCE = 240


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A scheduler that no worker has joined."""
    with dask_programs.programs(tmp_path_factory.mktemp("dask")) as running:
        yield running


@pytest.fixture(scope="module")
def cluster(alone):
    """The scheduler with two workers."""
    for _ in range(2):
        alone.add_worker()
    with Client(alone.address) as client:
        client.wait_for_workers(2, timeout=PATIENCE)
    return alone


def content(out: Path) -> dict[str, bytes]:
    """The record files and their manifests."""
    folder = prepared_folder(out, "folder")
    return {path.name: path.read_bytes() for path in folder.glob("*array_record*")}


def linked(video_tree: Path, root: Path, count: int) -> Path:
    """A tree of more videos: links to those of the tree, under new names."""
    (root / "videos").mkdir(parents=True)
    (root / "splits").mkdir()
    paths = sorted((video_tree / "videos").iterdir())
    for number in range(count):
        os.link(paths[number % len(paths)], root / f"videos/{number:03}.mp4")
    lines = [f"train{number // 25}/{number:03}\n" for number in range(count)]
    (root / "splits/train_few_shot.txt").write_text("".join(lines))
    return root


def test_a_scheduler_without_workers_is_said(alone):
    cluster = Cluster.of([f"--dask_client_address={alone.address}", "--dask_connection_timeout=1"])
    message = f"scheduler at {alone.address} has no worker after 1 s; start some with `dask worker"
    with pytest.raises(MoloError, match=message):
        cluster.check()


def test_where_no_scheduler_is_the_address_is_named():
    address = "tcp://127.0.0.1:9"
    cluster = Cluster.of([f"--dask_client_address={address}", "--dask_connection_timeout=1"])
    with pytest.raises(MoloError, match=f"no Dask scheduler at {address} .*`dask scheduler`"):
        cluster.check()


def test_a_program_that_never_answers_is_no_scheduler(monkeypatch):
    monkeypatch.setattr(dask_cluster, "_GRACE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        cluster = Cluster.of([f"--dask_client_address={address}", "--dask_connection_timeout=1"])
        message = f"no Dask scheduler at {address} .no answer in 1.5 s."
        with pytest.raises(MoloError, match=message):
            cluster.check()


def test_what_has_ended_several_workers_is_told_in_words():
    error = KilledWorker("task", None, 3)
    assert dask_cluster.explained(error).startswith(
        "making one record file has ended 4 Dask workers, one after the other; the logs of the"
    )
    assert dask_cluster.explained(ValueError("x")) == ""


def test_a_worker_with_other_versions_is_named(cluster):
    beam = Beam("DaskRunner", cluster.options)
    beam.check()

    def pretend(sources):
        assignments._SOURCES, before = sources, assignments._SOURCES
        return before

    with Client(cluster.address) as client:
        worker = sorted(client.nthreads())[0]
        before = client.run(pretend, "old", workers=[worker])[worker]
        message = (
            f"the Dask worker {worker} has molo_jax old instead of {assignments._SOURCES};"
            " install the same versions on every machine, then start it again"
        )
        try:
            with pytest.raises(MoloError, match=f"^{re.escape(message)}$"):
                beam.check()
        finally:
            client.run(pretend, before, workers=[worker])


def test_a_crash_a_hang_and_a_bad_video_cost_themselves_alone_as_they_do_here(
    video_tree, tmp_path, monkeypatch, cluster
):
    monkeypatch.setattr(records, "LEAST_SHARD_VIDEOS", 6)
    tree = linked(video_tree, tmp_path / "tree", 20)
    (tree / "videos/003.mp4").unlink()
    (tree / "videos/003.mp4").write_text("not a video\n")
    ask_for(CRASH, tree / "videos/007.mp4")
    ask_for(ENDLESS, tree / "videos/013.mp4")
    plan = dataclasses.replace(make_plan(tree), seconds=12, workers=1)
    report = prepare(plan, tmp_path / "out", beam=Beam("DaskRunner", cluster.options))
    monkeypatch.setattr(tfds_builder, "encode_or_reason", troubled)
    expected = prepare(plan, tmp_path / "here")
    assert report.to_json() == expected.to_json()
    problems = {problem["video"]: problem["reason"] for problem in report.to_json()["problems"]}
    assert problems.pop("003").startswith("not a video file")
    assert problems == {
        "007": "decoding it crashed the process (exit code -11)",
        "013": "decoding it took longer than 12 s",
    }
    assert content(tmp_path / "out") == content(tmp_path / "here")
    assert len(content(tmp_path / "out")) == 8
    with Client(cluster.address) as client:
        # No worker has been lost, and no work is left in the cluster.
        assert len(client.nthreads()) == 2
        assert not any(client.processing().values())


def wait_for(condition, process=None):
    """Waits until something holds, as long as a process lives."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.1)


def test_an_interruption_and_a_killed_worker_cost_no_finished_file(
    video_tree, tmp_path, monkeypatch, cluster
):
    monkeypatch.setattr(records, "LEAST_SHARD_VIDEOS", 32)
    tree = linked(video_tree, tmp_path / "tree", 100)
    for number in range(32, 100):
        ask_for(SLOW, tree / f"videos/{number:03}.mp4")
    prepare_tree(tree, tmp_path / "here", monkeypatch)
    command = [
        *(sys.executable, "-m", "molo_jax.prepare", "--dataset=folder", f"--out={tmp_path}/out"),
        *(f"--videos={tree}/videos", f"--splits_dir={tree}/splits", "--resize=48", "--chroma=444"),
        *("--num_frames=5", "--n_way=2", "--beam_runner=DaskRunner"),
        f"--beam_pipeline_options=dask_client_address={cluster.address}",
    ]

    def start() -> subprocess.Popen:
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=os.environ | QUICK, **output)

    folder = prepared_folder(tmp_path / "out", "folder").with_name("1.0.0.unfinished")
    first = start()
    wait_for(
        lambda: list(folder.glob("*array_record*.json")) and list(folder.glob(".*.part")), first
    )
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=PATIENCE)
    assert first.returncode == 130
    assert errors.splitlines()[-1] == (
        "error: stopped by SIGINT; record files that are whole are kept, and the same command goes"
        " on from there"
    )
    assert "Traceback" not in errors
    # The workers stop by themselves.
    wait_for(lambda: not list(folder.glob(".*.part")))
    made = {path.name: path.stat().st_mtime_ns for path in folder.glob("*array_record*")}
    assert 0 < len(made) < 8

    second = start()
    wait_for(lambda: list(folder.glob(".*.part")), second)
    with Client(cluster.address) as client:
        killed = next(iter(client.run(os.getpid).values()))
    os.kill(killed, signal.SIGKILL)
    _, errors = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, errors
    assert " record files are made by 2 workers with 2 threads at tcp://127.0.0.1:" in errors
    assert content(tmp_path / "out") == content(tmp_path / "here")
    final = prepared_folder(tmp_path / "out", "folder")
    assert {name: (final / name).stat().st_mtime_ns for name in made} == made
    assert [path.name for path in final.parent.iterdir()] == ["1.0.0"]


def test_a_worker_or_scheduler_without_the_package_is_told_to_install_it():
    error = Exception("ModuleNotFoundError(\"No module named 'molo_jax'\")")
    assert str(dask_cluster._without_package("the Dask worker tcp://127.0.0.1:1", error)) == (
        "the Dask worker tcp://127.0.0.1:1 has no package molo_jax; install the same versions"
        ' there, with the extra dask: pip install "molo-jax[dask]"'
    )
