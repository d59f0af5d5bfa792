"""The benchmarks of sweeps, banks and draws: what they print follows from what they measure."""

import json
import re
from pathlib import Path

import pytest
from programs import run

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
TINY = ["--episodes=9", "--direct_episodes=3", "--classes=3", "--videos=4", "--frames=3"]


def test_every_method_has_a_row_whose_parts_add_up(tmp_path):
    path = tmp_path / "numbers.json"
    options = ["--method=hyrsm,molo", "--ways=2,3", "--shots=1,2", "--batch=2", f"--json={path}"]
    result = run(FOLDER / "sweep.py", *TINY, *options)
    assert result.returncode == 0, result.stderr
    molo, hyrsm = json.loads(path.read_text())["rows"]
    assert (molo["method"], molo["table"], molo["measured"]) == ("molo", True, 1.0)
    assert (hyrsm["method"], hyrsm["table"]) == ("hyrsm", False)
    # Two batches of two.
    assert hyrsm["measured"] == pytest.approx(4 / 9)
    for row in (molo, hyrsm):
        parts = row["draw"] + row["match"] + row["statistics"]
        assert row["total"] == pytest.approx(parts)
        assert row["ratio"] == pytest.approx(row["total"] / molo["total"])
    # 12 clips of a global token, 3 frames, and another one with 2 differences of frames.
    assert molo["features"] == 12 * (4 + 3) * 512 * 4
    printed = dict(re.findall(r"^\| (MoLo|HyRSM) \| (\S+) \|", result.stdout, re.M))
    assert printed == {"MoLo": f"{molo['total']:.1f}", "HyRSM": f"{hyrsm['total']:.1f}"}


def test_a_split_that_is_too_small_for_the_episodes_is_refused():
    result = run(FOLDER / "sweep.py", *TINY, "--ways=4", "--shots=1")
    assert result.returncode == 2
    assert "--classes is 3; such episodes need at least 4" in result.stderr


def test_both_ways_predict_the_same_and_the_ratio_is_theirs(tmp_path):
    path = tmp_path / "numbers.json"
    small = ["--episodes=100", "--videos=48", "--measured_episodes=1", "--repeats=1", "--way=2"]
    small += ["--classes=3", "--measured_videos=6"]
    kind = ["--backbone=resnet18", "--kind=ucf101", "--seconds_scale=0.1"]
    places = [f"--clips={tmp_path / 'clips'}", f"--json={path}"]
    result = run(FOLDER / "bank.py", *small, *kind, *places)
    assert result.returncode == 0, result.stderr
    found = json.loads(path.read_text())["found"]
    assert found["equal"] == 1.0
    assert found["anew"] == pytest.approx(100 * found["episode_anew"])
    parts = found["compile"] + 48 * found["video_embedded"] + found["matched"]
    assert found["ratio"] == pytest.approx(found["anew"] / parts)
    assert f"ratio official way / bank: {found['ratio']:.1f}" in result.stdout


def test_accuracy_is_shown_for_every_number_of_draws(motion_data, tmp_path):
    weights = tmp_path / "run"
    options = [
        f"--config={ROOT}/configs/synthetic.py",
        f"--workdir={weights}",
        "--config.data.source=videos",
        f"--config.data.root={motion_data / 'videos'}",
        f"--config.data.split_dir={motion_data / 'splits'}",
        "--config.data.num_frames=2",
        "--config.eval.n_way=3",
        "--config.eval.shots=1",
    ]
    train = ["--mode=train", "--config.train.steps=1", "--config.train.n_way=3"]
    trained = run("-m", "molo_jax.main", *options, *train, "--config.train.eval_every=0")
    assert trained.returncode == 0, trained.stderr
    few = ["--episodes=4", "--draws=1,2", "--choices=2", "--anew=2"]
    result = run(FOLDER / "draws.py", *options, *few)
    assert result.returncode == 0, result.stderr
    rows = re.findall(r"^\| (.*?) \| (\d) \| (\S+) \| (\S+) \| (\d) \|$", result.stdout, re.M)
    assert [(row[0], row[4]) for row in rows] == [
        ("drawn anew", "2"),
        ("1 of each video", "4"),
        ("2 of each video", "2"),
    ]
    assert all(0 <= float(row[2]) <= 100 for row in rows)
