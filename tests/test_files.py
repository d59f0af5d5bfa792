"""Folders are replaced in one step, and what a kill leaves is put right."""

import ctypes
import errno
import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from molo_jax import files
from molo_jax.errors import MoloError
from molo_jax.files import write_json, written

# Replaces a folder, and is killed before the step of a number; the steps are all calls that change
# what names stand for.
PROGRAM = """
import os, shutil, signal, sys
from pathlib import Path
from molo_jax import files
destination, last, can_exchange = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "True"
steps = iter(range(1000))
def step(function):
    def killed_or_done(*arguments, **options):
        if next(steps) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return killed_or_done
if not can_exchange:
    files._exchange = lambda *_: False
files._exchange = step(files._exchange)
os.rename = step(os.rename)
os.unlink = step(os.unlink)
os.rmdir = step(os.rmdir)
files.replace_folder(destination)
"""


def make(folder, content):
    (folder / "0").mkdir(parents=True)
    for name in ("a", "b"):
        (folder / "0" / name).write_text(content)


def content(folder):
    return {path.name: path.read_text() for path in (folder / "0").iterdir()}


OLD, NEW = ({"a": text, "b": text} for text in ("old", "new"))


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_kill_at_any_step_leaves_the_old_folder_or_the_new_one_complete(tmp_path, can_exchange):
    seen, missing = [], 0
    for last in range(100):
        destination = tmp_path / str(last) / "out"
        make(destination, "old")
        make(files.new_name(destination), "new")
        command = [sys.executable, "-c", PROGRAM, str(destination), str(last), str(can_exchange)]
        code = subprocess.run(command, check=False).returncode
        missing += not destination.exists()
        files.recover_folder(destination)
        seen.append(content(destination))
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert [OLD] * seen.count(OLD) + [NEW] * seen.count(NEW) == seen
    assert OLD in seen
    assert NEW in seen[:-1]
    assert sorted(path.name for path in destination.parent.iterdir()) == ["out"]
    # Where names cannot be swapped there is one moment between two renames.
    assert missing == (0 if can_exchange else 1)


def test_linux_and_macos_swap_two_folders_in_one_step(tmp_path):
    make(tmp_path / "one", "old")
    make(tmp_path / "two", "new")
    assert files._exchange(tmp_path / "one", tmp_path / "two")
    assert (content(tmp_path / "one"), content(tmp_path / "two")) == (NEW, OLD)


class Library:
    """A C library that has some functions, each of which answers with a number."""

    def __init__(self, number=0, **functions):
        self.calls, self._number = [], number
        for name in functions:
            setattr(self, name, functools.partial(self._called, name))

    def _called(self, *arguments):
        self.calls.append(arguments)
        ctypes.set_errno(self._number)
        return -1 if self._number else 0


def test_macos_is_asked_with_its_own_function_and_flag(monkeypatch):
    library = Library(renamex_np=True)
    monkeypatch.setattr(files.sys, "platform", "darwin")
    monkeypatch.setattr(files.ctypes, "CDLL", lambda *_, **__: library)
    assert files._exchange(Path("/a/ö"), Path("/b"))
    # RENAME_SWAP of <sys/stdio.h>.
    assert library.calls == [("renamex_np", "/a/ö".encode(), b"/b", 0x2)]


@pytest.mark.parametrize("system", ["linux", "darwin"])
@pytest.mark.parametrize(
    "library",
    [
        Library(),
        Library(errno.ENOTSUP, renameat2=True, renamex_np=True),
        Library(errno.ENOSYS, renameat2=True, renamex_np=True),
    ],
    ids=["without the function", "not on this file system", "an old kernel"],
)
def test_where_names_cannot_be_swapped_a_folder_is_replaced_all_the_same(
    system, library, tmp_path, monkeypatch
):
    monkeypatch.setattr(files.sys, "platform", system)
    monkeypatch.setattr(files.ctypes, "CDLL", lambda *_, **__: library)
    destination = tmp_path / "out"
    make(destination, "old")
    make(files.new_name(destination), "new")
    files.replace_folder(destination)
    assert content(destination) == NEW
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_swap_that_is_refused_leaves_the_old_folder_and_says_why(tmp_path, monkeypatch):
    library = Library(errno.EACCES, renameat2=True, renamex_np=True)
    monkeypatch.setattr(files.ctypes, "CDLL", lambda *_, **__: library)
    destination = tmp_path / "out"
    make(destination, "old")
    make(files.new_name(destination), "new")
    with pytest.raises(PermissionError, match=str(destination)):
        files.replace_folder(destination)
    assert content(destination) == OLD


# Holds a lock until its input ends.
HOLDER = """
import sys
from pathlib import Path
from molo_jax.files import locked
with locked(Path(sys.argv[1]), lambda who: who):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_lock_keeps_others_out_and_ends_with_its_process(tmp_path):
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        message = f"process {holder.pid} is at work"
        in_use = "{} is at work".format
        with pytest.raises(files.InUseError, match=message), files.locked(path, in_use):
            pass
        holder.kill()
    with files.locked(path, in_use):
        assert path.read_text().split()[0] == str(os.getpid())
    assert not path.exists()


def test_a_json_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    first = path.stat().st_ino
    with path.open() as open_before:
        write_json(path, {"a": 2})
        # Whoever has it open reads the old one to its end.
        assert (open_before.read(), path.read_text()) == ('{\n "a": 1\n}\n', '{\n "a": 2\n}\n')
    assert path.stat().st_ino != first


def test_a_failed_rename_brings_the_old_folder_back(tmp_path, monkeypatch):
    destination = tmp_path / "out"
    make(destination, "old")
    make(files.new_name(destination), "new")
    rename = os.rename

    def fail(source, target):
        if str(source).endswith(".tmp"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    monkeypatch.setattr(files.os, "rename", fail)
    with pytest.raises(OSError, match="Input/output error"):
        files.replace_folder(destination)
    assert content(destination) == OLD
    assert not files.old_name(destination).exists()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "/x/y cannot be written: No space left on device; make room, then run the"),
        (errno.EDQUOT, "/x/y cannot be written: .*; make room within your quota, then run"),
        (errno.EROFS, "/x/y cannot be written: Read-only file system; choose another folder"),
        (errno.EIO, "/x/y cannot be written: Input/output error$"),
    ],
)
def test_a_failed_write_names_the_file_the_reason_and_what_helps(code, message):
    with pytest.raises(MoloError, match=message), written("/x/y"):
        raise OSError(code, os.strerror(code))


def test_a_json_file_that_does_not_fit_on_the_disk_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "eval.json"
    write_json(path, {"accuracy": 0.5})

    def fill(self, text, **_):
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fill)
    with pytest.raises(MoloError, match=f"{path} cannot be written: No space left on device"):
        write_json(path, {"accuracy": 0.75})
    assert path.read_text() == '{\n "accuracy": 0.5\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_the_digest_of_the_sources_is_that_of_the_code_wherever_it_lies(tmp_path, monkeypatch):
    def installed(name, configs, **sources):
        package = tmp_path / name
        (package / "configs").mkdir(parents=True)
        (package / "configs/a.py").write_text(configs)
        for module, text in sources.items():
            (package / f"{module}.py").write_text(text)
        monkeypatch.setattr(files, "__file__", str(package / "files.py"))
        return files.digest_of_sources()

    first = installed("one", "x = 1", loop="a", step="b")
    assert len(first) == 12
    assert installed("two", "x = 2", loop="a", step="b") == first
    assert installed("three", "x = 1", loop="a", step="c") != first
    assert installed("four", "x = 1", loop="ab", step="") != first
    assert installed("five", "x = 1", loop="a", steps="b") != first


def test_bytes_are_counted_while_files_and_folders_go_away(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    gone = tmp_path / "gone"

    def looked_through():
        yield gone
        yield tmp_path / "a"
        # As pathlib's search in a folder that has another name by now.
        os.listdir(gone)

    assert files.bytes_of(looked_through()) == 5
