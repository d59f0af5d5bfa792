"""The benchmark of the unknown rule: its rates are those of classifiers that it draws."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from colors import ColorEmbedder, clip
from programs import run

from molo_jax.prediction.classifier import Classifier

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    specification = importlib.util.spec_from_file_location("_unknown", FOLDER / "_unknown.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules["_unknown"] = module
    specification.loader.exec_module(module)
    return module


def test_the_rates_are_those_of_the_drawn_classifiers(benchmark):
    # Classes are colors far apart; the clips of a class differ a little.
    rng = np.random.default_rng(0)
    colors = {f"class{k}": (40 * k, 255 - 40 * k, 120 * (k % 2)) for k in range(6)}
    clips = {
        name: [clip(*np.clip(np.array(color) + rng.integers(-3, 4, 3), 0, 255)) for _ in range(9)]
        for name, color in colors.items()
    }
    draw = benchmark.Draw(known=3, queries=5, draws=5)
    lines = list(benchmark.table(Classifier(ColorEmbedder()), clips, [4], draw))
    assert lines[0] == "colors, not trained; 3 of 6 classes known, 5 draws"
    pattern = r"\| 4 " + 4 * r"\| (\S+) % " + r"\| (\S+) \|"
    accuracy, probability, alarms, misses, area = map(
        float, re.fullmatch(pattern, lines[-1]).groups()
    )
    assert (accuracy, misses, area) == (100, 0, 1)
    assert probability > 85
    assert 0 <= alarms < 20


def test_too_few_classes_are_refused_with_both_numbers(tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
        for number in range(8):
            (tmp_path / name / f"test_{number}.mp4").touch()
            (tmp_path / name / f"train_{number}.mp4").touch()
    flags = ["--weights=x", f"--videos={tmp_path}", "--names=test_*", "--shots=3"]
    result = run(FOLDER / "unknown.py", *flags)
    assert result.returncode == 2
    assert "has 3 classes of 8 or more clips; expected more than --known=5" in result.stderr
    result = run(FOLDER / "unknown.py", *flags, "--shots=4")
    assert "has 0 classes of 9 or more clips" in result.stderr
