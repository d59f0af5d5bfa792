"""The benchmark of precisions: what it compares is what an evaluation predicts."""

import re
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from programs import run

from molo_jax.engine.evaluation import Score
from molo_jax.engine.state import create_model
from molo_jax.methods.settings import METHODS
from molo_jax.weights import torch_files
from molo_jax.weights.torch_map import export_tensors

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
SCRIPT = FOLDER / "precision.py"
ROW = re.compile(r"^\| (\w+) \| (\d) \| (\S+) ± \S+ \| (\S+) \| (\S+) \|$", re.M)


def test_a_generated_network_is_compared_on_the_episodes_of_an_evaluation(motion_data, tmp_path):
    states = create_model(METHODS["protonet"](num_classes=1, backbone="resnet18"), seed=1)[1:]
    leaves = [pair for state in states for pair in nnx.to_flat_state(state)]
    tensors = export_tensors({path: np.asarray(leaf[...]) for path, leaf in leaves})
    torch_files.write(tmp_path / "x.safetensors", tensors)
    options = {
        "init_from": tmp_path / "x.safetensors",
        "data.source": "videos",
        "data.root": motion_data / "videos",
        "data.split_dir": motion_data / "splits",
        "data.workers": 1,
        "data.num_frames": 2,
        "data.resize": 32,
        "data.crop": 32,
        "eval.n_way": 3,
        "eval.episodes": 20,
    }
    arguments = [f"--config.{key}={value}" for key, value in options.items()]
    shots = ["--config.eval.shots=1", "--config.eval.shots=2"]
    result = run(SCRIPT, f"--config={ROOT}/configs/synthetic.py:protonet", *arguments, *shots)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("synthetic, test split: 20 episodes, 3-way\n")
    rows = {(name, int(shot)): rest for name, shot, *rest in ROW.findall(result.stdout)}
    assert list(rows) == [(name, shot) for name in ("float32", "tf32", "bf16") for shot in (1, 2)]
    for (name, shot), (accuracy, difference, same) in rows.items():
        base = float(rows["float32", shot][0])
        assert float(difference) == pytest.approx(float(accuracy) - base, abs=0.011)
        # Queries that are predicted otherwise are at most those that change the accuracy.
        assert abs(float(difference)) <= 100 - float(same) + 0.011
        if name != "bf16":
            assert (difference, same) == ("+0.00", "100.00")


def test_what_is_not_equal_is_counted(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    from _precision import table

    found = {
        "float32": ({5: Score(0.75, 0.1, 2, {})}, {5: np.array([[0, 1], [2, 2]])}),
        "bf16": ({5: Score(0.5, 0.1, 2, {})}, {5: np.array([[0, 1], [2, 1]])}),
    }
    assert table(found)[-2:] == [
        "| float32 | 5 | 75.00 ± 10.00 | +0.00 | 100.00 |",
        "| bf16 | 5 | 50.00 ± 10.00 | -25.00 | 75.00 |",
    ]


def test_a_mistake_in_a_flag_is_one_line():
    result = run(SCRIPT, "--config=configs/none.py")
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
