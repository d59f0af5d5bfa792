import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from bank_values import KEY, VIDEOS, check, features, layout, open_bank, put

from molo_jax.bank import arrays, store
from molo_jax.bank.store import FeatureBank
from molo_jax.errors import MoloError

FILES = {"bank.json", "features_0.npy", "features_1.npy", "checks.npy", "rows.npy"}


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "bank" / "a bank"


def test_what_is_written_is_read_by_another_process_as_plain_numpy_files(folder):
    bank = open_bank(folder)
    assert (bank.draws, bank.missing(2).tolist()) == (0, list(range(10)))
    with bank.writing(2):
        put(bank, [0, 1, 4])
        put(bank, [9, 5])
    assert bank.missing(2).tolist() == [2, 3, 6, 7, 8]
    assert {path.name for path in folder.iterdir()} == FILES
    other = FeatureBank.read(folder)
    assert (other.key, other.about, other.draws) == (KEY, {"step": 7}, 2)
    assert other.missing(2).tolist() == [2, 3, 6, 7, 8]
    assert other.missing(3).tolist() == [2, 3, 6, 7, 8, *range(10, 15)]
    check(other, 2)
    found = other.features()
    assert list(found) == ["tokens", "unused", "pair"]
    assert found["unused"] is None
    assert isinstance(found["tokens"], np.memmap)
    assert not found["tokens"].flags.writeable
    tokens = np.load(folder / "features_0.npy")
    assert tokens.shape == (10, 2, 4)
    assert tokens[9].tolist() == [[10.0] * 4] * 2
    assert np.load(folder / "rows.npy").tolist() == [1, 1, 0, 0, 1, 1, 0, 0, 0, 1]
    taken = other.take(np.array([9, 0, 1, 4]))
    np.testing.assert_array_equal(taken["tokens"], features([9, 0, 1, 4])["tokens"])
    assert not isinstance(taken["tokens"], np.memmap)


@pytest.mark.parametrize("name", ["features_0.npy", "features_1.npy", "checks.npy"])
def test_numbers_that_are_not_those_that_were_written_are_found(folder, name):
    bank = open_bank(folder)
    with bank.writing(1):
        put(bank, range(VIDEOS))
    bank.verify(np.arange(VIDEOS))
    content = bytearray((folder / name).read_bytes())
    # The last number of all rows.
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    other = FeatureBank.read(folder)
    other.verify(np.arange(VIDEOS - 1))
    message = f"the features of 1 of {VIDEOS} clips are not those that were written; remove"
    with pytest.raises(MoloError, match=message):
        other.verify(np.arange(VIDEOS))


def test_rows_are_draw_by_draw_in_the_order_of_the_list(folder):
    bank = open_bank(folder)
    places = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    wanted = [(*place, draw) for draw in range(3) for place in places]
    assert list(zip(*bank.places(np.arange(15)), strict=True)) == wanted
    classes, videos, draws = np.array(wanted).T
    assert bank.rows(classes, videos, draws).tolist() == list(range(15))
    assert bank.rows(1, [[0], [1]], [0, 2]).tolist() == [[3, 13], [4, 14]]
    assert bank.rows(1, 1) == 4


def test_more_draws_are_appended_to_those_that_are_there(folder):
    bank = open_bank(folder)
    with bank.writing(1):
        put(bank, range(VIDEOS))
    before = (folder / "features_0.npy").stat().st_mtime_ns
    with bank.writing(1):
        pass
    assert (folder / "features_0.npy").stat().st_mtime_ns == before
    with bank.writing(3):
        put(bank, [12])
    other = FeatureBank.read(folder)
    assert other.draws == 3
    assert other.missing(3).tolist() == [5, 6, 7, 8, 9, 10, 11, 13, 14]
    assert not len(other.missing(1))
    check(other, 3)
    # Fewer draws are part of more.
    with open_bank(folder).writing(2):
        pass
    assert FeatureBank.read(folder).draws == 3


def test_a_large_write_is_made_in_parts_that_every_system_takes(folder, monkeypatch):
    # macOS refuses 2 GiB in one call.
    monkeypatch.setattr(arrays, "_MOST_AT_ONCE", 100)
    sizes = []
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda n, d, o: sizes.append(len(d)) or pwrite(n, d, o))
    bank = open_bank(folder)
    with bank.writing(1):
        put(bank, range(VIDEOS))
    assert max(sizes) == 100
    check(FeatureBank.read(folder), 1)


class Killed(BaseException):
    """As if the process were gone: nothing is written any more."""


def test_a_kill_at_any_moment_leaves_a_bank_that_is_right_and_is_filled_up(
    folder, monkeypatch, tmp_path
):
    """Every call that changes a file is the last one in turn."""
    monkeypatch.setattr(store, "_MARK_SECONDS", 0.0)
    names = ["pwrite", "ftruncate", "fsync", "replace"]
    real = {name: getattr(os, name) for name in names}
    left = [0]

    def counted(name):
        def call(*arguments):
            left[0] -= 1
            if left[0] < 0:
                # Half of what was to be written is there.
                if name == "pwrite" and left[0] == -1:
                    number, data, offset = arguments
                    real[name](number, data[: len(data) // 2], offset)
                raise Killed
            return real[name](*arguments)

        return call

    def fill(bank):
        for draws in (1, 3):
            with bank.writing(draws):
                rows = bank.missing(draws)
                for part in np.array_split(rows, 3):
                    put(bank, part)

    for name in names:
        monkeypatch.setattr(os, name, counted(name))
    for calls in range(1000):
        folder = tmp_path / str(calls)
        left[0] = calls
        try:
            fill(open_bank(folder))
            break
        except Killed:
            left[0] = 10**6
            if (folder / "bank.json").exists():
                check(FeatureBank.read(folder), 3)
            bank = open_bank(folder)
            fill(bank)
            assert not len(bank.missing(3))
            check(FeatureBank.read(folder), 3)
            assert {path.name for path in folder.iterdir() if path.suffix != ".tmp"} == FILES
    # Each of the writes above has been the last one.
    assert calls > 40


def test_rows_are_marked_after_their_numbers_are_on_the_disk(folder, monkeypatch):
    monkeypatch.setattr(store, "_MARK_SECONDS", 0.0)
    bank, calls = open_bank(folder), []

    def noted(name):
        real = getattr(os, name)

        def call(number, *rest):
            calls.append((name, Path(os.readlink(f"/proc/self/fd/{number}")).name))
            return real(number, *rest)

        return call

    with bank.writing(1):
        for name in ("pwrite", "fsync"):
            monkeypatch.setattr(os, name, noted(name))
        put(bank, [2, 3])
    features = ["features_0.npy", "features_1.npy", "checks.npy"]
    assert calls == [
        *(("pwrite", name) for name in features),
        *(("fsync", name) for name in features),
        ("pwrite", "rows.npy"),
        ("fsync", "rows.npy"),
    ]


PROGRAM = """
import sys, time
from pathlib import Path
import numpy as np
from bank_values import open_bank, put
from molo_jax.bank import arrays, store
store._MARK_SECONDS = 0.0
bank = open_bank(Path(sys.argv[1]), class_sizes=(2000, 1000))
with bank.writing(1):
    print("begins", flush=True)
    for row in bank.missing(1):
        put(bank, [row])
        time.sleep(0.001)
"""


def test_a_killed_process_is_followed_by_one_that_goes_on(folder):
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    assert child.stdout.readline() == b"begins\n"
    marks = folder / "rows.npy"
    while np.load(marks).sum() < 20:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait(60) == -signal.SIGKILL
    bank = open_bank(folder, class_sizes=(2000, 1000))
    done = 3000 - len(bank.missing(1))
    assert 20 <= done < 3000
    check(bank, 1)
    # The lock of the process that is gone holds nobody up.
    assert (folder / ".lock").exists()
    with bank.writing(1):
        put(bank, bank.missing(1))
    assert not (folder / ".lock").exists()
    assert not len(FeatureBank.read(folder).missing(1))
    check(bank, 1)


def test_a_second_process_waits_and_finds_what_the_first_has_written(folder, monkeypatch, caplog):
    monkeypatch.setattr(store, "_WAIT_SECONDS", 0.01)
    caplog.set_level("INFO")
    first, second, found = open_bank(folder), open_bank(folder), []

    def write():
        with second.writing(1):
            found.extend(second.missing(1).tolist())

    with first.writing(1):
        thread = threading.Thread(target=write)
        thread.start()
        put(first, [0, 1, 2])
        while not caplog.records:
            time.sleep(0.01)
        assert thread.is_alive()
    thread.join(60)
    assert found == [3, 4]
    assert [record.getMessage() for record in caplog.records] == [
        f"process {os.getpid()} writes features into {folder}; waiting for its end"
    ]


def test_a_full_disk_is_one_clear_message_and_what_was_written_stays(folder, monkeypatch):
    bank, write = open_bank(folder), os.pwrite

    def full(number, data, offset):
        # As on a real disk: the last bytes that fit are written.
        if offset > 128 + 3 * 32 and len(data) == 32:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(number, data, offset)

    def fill():
        with bank.writing(1):
            for row in range(VIDEOS):
                put(bank, [row])

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        message = (
            r"features_0\.npy cannot be written: No space left on device; make room, then run the"
            " same command again"
        )
        with pytest.raises(MoloError, match=message):
            fill()
    bank = FeatureBank.read(folder)
    assert bank.missing(1).tolist() == [4]
    check(bank, 1)
    with bank.writing(1):
        put(bank, bank.missing(1))
    check(FeatureBank.read(folder), 1)


def test_features_for_which_there_is_no_room_are_refused_before_any_is_computed(
    folder, monkeypatch
):
    # 5 videos of 2·4·4 + 2 bytes, and a byte for each row.
    usage = type("Usage", (), {"free": 5 * 35 - 1})()
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage)
    bank = open_bank(folder)
    message = r"the features of 5 clips take 0\.0 MiB, and 0\.0 MiB are free there; make room, or"
    with pytest.raises(MoloError, match=message), bank.writing(1):
        pass
    assert not folder.parent.exists()
    usage.free += 1
    with bank.writing(1):
        put(bank, [0])


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("bank.json", lambda text: text[:40], r"bank\.json is damaged \(.*\); remove that folder"),
        ("bank.json", lambda text: b"[]", r"bank\.json is no description of one \(TypeError"),
        ("bank.json", lambda text: text.replace(b'"version": 1', b'"version": 2'), "expected"),
        ("bank.json", lambda text: text.replace(b'"draws": 1', b'"draws": 9'), "says draws 9"),
        ("bank.json", lambda text: text.replace(b'"<f4"', b'"|O"'), "type of an array"),
        ("bank.json", lambda text: text.replace(b'"array"', b'"os.system"'), "structure"),
        ("bank.json", lambda text: text.replace(b"  2\n ]", b"  -2\n ]"), "no whole number"),
        ("features_0.npy", lambda data: data[:-1], r"features_0\.npy has 287 bytes, expected 288"),
        (
            "features_0.npy",
            lambda data: data + b"x",
            r"features_0\.npy has 289 bytes, expected 288",
        ),
        ("features_1.npy", lambda data: b"?" + data[1:], r"features_1\.npy does not begin as"),
        ("features_1.npy", None, r"features_1\.npy is missing"),
        ("rows.npy", lambda data: data[:-2], r"rows\.npy has 131 bytes, expected 133"),
        ("bad.json", lambda data: b'{"videos": [[0, 7, "x"]]}', "a video that the list does not"),
        ("bad.json", lambda data: b"{", r"bad\.json is no list of videos"),
    ],
)
def test_a_damaged_bank_is_named_with_what_to_do(folder, name, damage, message):
    bank = open_bank(folder)
    with bank.writing(1):
        put(bank, range(VIDEOS))
        bank.note_bad({(0, 1): "broken"})
    path = folder / name
    if damage is None:
        path.unlink()
    else:
        before = path.read_bytes()
        path.write_bytes(damage(before))
        assert path.read_bytes() != before
    with pytest.raises(MoloError, match=message) as error:
        open_bank(folder)
    assert f"rm -r {folder}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bank_that_grows_while_it_is_opened_is_read_again(folder, monkeypatch):
    bank = open_bank(folder)
    with bank.writing(1):
        put(bank, range(VIDEOS))
    read = store.read_bad
    writers = [open_bank(folder)]

    def grown_meanwhile(*arguments):
        if writers:
            with writers.pop().writing(2):
                pass
        return read(*arguments)

    monkeypatch.setattr(store, "read_bad", grown_meanwhile)
    other = FeatureBank.read(folder)
    assert not writers
    assert (other.draws, other.missing(2).tolist()) == (2, [5, 6, 7, 8, 9])


def test_features_of_another_key_or_shape_are_never_taken(folder):
    with open_bank(folder).writing(1):
        pass
    message = "holds other features than its name says; remove that folder"
    with pytest.raises(MoloError, match=message):
        FeatureBank.open(folder, KEY | {"weights": "cd"}, {}, layout())
    with pytest.raises(MoloError, match=message):
        FeatureBank.open(folder, KEY, {}, layout(sizes=(2, 5)))
    with pytest.raises(MoloError, match=message):
        FeatureBank.open(folder, KEY, {}, layout((2, 3)))
    # What is only known beside the key does not matter.
    assert FeatureBank.open(folder, KEY, {"step": 8}, layout()).about == {"step": 8}


def test_bad_videos_are_kept_with_reasons_and_are_not_missing(folder):
    bank = open_bank(folder)
    with bank.writing(2):
        bank.note_bad({(0, 1): "no video stream"})
        bank.note_bad({(1, 1): "cut off"})
        put(bank, [0, 5])
    other = FeatureBank.read(folder)
    assert other.bad == {(0, 1): "no video stream", (1, 1): "cut off"}
    assert other.missing(2).tolist() == [2, 3, 7, 8]
    assert other.missing(2, retry_bad=True).tolist() == [1, 2, 3, 4, 6, 7, 8, 9]
    with other.writing(2):
        put(other, [9])
    assert FeatureBank.read(folder).bad == {(0, 1): "no video stream"}


def test_features_that_no_file_can_hold_are_refused():
    with pytest.raises(MoloError, match="features of the type complex64 cannot be kept on disk"):
        store.Layout.of(np.zeros((0, 2), np.complex64), (1,))
    with pytest.raises(MoloError, match="features of the type set cannot be kept in a file"):
        store.Layout.of({1, 2}, (1,))


def test_features_of_another_shape_are_not_written(folder):
    bank = open_bank(folder)
    message = r"features_0\.npy got float32 \(1, 2, 5\), expected float32 \(1, 2, 4\)"
    with bank.writing(1), pytest.raises(ValueError, match=message):
        put(bank, [0], sizes=(2, 5))
    assert len(bank.missing(1)) == VIDEOS


def test_where_there_is_no_bank_the_message_says_so(folder):
    with pytest.raises(MoloError, match=r"there is no bank of features in .*: bank\.json is miss"):
        FeatureBank.read(folder)
