"""The result of a training and of an evaluation does not depend on processes and devices."""

import collections
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import layouts
import numpy as np
import orbax.checkpoint as ocp
import pytest

from molo_jax.analysis.outcome_file import read_outcomes
from molo_jax.engine.metrics import read_metrics
from molo_jax.engine.plain_trees import without_values

HERE = Path(__file__).parent
BAD = {"train": "train_motion5/3.mp4", "val": "val_motion3/2.mp4", "test": "test_motion8/1.mp4"}
# Layouts as processes x devices of each.
SCRATCH = ("1x1", "1x4", "2x2", "4x1")
ELASTIC = {"2x2 to 1x1": "2x2", "1x1 to 2x2": "1x1"}


def start(folder, name, devices, jobs, data):
    """Starts the processes of one layout."""
    count = max(1, int(name[0]))
    plan = folder / f"{name}.json"
    plan.write_text(json.dumps({"processes": count, "data": str(data), "jobs": jobs}))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    paths = os.pathsep.join(map(str, (HERE, HERE.parent)))
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths}
    return [
        subprocess.Popen(
            [sys.executable, HERE / "layouts.py", plan, str(process), str(port)],
            stdout=subprocess.DEVNULL,
            stderr=(folder / f"{name}.{process}.txt").open("w"),
            env=environment,
        )
        for process in range(count)
    ]


def finish(folder, processes):
    """Waits until all have ended, or one has failed."""
    end = time.monotonic() + 900
    try:
        while any(process.poll() is None for process in processes) and time.monotonic() < end:
            if any(process.poll() for process in processes):
                break
            time.sleep(0.2)
    finally:
        for process in processes:
            process.kill()
    ended = [process.wait() for process in processes]
    said = "\n".join(path.read_text()[-3000:] for path in sorted(folder.glob("*.txt")))
    assert ended == [0] * len(processes), said


@pytest.fixture(scope="module")
def runs(motion_data, tmp_path_factory):
    """The folder of all runs, named by layout; they wait for each other where one goes on."""
    data, folder = tmp_path_factory.mktemp("data") / "motions", tmp_path_factory.mktemp("layouts")
    shutil.copytree(motion_data, data)
    for name in BAD.values():
        (data / "videos" / name).write_bytes(b"")

    def job(name, devices=0, evaluates=False):
        before = ELASTIC.get(name)
        begins_with = before and str(folder / before)
        given = {"workdir": str(folder / name), "devices": devices}
        return given | {"evaluates": evaluates, "begins_with": begins_with}

    one = [job("1x1", 1, evaluates=True), job("1x4"), job("2x2 to 1x1", 1)]
    two = [job("2x2", evaluates=True), job("1x1 to 2x2")]
    finish(folder, start(folder, "1x4", 4, one, data) + start(folder, "2x2", 2, two, data))
    finish(folder, start(folder, "4x1", 1, [job("4x1")], data))
    yield folder
    shutil.rmtree(folder)


def losses(folder):
    return np.array(
        [
            [line[name] for name in ("loss", "grad_norm", "accuracy")]
            for line in read_metrics(folder)
            if line["kind"] == "train"
        ]
    )


def tensors(folder):
    """Reads all tensors of the last checkpoint."""
    path = folder / "checkpoints" / str(layouts.STEPS)
    found, here = {}, jax.sharding.SingleDeviceSharding(jax.devices()[0])
    for item in ("model", "optimizer"):
        with ocp.StandardCheckpointer() as reader, jax.enable_x64(True):
            tree = reader.metadata(path / item).item_metadata.tree
            values = reader.restore(path / item, without_values(tree, here))
        for place, leaf in jax.tree_util.tree_flatten_with_path(values)[0]:
            found[item + jax.tree_util.keystr(place)] = np.asarray(leaf)
    return found


@pytest.mark.parametrize("name", [*SCRATCH[1:], *ELASTIC])
def test_a_training_gives_the_same_losses_on_every_layout(runs, name):
    expected, found = losses(runs / "1x1"), losses(runs / name)
    assert expected.shape == (layouts.STEPS, 3)
    assert len(np.unique(expected[:, 0])) == layouts.STEPS
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("name", [*SCRATCH[1:], *ELASTIC])
def test_weights_moments_and_running_statistics_are_the_same_on_every_layout(runs, name):
    expected, found = tensors(runs / "1x1"), tensors(runs / name)
    assert expected.keys() == found.keys()
    statistics = [place for place in expected if "batch_stats" in place]
    assert len(statistics) == 6
    for place, value in expected.items():
        assert value.dtype in (np.float64, np.int32, np.int64), place
        scale = np.abs(value).max()
        np.testing.assert_allclose(found[place], value, rtol=1e-6, atol=1e-7 * scale, err_msg=place)


def test_the_accuracies_of_validations_are_the_same_on_every_layout(runs):
    found = {
        name: [line for line in read_metrics(runs / name) if line["kind"] == "val"]
        for name in (*SCRATCH, *ELASTIC)
    }
    assert [line["step"] for line in found["1x1"]] == [layouts.SAVED, layouts.STEPS]
    for name, validations in found.items():
        assert validations == found["1x1"], name


def records(folder, name):
    """What the processes of a run have written of themselves."""
    paths = sorted(folder.glob(f"{name}.[0-9].json"))
    return [json.loads(path.read_text()) for path in paths]


@pytest.mark.parametrize("name", ["2x2", "4x1"])
def test_each_host_has_its_contiguous_share_of_every_chunk(runs, name):
    hosts, devices = int(name[0]), 4
    share = devices // hosts
    chunks = layouts.STEPS * layouts.EPISODES // devices
    for host, record in enumerate(records(runs, name)):
        firsts = [devices * chunk + host * share for chunk in range(chunks)]
        assert record["chunks"] == [[*range(first, first + share)] for first in firsts]


@pytest.mark.parametrize("part", ["training", "evaluation"])
def test_hosts_decode_together_what_one_host_decodes_and_nothing_twice(runs, part):
    (one,) = (record["videos"][part] for record in records(runs, "1x1"))
    several = [record["videos"][part] for record in records(runs, "2x2")]
    bad = set(BAD.values())
    together = collections.Counter()
    for videos in several:
        together.update({name: count for name, count in videos.items() if name not in bad})
        # Each has its share of the work.
        assert 0.3 < sum(videos.values()) / sum(one.values()) < 0.7
    assert together == {name: count for name, count in one.items() if name not in bad}


def test_all_hosts_know_the_bad_videos_that_one_of_them_found(runs):
    assert [record["bad"] for name in SCRATCH for record in records(runs, name)] == [[[1, 3]]] * 8
    for name in ("1x1", "2x2"):
        result = json.loads((runs / name / "eval_test_3way_1shot.json").read_text())
        assert [Path(path).name for path in result["bad_videos"]] == ["1.mp4"]


@pytest.mark.parametrize("variant", ["", "_untrained"])
def test_an_evaluation_predicts_the_same_on_every_layout(runs, variant):
    (_, one), (_, two) = (
        read_outcomes(runs / name / f"eval_test{variant}_outcomes.npz") for name in ("1x1", "2x2")
    )
    assert one.keys() == two.keys() == {(3, 1), (3, 2)}
    for cell, expected in one.items():
        np.testing.assert_array_equal(two[cell].classes, expected.classes)
        np.testing.assert_array_equal(two[cell].videos, expected.videos)
        np.testing.assert_array_equal(two[cell].predicted, expected.predicted)
        assert 0.2 < expected.correct.mean() < 1
        np.testing.assert_allclose(two[cell].margins, expected.margins, rtol=1e-3, atol=1e-5)


def test_process_0_alone_writes(runs):
    """What is written twice would stand twice in the log, or be a result beside a result."""
    for name in (*SCRATCH, *ELASTIC):
        steps = [line["step"] for line in read_metrics(runs / name) if line["kind"] == "train"]
        assert steps == [*range(1, layouts.STEPS + 1)]
    one, two = ({path.name for path in (runs / name).iterdir()} for name in ("1x1", "2x2"))
    assert one == two
    # A run that goes on has a second file of events; each has one of process 0.
    files = {name: len([*(runs / name / "tensorboard").iterdir()]) for name in (*SCRATCH, *ELASTIC)}
    assert files == {**dict.fromkeys(SCRATCH, 1), **dict.fromkeys(ELASTIC, 2)}
