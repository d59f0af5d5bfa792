from pathlib import Path

import numpy as np
import pytest
from bank_values import layout

from molo_jax.bank.key import BankKey, bank_key, differences, weights_digest
from molo_jax.bank.store import FeatureBank

WEIGHTS = {
    ("params", "kernel"): np.arange(6, dtype=np.float32).reshape(2, 3),
    ("batch_stats", "mean"): np.float32(0.5),
}
ARGUMENTS = {
    "weights": WEIGHTS,
    "seen": {"data.num_frames": 8, "data.crop": 224, "method.streams": "both", "precision": "tf32"},
    "method": "molo",
    "backbone": "resnet50",
    "dataset": "ssv2",
    "split": "test",
    "list_digest": "11",
    "data": "22",
    "sampling": "segments",
    "seed": 0,
}
OTHER = {
    "weights": WEIGHTS | {("batch_stats", "mean"): np.float32(0.25)},
    "seen": ARGUMENTS["seen"] | {"data.crop": 112},
    "method": "otam",
    "backbone": "resnet18",
    "dataset": "ucf101",
    "split": "val",
    "list_digest": "12",
    "data": "23",
    "sampling": "window",
    "seed": 1,
    "static": True,
}


def key(**changes) -> BankKey:
    return bank_key(**{**ARGUMENTS, **changes})


@pytest.mark.parametrize("name", OTHER)
def test_whatever_features_depend_on_gives_another_folder(name, tmp_path):
    changed = key(**{name: OTHER[name]})
    assert changed.digest != key().digest
    assert changed.folder(tmp_path) != key().folder(tmp_path)
    assert key(about={"step": 5}).digest == key().digest


def test_the_seed_matters_only_where_frames_are_drawn():
    fixed = {"sampling": "window_middle"}
    assert key(**fixed, seed=1).digest == key(**fixed, seed=2).digest


def test_the_folder_has_the_names_and_sixteen_digits_and_lies_below_its_root():
    folder = key(dataset="../my data").folder(Path("/w/bank"))
    assert folder.parent == Path("/w/bank")
    name, digits = folder.name.rsplit("_", 1)
    assert name == "-my-data_test"
    assert len(digits) == 16
    assert int(digits, 16) >= 0


def test_the_digest_of_weights_is_that_of_names_types_shapes_and_bytes():
    digest = weights_digest(WEIGHTS)
    assert weights_digest(dict(reversed(WEIGHTS.items()))) == digest
    kernel, mean = WEIGHTS
    for changed in (
        {kernel: WEIGHTS[kernel].reshape(3, 2), mean: WEIGHTS[mean]},
        {kernel: WEIGHTS[kernel].view(np.int32), mean: WEIGHTS[mean]},
        {("params", "other"): WEIGHTS[kernel], mean: WEIGHTS[mean]},
        {kernel: WEIGHTS[kernel] + np.float32(1e-6), mean: WEIGHTS[mean]},
        {kernel: WEIGHTS[kernel]},
    ):
        assert weights_digest(changed) != digest
    # By columns in memory, and the same numbers.
    same = {kernel: np.asfortranarray(WEIGHTS[kernel]), mean: WEIGHTS[mean]}
    assert weights_digest(same) == digest


def make(root: Path, made: BankKey) -> None:
    bank = FeatureBank.open(made.folder(root), made.values, made.about, layout())
    with bank.writing(1):
        pass


def test_one_line_says_what_the_most_similar_bank_differs_in(tmp_path):
    wanted = key(about={"step": 1200})
    assert differences(tmp_path, wanted) == ""
    make(tmp_path, wanted)
    # The bank itself is no other one.
    assert differences(tmp_path, wanted) == ""
    make(tmp_path, key(weights=OTHER["weights"], data="23", seed=4, about={"step": 900}))
    nearest = key(weights=OTHER["weights"], about={"step": 1000})
    make(tmp_path, nearest)
    line = differences(tmp_path, wanted)
    assert line == (
        f"{nearest.folder(tmp_path).name} has other features: weights of step 1000 -> 1200"
        f" (2 other banks take 0 MiB in {tmp_path}, which can be removed)"
    )


def test_long_differences_are_shortened_and_damaged_banks_are_passed_over(tmp_path):
    broken = tmp_path / "ssv2_test_00" / "bank.json"
    broken.parent.mkdir()
    broken.write_text("{")
    assert differences(tmp_path, key()) == ""
    seen = {"data.num_frames": 8, "data.crop": 1, "precision": "x" * 90, "method.matching": "dtw"}
    make(tmp_path, key(method="otam", seen=seen, dataset="ucf101", data="7", seed=3))
    line = differences(tmp_path, key())
    assert "; and 2 more (1 other bank takes 0 MiB" in line
    assert "weights" not in line
    assert "data.crop 1 -> 224; " in line
    assert f"precision {'x' * 60}… -> tf32; " in line
    # The settings of another method are other ones anyway.
    assert "method.matching" not in line
