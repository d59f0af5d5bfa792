"""The command that embeds every clip of a split once."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet
import pytest
import thin_backbone
from ml_collections import ConfigDict
from thin_backbone import THIN

from molo_jax import build, embed_run, evaluate
from molo_jax.bank.targets import parse_export
from molo_jax.cli import load_config
from molo_jax.data.clips.episodes import clip_of_draw
from molo_jax.engine.checkpoint import Checkpoints
from molo_jax.engine.state import create_model
from molo_jax.errors import MoloError, UsageError
from molo_jax.evaluator import Evaluator
from molo_jax.methods.settings import OTAMSettings

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs/synthetic.py"
SETTINGS = OTAMSettings(num_classes=3, backbone=THIN.name)
CHANGES = {
    "model.backbone": THIN.name,
    "data.source": "videos",
    "data.num_frames": 2,
    "data.resize": 32,
    "data.crop": 32,
    "data.workers": 1,
    "eval.clip_batch": 5,
    # Clips need no episodes: there are not so many classes.
    "eval.n_way": 50,
}


@pytest.fixture(scope="module", autouse=True)
def _thin_backbone():
    with thin_backbone.registered():
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A work folder with a network."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    save(folder, step=7, seed=3)
    return folder


def save(folder: Path, step: int, seed: int) -> None:
    _, params, batch_stats = create_model(SETTINGS, seed)
    with Checkpoints(folder / "best") as checkpoints:
        model = {"params": params, "batch_stats": batch_stats}
        checkpoints.save(step, meta={"architecture": SETTINGS.to_json()}, model=model)


@pytest.fixture
def workdir(trained, tmp_path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def changes(data: Path, **more) -> dict:
    places = {"data.root": f"{data}/videos", "data.split_dir": f"{data}/splits"}
    return CHANGES | places | {name.replace("__", "."): value for name, value in more.items()}


def changed_config(data: Path, **more) -> ConfigDict:
    config = load_config(f"{CONFIG}:otam")
    config.update_from_flattened_dict(changes(data, **more))
    return config


def evaluation(data: Path, split: str = "test", **more) -> evaluate.Evaluation:
    return build.embedding(changed_config(data, **more), split)


def banks(workdir: Path) -> list[Path]:
    return sorted((workdir / "bank").iterdir())


def run(data: Path, workdir: Path, *extra: str) -> subprocess.CompletedProcess:
    overrides = [f"--config.{key}={value}" for key, value in changes(data).items()]
    command = [sys.executable, thin_backbone.PROGRAM, "molo_jax.embed", f"--config={CONFIG}:otam"]
    command += [f"--workdir={workdir}", *overrides, *extra]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=workdir)


def test_the_command_embeds_once_exports_and_finds_the_features_again(motion_data, workdir):
    exports = ["--export=features.npz", "--export=features.parquet", "--export=projector:points"]
    first = run(motion_data, workdir, "--split=val", "--draws=2", *exports)
    assert first.returncode == 0, first.stderr
    (bank,) = banks(workdir)
    assert bank.name.startswith("synthetic_val_")
    assert f"24 of 24 clips are to be embedded into {bank}" in first.stderr
    lines = first.stdout.splitlines()
    assert lines[0].startswith(f"{bank}: features of 24 clips, ")
    assert lines[1].startswith("features.npz: 24 clips, ")
    assert lines[3] == "points: 24 points; tensorboard --logdir=points shows them"

    given = evaluation(motion_data, "val")
    network = embed_run.load_network("", workdir, given.method, given.data.mesh)
    places = [(c, v, k) for k in range(2) for c in range(3) for v in range(4)]
    clips = [clip_of_draw(given.seed, "val", 2, *place) for place in places]
    evaluator = Evaluator(given.data, network.graphdef)
    wanted = np.zeros((24, 2, THIN.width), np.float32)
    for positions, found in evaluator.embed(network.params, network.batch_stats, clips):
        wanted[positions] = jax.tree.leaves(found)[0]
    assert np.abs(wanted).max() > 0.1
    # Draws of one video are other frames.
    assert not np.allclose(wanted[:12], wanted[12:])
    with np.load(workdir / "features.npz") as found:
        np.testing.assert_allclose(found["features"], wanted, rtol=1e-5, atol=1e-6)
        assert found["draw"].tolist() == [0] * 12 + [1] * 12
        assert found["class"][5] == "val_motion5"
        assert found["video"][5] == "val_motion5/1.mp4"
        assert found["class_id"].tolist() == ([3] * 4 + [5] * 4 + [8] * 4) * 2
    table = pyarrow.parquet.read_table(workdir / "features.parquet")
    parquet = np.stack(table["features"].to_numpy()).reshape(24, 2, THIN.width)
    np.testing.assert_allclose(parquet, wanted, rtol=1e-5, atol=1e-6)
    points = np.loadtxt(workdir / "points/tensors.tsv", delimiter="\t")
    np.testing.assert_allclose(points, wanted.mean(axis=1), rtol=1e-4, atol=1e-5)

    second = run(motion_data, workdir, "--split=val")
    assert second.returncode == 0, second.stderr
    assert f"the features of {bank} are used" in second.stderr
    assert "embedded into" not in second.stderr
    assert second.stdout.startswith(f"{bank}: features of 12 clips, ")


def test_an_evaluation_takes_the_features_that_the_command_has_made(motion_data, workdir, caplog):
    caplog.set_level("INFO")
    made = embed_run.embed(evaluation(motion_data), workdir, 2)
    caplog.clear()
    settings = {"eval__frame_draw": "video", "eval__n_way": 3, "eval__episodes": 5}
    config = changed_config(motion_data, eval__shots=(1,), eval__controls=(), **settings)
    evaluate.evaluate(build.evaluation(config), workdir)
    assert f"the features of {made.folder} are used" in caplog.text
    assert "to be embedded" not in caplog.text
    assert banks(workdir) == [made.folder]


def test_other_weights_or_data_are_never_mixed_with_the_old_features(
    motion_data, workdir, tmp_path, caplog
):
    caplog.set_level("INFO")
    data = tmp_path / "data"
    shutil.copytree(motion_data, data, copy_function=shutil.copy2)
    first = embed_run.embed(evaluation(data), workdir, 1)
    assert "has other features" not in caplog.text
    save(workdir, step=9, seed=4)
    second = embed_run.embed(evaluation(data), workdir, 1)
    assert "has other features: weights of step 7 -> 9 (1 other bank takes" in caplog.text
    changed = data / "videos/test_motion5/2.mp4"
    os.utime(changed, ns=(0, 0))
    third = embed_run.embed(evaluation(data), workdir, 1)
    assert "has other features: the videos of the split changed (2 other banks" in caplog.text
    assert len({first.folder, second.folder, third.folder}) == len(banks(workdir)) == 3
    old, new, same = (bank.features() for bank in (first, second, third))
    leaves = [np.asarray(jax.tree.leaves(found)[0]) for found in (old, new, same)]
    assert not np.allclose(leaves[0], leaves[1])
    np.testing.assert_array_equal(leaves[1], leaves[2])
    # Another place of the same files is no change.
    moved = tmp_path / "moved"
    data.rename(moved)
    fourth = embed_run.embed(evaluation(moved), workdir, 1)
    assert fourth.folder == third.folder


def test_a_bad_video_is_left_out_and_not_read_again(motion_data, workdir, tmp_path, caplog, capsys):
    data = tmp_path / "data"
    shutil.copytree(motion_data, data, copy_function=shutil.copy2)
    (data / "videos/test_motion8/1.mp4").write_text("not a video")
    with pytest.raises(MoloError, match=r"test_motion8/1\.mp4"):
        embed_run.embed(evaluation(data), workdir, 1)
    path = tmp_path / "features.npz"
    given = evaluation(data, data__on_bad_video="skip")
    bank = embed_run.embed(given, workdir, 2, [(".npz", path)])
    ((place, reason),) = bank.bad.items()
    assert place == (2, 1)
    assert reason
    assert "1 videos of the split were left out as unusable" in caplog.text
    assert f"{path}: 22 clips" in capsys.readouterr().out
    with np.load(path) as found:
        assert "test_motion8/1.mp4" not in found["video"]
    again = evaluation(data, data__on_bad_video="skip")
    again.data.dataset._read = None
    assert embed_run.embed(again, workdir, 2).bad == bank.bad
    assert again.data.dataset.is_bad(2, 1)


def test_a_window_in_the_middle_has_one_draw(motion_data, workdir):
    given = evaluation(motion_data, data__sampling="window")
    with pytest.raises(UsageError, match="draws is 2, but the window in the middle of a video"):
        embed_run.embed(given, workdir, 2)
    with pytest.raises(UsageError, match="draws is 1001; expected 1 to 1,000"):
        embed_run.embed(given, workdir, 1001)
    assert not (workdir / "bank").exists()


def test_where_features_cannot_be_exported_to_is_said_before_the_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.npz").mkdir()
    for text, message in {
        "features.csv": r"expected a file \.npz or \.parquet, or projector:FOLDER",
        "projector:": "projector:FOLDER",
        "none/features.npz": "expected a file in a folder that exists",
        "projector:none/points": "expected a folder in a folder that exists",
        "folder.npz": "expected a file in a folder that exists",
    }.items():
        with pytest.raises(UsageError, match=rf"--export={text}: .*{message}"):
            parse_export(text)
    assert parse_export("a.PARQUET") == (".parquet", Path("a.PARQUET"))
    assert parse_export("projector:a.npz") == ("projector", Path("a.npz"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/mine.txt").touch()
    with pytest.raises(MoloError, match=r"mine holds other things than a projector"):
        embed_run.check_exports([parse_export("projector:mine")])


def test_without_pyarrow_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = r"pyarrow is needed; install it with: pip install 'molo-jax\[parquet\]', or export a"
    with pytest.raises(MoloError, match=message):
        parse_export("features.parquet")
    assert parse_export("features.npz")[0] == ".npz"
