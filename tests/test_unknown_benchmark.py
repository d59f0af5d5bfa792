"""The benchmark of the unknown rule: its rates are those of classifiers that it draws."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from colors import ColorEmbedder, clip

from molo_jax.prediction import api
from molo_jax.prediction.classifier import Classifier

SCRIPT = Path(__file__).parents[1] / "benchmarks/unknown.py"


@pytest.fixture(scope="module")
def benchmark():
    specification = importlib.util.spec_from_file_location("unknown_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_rates_are_those_of_the_drawn_classifiers(benchmark, tmp_path, monkeypatch, capsys):
    # Classes are colors far apart; the clips of a class differ a little.
    rng = np.random.default_rng(0)
    colors = {f"class{k}": (40 * k, 255 - 40 * k, 120 * (k % 2)) for k in range(6)}
    arrays = {}
    for name, color in colors.items():
        (tmp_path / name).mkdir()
        for number in range(9):
            path = tmp_path / name / f"test_{number}.mp4"
            path.touch()
            (tmp_path / name / f"train_{number}.mp4").touch()
            values = np.clip(np.array(color) + rng.integers(-3, 4, 3), 0, 255)
            arrays[str(path)] = clip(*values)

    class Loaded(Classifier):
        def fit(self, clips, labels=None, **how):
            known = {
                name: [arrays[c] if isinstance(c, str) else c for c in each]
                for name, each in clips.items()
            }
            return super().fit(known, labels, **how)

    monkeypatch.setattr(api, "load", lambda source: Loaded(ColorEmbedder()))
    flags = ["--weights=x", f"--videos={tmp_path}", "--names=test_*", "--known=3", "--draws=5"]
    benchmark.flags.FLAGS([str(SCRIPT), *flags, "--shots=4", "--queries=5"])
    benchmark.main(sys.argv)
    output = capsys.readouterr().out
    assert "3 of 6 classes known, 5 draws" in output
    pattern = r"^\| 4 " + 4 * r"\| (\S+) % " + r"\| (\S+) \|$"
    (row,) = re.findall(pattern, output, re.M)
    accuracy, probability, alarms, misses, area = map(float, row)
    assert (accuracy, misses, area) == (100, 0, 1)
    assert probability > 85
    assert 0 <= alarms < 20
