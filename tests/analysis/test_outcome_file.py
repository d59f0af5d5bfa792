"""What is written is read; what is damaged is named."""

import io
import json
import zipfile

import numpy as np
import pytest
from outcomes import header, sweep

from molo_jax.analysis.outcome import Outcome
from molo_jax.analysis.outcome_file import outcome_path, read_outcomes, write_outcomes
from molo_jax.errors import MoloError


@pytest.fixture
def path(tmp_path):
    path = outcome_path(tmp_path, "test")
    write_outcomes(path, header(), sweep())
    return path


def arrays_of(path):
    with np.load(path) as archive:
        return dict(archive)


def test_outcomes_come_back_in_their_order_with_their_header(tmp_path):
    path = outcome_path(tmp_path, "ucf101_test")
    assert path.name == "eval_ucf101_test_outcomes.npz"
    written = sweep(ways=(5, 3), shots=(2, 1))
    write_outcomes(path, header(class_names=["ä"] * 6), written)
    read, found = read_outcomes(path)
    assert read == header(class_names=["ä"] * 6)
    assert list(found) == [(5, 2), (5, 1), (3, 2), (3, 1)] == list(written)
    for key, outcome in written.items():
        assert found[key].n_shot == key[1]
        np.testing.assert_array_equal(found[key].classes, outcome.classes)
        np.testing.assert_array_equal(found[key].videos, outcome.videos)
        np.testing.assert_array_equal(found[key].predicted, outcome.predicted)
        np.testing.assert_allclose(found[key].margins, outcome.margins, rtol=1e-3, atol=1e-6)
        assert found[key].accuracies.mean() == outcome.accuracies.mean()


def test_shots_share_the_videos_of_a_way_and_numbers_take_one_byte(path):
    arrays = arrays_of(path)
    assert {name for name in arrays if "videos" in name} == {"3way_videos", "5way_videos"}
    assert arrays["5way_videos"].shape == (200, 5, 3)
    assert {arrays[name].dtype.itemsize for name in arrays if "margins" not in name} == {1}
    assert arrays["5way_1shot_margins"].dtype == np.float16


def test_episodes_that_differ_between_shots_are_kept_each(tmp_path):
    one, other = sweep(draw=0), sweep(draw=1)
    mixed = {(3, 1): one[3, 1], (3, 2): other[3, 2], (5, 2): one[5, 2]}
    write_outcomes(tmp_path / "x.npz", header(), mixed)
    _, found = read_outcomes(tmp_path / "x.npz")
    for key, outcome in mixed.items():
        np.testing.assert_array_equal(found[key].videos, outcome.videos)
        np.testing.assert_array_equal(found[key].classes, outcome.classes)


def test_numbers_above_a_byte_and_margins_above_its_type_are_kept(tmp_path):
    found = sweep(ways=(3,), shots=(1,))[3, 1]
    margins = found.margins.copy()
    margins[0, 0, 0], margins[1, 0, 0] = 1e6, -1e6
    large = Outcome(found.classes, found.videos + 300, 1, found.predicted, margins)
    write_outcomes(tmp_path / "x.npz", header(), {(3, 1): large})
    _, read = read_outcomes(tmp_path / "x.npz")
    np.testing.assert_array_equal(read[3, 1].videos, large.videos)
    assert read[3, 1].margins[:2, 0, 0].tolist() == [65504, -65504]


def rewritten(path, **changes):
    arrays = arrays_of(path)
    identity = json.loads(arrays["identity"].tobytes()) | changes.pop("identity", {})
    arrays["identity"] = np.frombuffer(json.dumps(identity).encode(), np.uint8)
    np.savez(path, **(arrays | changes))


def test_a_file_is_replaced_as_a_whole(path):
    before = path.read_bytes()
    found = sweep()
    bad = dict(found)
    bad[3, 1] = Outcome(*(getattr(found[3, 1], n) for n in ("classes", "videos", "n_shot")), 0, 0)
    with pytest.raises(AttributeError):
        write_outcomes(path, header(), bad)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(MoloError, match=r"nowhere/x\.npz cannot be written: No such file"):
        write_outcomes(tmp_path / "nowhere/x.npz", header(), sweep())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.unlink(), "does not exist"),
        (lambda p: (p.unlink(), p.mkdir()), "is a folder, not a file of evaluated episodes"),
        (lambda p: p.write_bytes(b""), "is damaged"),
        (lambda p: p.write_bytes(b"text"), "is damaged"),
        (lambda p: p.write_bytes(p.read_bytes()[:-200]), "is damaged"),
        (lambda p: np.save(p.open("wb"), np.arange(3)), "is damaged or no file of episodes"),
        (lambda p: np.savez(p, a=np.arange(3)), "is damaged or no file of episodes"),
        (
            lambda p: rewritten(p, identity={"version": 9}),
            "is of format version 9, and this program",
        ),
        (lambda p: rewritten(p, identity={"kind": "x"}), "its kind is 'x'"),
        (lambda p: rewritten(p, identity={"cells": [{"way": 3}]}), "is damaged or no file"),
        (lambda p: rewritten(p, identity={"cells": 3}), "is damaged or no file"),
        (lambda p: rewritten(p, identity={"header": []}), "is damaged or no file"),
        (
            lambda p: rewritten(p, **{"3way_1shot_margins": np.zeros((2, 3, 1))}),
            r"margins have shape \(2, 3, 1\), expected \(200, 3, 1\)",
        ),
        (
            lambda p: rewritten(p, **{"3way_1shot_predicted": np.full((200, 3, 1), 3)}),
            "it has labels or classes that do not exist",
        ),
    ],
)
def test_what_is_no_such_file_is_said_in_one_message(path, damage, message):
    damage(path)
    with pytest.raises(MoloError, match=message) as error:
        read_outcomes(path)
    assert str(path) in str(error.value)


def test_nothing_of_a_stranger_is_run(path):
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    rewritten(path, **{"3way_classes": np.array([Evil()], dtype=object)})
    with pytest.raises(MoloError, match="is damaged or no file of episodes"):
        read_outcomes(path)


def test_a_flipped_byte_is_found(path):
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("5way_1shot_predicted.npy").header_offset + 80
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(io.BytesIO(content).getvalue())
    with pytest.raises(MoloError, match="is damaged"):
        read_outcomes(path)
