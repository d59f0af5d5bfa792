import json
import re
import shutil
import subprocess
import sys
import textwrap
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from molo_jax.engine.checkpoint import Checkpoints
from molo_jax.engine.plain_trees import from_plain, to_plain
from molo_jax.errors import MoloError

HERE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


class Moments(NamedTuple):
    mu: nnx.State
    count: jax.Array


def model_tree(scale=1.0):
    params = nnx.State({"conv": {"kernel": nnx.Param(scale * jnp.arange(6.0).reshape(2, 3))}})
    stats = nnx.State({"bn": {"mean": nnx.BatchStat(jnp.array([0.1, -0.7]) * scale)}})
    return {"params": params, "batch_stats": stats}


def optimizer_tree(scale=1.0):
    mu = nnx.State({"conv": {"kernel": nnx.Param(scale * jnp.full((2, 3), 1 / 3))}})
    return {"opt_state": ((), Moments(mu, jnp.int32(5))), "step": jnp.int32(7)}


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def save(folder, step, scale=1.0, **meta):
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(step, meta=meta, model=model_tree(scale), optimizer=optimizer_tree(scale))


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ([], "its record is '[]'"),
        ({"seen": None}, "its seen is 'null'"),
        ({"trained_on": 5}, "its trained_on is '5'"),
        ({"config": ["a"]}, "its config is "),
        ({"step": "three"}, "its step is "),
    ],
)
def test_a_record_with_values_of_other_types_is_damaged(tmp_path, meta, said):
    save(tmp_path, 7, config={}, trained_on=[])
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.meta(7) == {"config": {}, "trained_on": []}
        (tmp_path / "7/meta/metadata").write_text(json.dumps(meta))
        with pytest.raises(MoloError, match=f"{tmp_path}/7 is damaged: {re.escape(said)}"):
            checkpoints.meta(7)


def test_restored_trees_equal_the_saved_ones_in_structure_and_in_every_bit(tmp_path):
    save(tmp_path, 7)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.latest_step() == 7
        targets = {"model": model_tree(0.0), "optimizer": optimizer_tree(0.0)}
        restored = checkpoints.restore(7, targets, HERE)
    for name, saved in (("model", model_tree()), ("optimizer", optimizer_tree())):
        assert jax.tree.structure(restored[name]) == jax.tree.structure(saved)
        for mine, theirs in zip(leaves(restored[name]), leaves(saved), strict=True):
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs)


def test_plain_trees_are_named_by_module_path_and_parameter():
    plain = to_plain(model_tree())
    assert list(plain) == ["batch_stats", "params"]
    np.testing.assert_array_equal(plain["batch_stats"]["bn"]["mean"], np.float32([0.1, -0.7]))
    assert plain["params"]["conv"]["kernel"].shape == (2, 3)
    again = from_plain(model_tree(0.0), plain)
    np.testing.assert_array_equal(leaves(again)[0], leaves(model_tree())[0])


def test_meta_comes_back_as_json(tmp_path):
    save(tmp_path, 3, val_accuracy=0.25, config={"shots": [1, 5]})
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.meta(3) == {"val_accuracy": 0.25, "config": {"shots": [1, 5]}}


def test_meta_can_be_replaced_and_the_weights_stay(tmp_path):
    save(tmp_path, 3, val_accuracy=1.0)
    files = sorted((tmp_path / "3").rglob("*"))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.replace_meta(3, {"val_accuracy": 0.75})
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.meta(3) == {"val_accuracy": 0.75}
        model = checkpoints.restore(3, {"model": model_tree(0.0)}, HERE)["model"]
    np.testing.assert_array_equal(leaves(model)[1], leaves(model_tree())[1])
    assert sorted((tmp_path / "3").rglob("*")) == files


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    for step in (2, 4, 6):
        save(tmp_path, step)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit()) == ["4", "6"]


def test_a_step_below_the_newest_is_an_error_and_not_dropped_silently(tmp_path):
    save(tmp_path, 6)
    with pytest.raises(MoloError, match=r"/4 was not saved: .* holds a later one"):
        save(tmp_path, 4)


def test_a_disk_without_room_is_an_error_before_anything_is_written(tmp_path, monkeypatch):
    full = shutil.disk_usage(tmp_path)._replace(free=3 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with Checkpoints(tmp_path) as checkpoints:
        model = {"kernel": jnp.zeros((2**20,))}
        with pytest.raises(MoloError, match="takes up to 4 MiB, and 3 MiB are free"):
            checkpoints.save(2, meta={}, model=model)
        assert checkpoints.latest_step() is None


def test_what_another_folder_is_writing_needs_room_too(tmp_path, monkeypatch):
    full = shutil.disk_usage(tmp_path)._replace(free=7 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    model = {"kernel": jnp.zeros((2**20,))}
    with Checkpoints(tmp_path / "best") as best, Checkpoints(tmp_path / "last") as last:
        best.save(2, meta={}, model=model)
        message = "takes up to 4 MiB, beside 4 MiB that are being written, and 7 MiB are free"
        with pytest.raises(MoloError, match=message):
            last.save(2, meta={}, model=model)
        best.wait()
        last.save(2, meta={}, model=model)


def test_a_folder_that_is_gone_is_one_error(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        shutil.rmtree(tmp_path / "c")
        with pytest.raises(MoloError, match=r"no checkpoint can be saved in .*/c: No such file"):
            checkpoints.save(2, meta={}, model=model_tree())


def test_the_newest_complete_step_is_none_that_is_being_written(tmp_path):
    save(tmp_path, 3)
    with Checkpoints(tmp_path) as checkpoints:
        manager = checkpoints._manager
        checkpoints._manager = SimpleNamespace(all_steps=lambda: [3, 4])
        checkpoints._writing = 4
        assert checkpoints.latest_step() == 3
        (tmp_path / "4").mkdir()
        assert checkpoints.latest_step() == 4
        (tmp_path / "4").rmdir()
        checkpoints._manager, checkpoints._writing = manager, None


def test_saving_a_step_twice_keeps_the_first(tmp_path):
    save(tmp_path, 2, scale=1.0)
    save(tmp_path, 2, scale=9.0)
    with Checkpoints(tmp_path) as checkpoints:
        model = checkpoints.restore(2, {"model": model_tree(0.0)}, HERE)["model"]
    np.testing.assert_array_equal(leaves(model)[1], leaves(model_tree(1.0))[1])


def test_a_relative_folder_is_saved_where_the_process_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path.__class__("runs/x"), 2)
    assert (tmp_path / "runs/x/2").is_dir()


def test_a_folder_that_does_not_exist_has_no_latest_step_and_stays_absent(tmp_path):
    with Checkpoints(tmp_path / "none", read_only=True) as checkpoints:
        assert checkpoints.latest_step() is None
    assert not (tmp_path / "none").exists()


def test_restoring_names_tensors_of_another_shape(tmp_path):
    save(tmp_path, 2)
    target = model_tree()
    target["batch_stats"] = nnx.State({"bn": {"mean": nnx.BatchStat(jnp.zeros(3))}})
    message = r"batch_stats/bn/mean has shape \(2,\), expected \(3,\)"
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(MoloError, match=message):
        checkpoints.restore(2, {"model": target}, HERE)


def test_restoring_names_tensors_that_are_missing_or_not_expected(tmp_path):
    save(tmp_path, 2)
    target = model_tree()
    target["params"] = nnx.State({"fc": {"kernel": nnx.Param(jnp.zeros(3))}})
    message = "params/fc/kernel is missing; params/conv/kernel is not expected"
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(MoloError, match=message):
        checkpoints.restore(2, {"model": target}, HERE)


def test_a_checkpoint_without_optimizer_cannot_be_trained_on(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, meta={}, model=model_tree())
        with pytest.raises(MoloError, match="has no optimizer state"):
            checkpoints.restore(2, {"optimizer": optimizer_tree()}, HERE)


@pytest.mark.parametrize("damage", ["truncate", "remove", "garbage"])
def test_a_damaged_checkpoint_is_one_error_that_names_its_folder(tmp_path, damage):
    save(tmp_path, 2)
    for file in (tmp_path / "2/model").rglob("*"):
        if not file.is_file():
            continue
        if damage == "remove":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[:20] if damage == "truncate" else b"x" * 99)
    message = f"the checkpoint {tmp_path}/2 cannot be read .* remove this folder"
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(MoloError, match=message):
        checkpoints.restore(2, {"model": model_tree()}, HERE)


@pytest.mark.parametrize("value", [jnp.inf, jnp.nan])
def test_values_that_are_not_finite_are_named_with_their_checkpoint(tmp_path, value):
    save(tmp_path, 7, scale=value)
    message = f"{tmp_path}/7 is of no use: its model holds .* not finite .*in batch_stats/bn/mean"
    with (
        Checkpoints(tmp_path, read_only=True) as checkpoints,
        pytest.raises(MoloError, match=message),
    ):
        checkpoints.restore(7, {"model": model_tree()}, HERE)


def test_a_folder_without_a_checkpoint_is_removed_and_one_with_it_stays(tmp_path):
    with Checkpoints(tmp_path / "none"):
        assert (tmp_path / "none").is_dir()
    assert not (tmp_path / "none").exists()
    save(tmp_path / "some", 7)
    assert (tmp_path / "some/7").is_dir()


def test_the_reason_of_a_failed_save_is_that_of_the_operating_system(tmp_path, monkeypatch):
    quoted = "RESOURCE_EXHAUSTED: Error writing \"x\": Failed to write [os_error_code='28']\nmore"
    with Checkpoints(tmp_path / "c") as checkpoints:
        unfinished = tmp_path / "c/7.orbax-checkpoint-tmp"

        def fail(*_, **__):
            unfinished.mkdir()
            raise ValueError(quoted)

        monkeypatch.setattr(checkpoints._manager, "save", fail)
        message = "c/7 cannot be saved: No space left on device; make room, then run the same"
        with pytest.raises(MoloError, match=message):
            checkpoints.save(7, meta={}, model=model_tree())
        assert not unfinished.exists()
        assert checkpoints.saved_step is None


@pytest.mark.parametrize("asked_by", ["save", "wait", "close"])
def test_what_fails_in_the_background_is_one_error_of_whatever_comes_next(tmp_path, asked_by):
    unfinished = tmp_path / "c/7.orbax-checkpoint-tmp"
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(7, meta={}, model=model_tree())
    finished = checkpoints._manager.wait_until_finished

    def fail():
        finished()
        (tmp_path / "c/7").rename(unfinished)
        raise ValueError("RESOURCE_EXHAUSTED [os_error_code='28']\nmore")

    checkpoints._manager.wait_until_finished = fail
    arguments = [8] if asked_by == "save" else []
    named = {"meta": {}, "model": model_tree()} if asked_by == "save" else {}
    with pytest.raises(MoloError, match="c/7 cannot be saved: No space left on device; make room"):
        getattr(checkpoints, asked_by)(*arguments, **named)
    assert not unfinished.exists()
    assert checkpoints.saved_step is None
    if asked_by == "close":
        assert not (tmp_path / "c").exists()
    checkpoints._manager = None


def test_arrays_may_be_given_away_while_they_are_written(tmp_path):
    add = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    state = {str(i): jnp.zeros((500, 1000)) for i in range(8)}
    with Checkpoints(tmp_path, keep=20) as checkpoints:
        for step in range(1, 9):
            checkpoints.save(step, meta={}, model=state)
            for _ in range(3):
                state = add(state)
        checkpoints.wait()
        for step in range(1, 9):
            found = checkpoints.restore(step, {"model": state}, HERE)["model"]
            for leaf in leaves(found):
                np.testing.assert_array_equal(leaf, 3.0 * (step - 1))


def test_a_checkpoint_counts_as_saved_when_all_of_it_is_on_disk(tmp_path):
    save(tmp_path, 3)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.saved_step == 3
        checkpoints._writing = 4
        assert checkpoints.saved_step == 3
        (tmp_path / "4").mkdir()
        assert checkpoints.saved_step == 4
        (tmp_path / "4").rmdir()
        checkpoints._writing = None


def test_a_damaged_meta_is_one_error(tmp_path):
    save(tmp_path, 2)
    (tmp_path / "2/meta/metadata").write_text("{")
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(MoloError, match="cannot be read"):
        checkpoints.meta(2)


def test_a_process_killed_while_saving_leaves_a_complete_earlier_checkpoint(tmp_path):
    # The child saves steps 1, 2, ... without end; the arrays of step s are full of s.
    program = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        import jax.numpy as jnp
        from molo_jax.engine.checkpoint import Checkpoints
        with Checkpoints(Path({str(tmp_path)!r})) as checkpoints:
            for step in range(1, 10000):
                tree = {{str(i): jnp.full((50, 1000), step) for i in range(20)}}
                checkpoints.save(step, meta={{}}, model=tree)
                # Waited for the one before.
                print(step - 1, flush=True)
    """)
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    while int(child.stdout.readline()) < 5:
        pass
    child.kill()
    child.wait()
    target = {str(i): jnp.zeros((50, 1000), jnp.int32) for i in range(20)}
    with Checkpoints(tmp_path) as checkpoints:
        step = checkpoints.latest_step()
        restored = checkpoints.restore(step, {"model": target}, HERE)["model"]
        assert step >= 5
        for leaf in leaves(restored):
            np.testing.assert_array_equal(leaf, step)
        checkpoints.save(step + 1, meta={}, model=target)
        checkpoints.wait()
        assert checkpoints.latest_step() == step + 1
