"""Runs of several processes with JAX between them, on a CPU: how they stop, fail and end."""

import re
import signal

import processes
import pytest

from molo_jax import distributed
from molo_jax.engine import hosts
from molo_jax.errors import UsageError

# A training of one number, to which each step adds the mean of what the processes give. What
# happens where is said by the words behind the work folder: process, step, and what.
TRAINING = """
    import os, signal, sys, time
    from pathlib import Path
    from molo_jax import cli, distributed, stopping
    from molo_jax.errors import MoloError
    from molo_jax.place import Asked, place_of

    process, count, port = map(int, sys.argv[1:4])
    workdir, last, where, when, what = Path(sys.argv[4]), int(sys.argv[5]), *sys.argv[6:9]
    del sys.argv[1:]

    def main(argv):
        place = place_of(Asked(True, f"localhost:{port}", count, process))
        with stopping.ending_at_once(), distributed.running(place, {}):
            train()

    def train():
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import Mesh, NamedSharding, PartitionSpec
        from molo_jax.engine.checkpoint import Checkpoints
        from molo_jax.engine.loop import Hook, fit

        mesh = Mesh(np.array(jax.devices()), ("data",))
        whole, spread = (NamedSharding(mesh, PartitionSpec(*axis)) for axis in ((), ("data",)))

        def happen():
            if what == "bad video":
                raise MoloError("the video x.mp4 is bad")
            if what == "defect":
                raise ZeroDivisionError("by nothing")
            if what == "wait":
                print("here", flush=True)
                time.sleep(100)
            os.kill(os.getpid(), getattr(signal, what))

        def batches(start):
            for step in range(start + 1, last + 1):
                if where == str(process) and step == int(when):
                    happen()
                given = np.float32(np.nan if what == "NaN" and step == int(when) else 1)
                yield jax.make_array_from_process_local_data(spread, given[None])

        @jax.jit
        def step(total, given):
            total = jax.lax.with_sharding_constraint(total + given.mean(), whole)
            return total, {"loss": total}

        with (
            Checkpoints(workdir) as checkpoints,
            distributed.together(lambda: checkpoints.unfinished),
            stopping.StopSignals(
                lambda: "the plan", without=lambda: "without saving", raises=False
            ) as signals,
        ):
            start = checkpoints.latest_step() or 0
            total = jax.make_array_from_callback((), whole, lambda _: np.float32(0))
            if start:
                total = checkpoints.restore(start, {"model": {"total": total}}, whole)
                total = total["model"]["total"]
            stop = stopping.AgreedStop(signals)
            total, done = fit(
                total,
                batches(start),
                step,
                start=start,
                stop=last,
                log=Hook(10**6, lambda *_: None),
                save=Hook(
                    10**6,
                    lambda n, total, _: checkpoints.save(n, meta={}, model={"total": total}),
                ),
                stop_requested=stop.requested,
            )
            checkpoints.wait()
            if done < last or stop.settled():
                raise stop.interrupted(done)
        print("total", float(total), flush=True)

    cli.run(main)
"""
NOWHERE = (-1, 0, "nothing")


def train(workdir, last, where, when, what):
    return processes.run(TRAINING, 2, workdir, last, where, when, what)


def codes(ended):
    return [process.code for process in ended]


def test_a_signal_to_one_process_stops_all_behind_one_saved_step_and_they_go_on(tmp_path):
    ended = train(tmp_path, 2000, 1, 20, "SIGTERM")
    assert codes(ended) == [143, 143], ended
    said = [re.fullmatch(r"error: process (\d): (.*)", process.last) for process in ended]
    assert [match[1] for match in said] == ["0", "1"]
    assert said[0][2] == said[1][2]
    stopped = re.fullmatch(
        r"stopped by SIGTERM \(process 1\) after step (\d+), which is saved; the same command"
        r" goes on from there",
        said[0][2],
    )
    step = int(stopped[1])
    # The signal came before step 20; it is told with that step at the latest, and heard a step
    # later.
    assert 20 <= step <= 22
    assert [folder.name for folder in tmp_path.iterdir()] == [str(step)]
    assert "process 1: SIGTERM received: the plan" in ended[1].errors
    assert "SIGTERM received" not in ended[0].errors

    ended = train(tmp_path, step + 3, *NOWHERE)
    assert codes(ended) == [0, 0], ended
    assert [process.output.splitlines()[-1] for process in ended] == [f"total {step + 3:.1f}"] * 2
    assert str(step + 3) in [folder.name for folder in tmp_path.iterdir()]


def test_an_error_of_one_process_ends_the_others_inside_of_a_collective(tmp_path):
    ended = train(tmp_path, 2000, 1, 5, "bad video")
    assert codes(ended) == [1, 1], ended
    assert ended[1].last == "error: process 1: the video x.mp4 is bad"
    assert re.fullmatch(
        r"error: process 0: process 1 \(.*\) ended with: the video x\.mp4 is bad", ended[0].last
    )
    assert "Traceback" not in ended[0].errors + ended[1].errors
    assert list(tmp_path.iterdir()) == []


def test_a_defect_has_its_trace_where_it_is_and_one_line_elsewhere(tmp_path):
    ended = train(tmp_path, 2000, 0, 5, "defect")
    assert codes(ended) == [1, 1], ended
    assert ended[0].last == "ZeroDivisionError: by nothing"
    assert "Traceback" in ended[0].errors
    assert "Traceback" not in ended[1].errors
    assert re.fullmatch(
        r"error: process 1: process 0 \(.*\) ended with: ZeroDivisionError: by nothing \(its trace"
        r" is in the output of that process\)",
        ended[1].last,
    )


def test_a_loss_that_is_not_finite_is_said_in_one_line_by_all(tmp_path):
    ended = train(tmp_path, 2000, "all", 5, "NaN")
    assert codes(ended) == [1, 1], ended
    for process in ended:
        errors = [line for line in process.errors.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert "step 5: the loss term 'loss' is nan" in errors[0]
        assert "Traceback" not in process.errors


def test_a_killed_process_0_ends_the_other_with_one_line_and_no_dump(tmp_path):
    # With it ends JAX's service, without which JAX's own client would abort its process.
    with processes.Processes(TRAINING, 2, tmp_path, 2000, 0, 5, "wait") as both:
        both.await_line(0, "here")
        both.send(0, signal.SIGKILL)
        ended = both.ended()
    assert codes(ended) == [-9, 1], ended
    assert re.fullmatch(
        r"error: process 1: process 0 \(.*\) is lost: its connection was closed, so it was killed"
        r" or has crashed; the same command goes on from the last checkpoint, if there is one",
        ended[1].last,
    )
    # Nor a trace of Python's, nor C++ frames of JAX's client.
    assert "Traceback" not in ended[1].errors
    assert "stack trace" not in ended[1].errors
    # The stated limit is a minute.
    assert ended[1].seconds < 60


def test_one_process_is_not_watched(tmp_path):
    with distributed.running(None, {}), distributed.together():
        distributed.check_shared(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_work_folder_that_is_not_shared_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "count", lambda: 2)
    monkeypatch.setattr(hosts, "broadcast", lambda value: value)
    monkeypatch.setattr(hosts, "barrier", lambda name: None)
    monkeypatch.setattr(
        hosts, "gather_values", lambda value: [value, [False, "node7"]] if value[0] else []
    )
    with pytest.raises(UsageError, match=r"process 1 \(node7\) cannot see what process 0"):
        distributed.check_shared(tmp_path)
    assert list(tmp_path.iterdir()) == []


COMMAND = [
    *("-m", "molo_jax.main", "--config=configs/synthetic.py:protonet", "--mode=train"),
    *("--distributed", "--coordinator=localhost:{port}", "--num_processes={count}"),
    "--process_id={process}",
]


def test_the_command_refuses_processes_that_were_started_differently(tmp_path):
    folder = f"--workdir={tmp_path / 'run'}"
    ended = processes.run([*COMMAND, folder, "--config.train.steps=1{process}"], 2)
    assert codes(ended) == [2, 2], ended
    for number, process in enumerate(ended):
        assert process.last.startswith(f"error: process {number}: the processes on ")
        assert (
            "were started differently: config.train.steps is 10 in process 0 and 11 in process 1;"
            " give all processes the same command, but for --process_id, and the same code"
        ) in process.last
    assert not (tmp_path / "run").exists()


def test_the_command_trains_until_one_process_is_stopped(tmp_path, motion_data):
    settings = {
        "data.source": "videos",
        "data.root": f"{motion_data}/videos",
        "data.split_dir": f"{motion_data}/splits",
        "data.num_frames": 2,
        "data.resize": 32,
        "data.crop": 32,
        "data.workers": 1,
        "train.n_way": 3,
        "train.n_query": 1,
        "train.steps": 1000,
        "train.episodes_per_step": 2,
        "train.microbatch": 1,
        "train.log_every": 1,
        "train.eval_every": 0,
        "train.checkpoint_every": 500,
        "optimizer.warmup_steps": 2,
    }
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    workdir = tmp_path / "run"
    with processes.Processes([*COMMAND, f"--workdir={workdir}", *flags], 2) as both:
        both.await_file(workdir / "metrics.jsonl")
        both.send(1, signal.SIGTERM)
        ended = both.ended()
    assert codes(ended) == [143, 143], ended
    ends = [process.last.partition(": stopped by ")[2] for process in ended]
    assert ends[0] == ends[1]
    step = re.match(r"SIGTERM \(process 1\) after step (\d+), which is saved", ends[0])[1]
    assert [folder.name for folder in (workdir / "checkpoints").iterdir()] == [step]
    # What all would say alike is said by process 0 alone.
    line = " parameters from step 0 to 1000 on 2 device(s)"
    assert [line in process.errors for process in ended] == [True, False]
