"""The benchmark of predictions: every run is timed, and PyTorch predicts the same clips."""

import re
from pathlib import Path

import pytest
from programs import run

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.usefixtures("keep_no_networks")
def test_every_run_is_timed_and_compared(tmp_path):
    result = run(FOLDER / "prediction.py", "--classes=2", "--clips=1")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("resnet18, crop 224, 2 classes of 1 clips\n")
    for name in ("cold", "compiled", "again"):
        (seconds,) = re.findall(rf"^{name}: (\S+) s\n  start \S+, weights ", result.stdout, re.M)
        reference = float(re.search(r"^PyTorch: (\S+) s\n  start ", result.stdout, re.M)[1])
        row = re.search(rf"^\| {name} \| (\S+) \| (\S+) \|$", result.stdout, re.M)
        assert row[1] == seconds
        assert float(row[2]) == pytest.approx(reference / float(seconds), abs=0.03)
    assert "support set (2 clips)" in result.stdout
    assert re.search(r"^each further clip: \S+ s$", result.stdout, re.M)
    assert re.search(r"prediction \S+: class[01]$", result.stdout, re.M)
