import errno
import os
import signal
import subprocess
import sys

import pytest

from molo_jax import files, workdir
from molo_jax.errors import MoloError, UsageError
from molo_jax.files import InUseError
from molo_jax.workdir import LOCK_FILE, work_folder

HOLD = """
import sys, time
from pathlib import Path
from molo_jax.workdir import work_folder
with work_folder(Path(sys.argv[1]), for_training=True):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_training_in_a_folder_is_refused_with_the_process_that_holds_it(tmp_path):
    with work_folder(tmp_path, for_training=True):
        message = rf"a training is at work in {tmp_path} \(process {os.getpid()}\); wait"
        with (
            pytest.raises(InUseError, match=message),
            work_folder(tmp_path, for_training=True),
        ):
            raise AssertionError
        assert (tmp_path / LOCK_FILE).read_text().startswith(f"{os.getpid()} ")
    with work_folder(tmp_path, for_training=True):
        pass


def test_the_lock_of_another_machine_is_named_with_the_machine(tmp_path, monkeypatch):
    with work_folder(tmp_path, for_training=True):
        (tmp_path / LOCK_FILE).write_text("17 elsewhere\n")
        with (
            pytest.raises(MoloError, match=r"\(process 17 on elsewhere\)"),
            work_folder(tmp_path, for_training=True),
        ):
            raise AssertionError


def test_an_evaluation_may_run_beside_a_training(tmp_path):
    with work_folder(tmp_path, for_training=True), work_folder(tmp_path, for_training=False):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]
    assert list(tmp_path.iterdir()) == []


def test_a_killed_training_holds_no_lock(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "held\n"
    with pytest.raises(MoloError, match=f"process {child.pid}"):
        work_folder(tmp_path, for_training=True).__enter__()
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert (tmp_path / LOCK_FILE).exists()
    with work_folder(tmp_path, for_training=True):
        assert (tmp_path / LOCK_FILE).read_text().startswith(f"{os.getpid()} ")


@pytest.mark.parametrize("for_training", [True, False])
def test_a_folder_that_was_made_and_stays_empty_is_removed_with_its_parents(tmp_path, for_training):
    def fail():
        with work_folder(tmp_path / "runs/new", for_training=for_training):
            assert (tmp_path / "runs/new").is_dir()
            raise MoloError("no data")

    with pytest.raises(MoloError, match="no data"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_or_holds_something_stays(tmp_path):
    there, full = tmp_path / "there", tmp_path / "full"
    there.mkdir()
    with work_folder(there, for_training=True), work_folder(full, for_training=True):
        (full / "metrics.jsonl").write_text("{}")
    assert there.is_dir()
    assert [path.name for path in full.iterdir()] == ["metrics.jsonl"]


def test_a_folder_that_cannot_be_made_is_a_mistake_of_the_flag(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UsageError, match=f"--workdir={tmp_path}/file/x cannot be made: Not a dir"),
        work_folder(tmp_path / "file/x", for_training=True),
    ):
        raise AssertionError


def test_where_the_file_system_has_no_locks_the_training_runs_with_a_warning(
    tmp_path, monkeypatch, caplog
):
    def flock(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with work_folder(tmp_path, for_training=True):
        pass
    assert caplog.messages == [f"{tmp_path}/.lock cannot be locked (No locks available)"]


def test_a_full_disk_names_the_lock_file_and_leaves_none(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "write", full)
    message = rf"^{tmp_path}/{LOCK_FILE} cannot be written: No space left on device; make room"
    with pytest.raises(MoloError, match=message), work_folder(tmp_path, for_training=True):
        raise AssertionError
    assert list(tmp_path.iterdir()) == []


def test_of_several_processes_the_first_makes_locks_and_removes_the_folder(tmp_path, monkeypatch):
    folder = tmp_path / "runs" / "a"
    with work_folder(folder, for_training=True):
        monkeypatch.setattr(workdir.hosts, "is_first", lambda: False)
        # Else it would be refused, for the lock is held.
        with work_folder(folder, for_training=True):
            assert (folder / LOCK_FILE).is_file()
        monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(workdir.hosts, "is_first", lambda: False)
    with work_folder(folder, for_training=True):
        assert not folder.exists()
