"""The file of a classifier: what is written is read."""

import dataclasses
import pickle

import jax
import numpy as np
import pytest
from archives import NAME, STRUCTURE, clip, contents, record

from molo_jax import files
from molo_jax.errors import MoloError
from molo_jax.methods.molo_outputs import Tokens
from molo_jax.prediction.archive import check_features, read_archive, write_archive


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "gym.molo"
    write_archive(path, record())
    return path


def test_everything_is_read_as_it_was_written(path):
    written, read = record(), read_archive(path)
    for field in ("settings", "rule", "digest", "source", "origin", "calibration", "version"):
        assert getattr(read, field) == getattr(written, field)
    assert list(read.clips) == list(written.clips)
    for name, clips in written.clips.items():
        assert len(read.clips[name]) == len(clips)
        for found, expected in zip(read.clips[name], clips, strict=True):
            assert (found.name, found.digest) == (expected.name, expected.digest)
            assert isinstance(found.features, Tokens)
            for one, other in zip(
                jax.tree.leaves(found.features), jax.tree.leaves(expected.features), strict=True
            ):
                np.testing.assert_array_equal(one, other)
                assert one.dtype == np.float32
            np.testing.assert_array_equal(found.numbers, expected.numbers)
            # JPEG is not exact; another frame would differ by 20 in one color.
            assert found.thumbnails.shape == expected.thumbnails.shape
            error = found.thumbnails.astype(int) - expected.thumbnails
            assert np.abs(error).mean() < 3
            if expected.seconds is None:
                assert found.seconds is None
            else:
                np.testing.assert_array_equal(found.seconds, expected.seconds)
    assert list(read.weights) == list(written.weights)
    for place, value in written.weights.items():
        np.testing.assert_array_equal(read.weights[place], value)
        assert read.weights[place].shape == np.shape(value)


def test_a_file_without_weights_is_small_and_says_so(tmp_path):
    path = tmp_path / "x.molo"
    write_archive(path, record(weights=None))
    assert read_archive(path).weights is None
    assert not [name for name in contents(path) if name.startswith("weights")]


def test_the_same_record_gives_the_same_bytes_and_no_pickle(path, tmp_path):
    again = tmp_path / "again.molo"
    write_archive(again, record())
    assert again.read_bytes() == path.read_bytes()
    for name, data in contents(path).items():
        assert name == NAME or data.startswith(b"\x93NUMPY\x01\x00")
        with pytest.raises(pickle.UnpicklingError):
            pickle.loads(data)


def test_names_of_numpy_are_texts(tmp_path):
    path = tmp_path / "x.molo"
    names = np.array(["squat", "lunge"])
    write_archive(path, record(clips={name: [clip(np.str_("a"), 1)] for name in names}))
    assert list(read_archive(path).clips) == ["squat", "lunge"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clips": {"a\nb": []}}, r"the name of class 0 is 'a\\nb', expected 1 to 4096 characters"),
        ({"clips": {"": []}}, "the name of class 0 is '', expected 1 to"),
        ({"digest": "short"}, "the digest of the network is 'short', expected 64 hexadecimal"),
        ({"calibration": {"threshold": float("nan")}}, "calibration 'threshold' is 'nan', expect"),
        ({"calibration": {"threshold": [1]}}, r"calibration 'threshold' is '\[1\]', expected"),
        ({"weights": {("a",): np.array([np.inf])}}, "weights/0.npy has numbers that are not fin"),
        ({"weights": {("a",): np.array(["x"])}}, "weights/0 is of the type <U1, which"),
        ({"settings": {"method": "otam", "x": object()}}, "'x' is no setting of otam"),
        ({"calibration": {"x": object()}}, "calibration 'x' is '<object"),
    ],
)
def test_what_could_not_be_read_is_not_written(tmp_path, changes, message):
    path = tmp_path / "x.molo"
    path.write_text("old")
    with pytest.raises(MoloError, match=message) as error:
        write_archive(path, record(**changes))
    assert str(error.value).startswith(f"{path} is not written: ")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x.molo", "old")]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(path, tmp_path, monkeypatch):
    old = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(MoloError, match=r"gym\.molo cannot be written: No space left.*make room"):
        write_archive(path, record())
    assert [p.name for p in tmp_path.iterdir()] == ["gym.molo"]
    assert path.read_bytes() == old


def test_features_of_another_network_do_not_fit_its_structure(path):
    read = read_archive(path)
    check_features(path, read, STRUCTURE)
    wrong = dataclasses.replace(STRUCTURE, motion=jax.ShapeDtypeStruct((3, 6), np.float32))
    with pytest.raises(MoloError) as error:
        check_features(path, read, wrong)
    assert str(error.value) == (
        f"{path} does not fit its own settings: the features of the clip 'a.mp4' are"
        " float32[4, 5] and float32[3, 5], expected float32[4, 5] and float32[3, 6]; save the"
        " classifier again"
    )
    with pytest.raises(MoloError, match=r"expected float32\[4, 5\]; save"):
        check_features(path, read, STRUCTURE.appearance)
    with pytest.raises(MoloError, match="does not fit its own settings"):
        check_features(path, read, (STRUCTURE.appearance, STRUCTURE.motion))


@pytest.mark.parametrize(
    "features",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        (np.arange(3.0), [np.arange(4, dtype=np.int32), None]),
        {"b": np.zeros((1, 2), np.float32), "a": (np.ones(3),)},
        Tokens(appearance=None, motion=np.ones((3, 5), np.float32)),
    ],
    ids=["array", "tuple", "dictionary", "one stream"],
)
def test_the_features_of_any_method_keep_their_structure(tmp_path, features):
    path = tmp_path / "x.molo"
    whole = dataclasses.replace(clip("a", 1), features=features)
    write_archive(path, record(clips={"a": [whole]}))
    found = read_archive(path).clips["a"][0].features
    assert jax.tree.structure(found) == jax.tree.structure(features)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(features), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
