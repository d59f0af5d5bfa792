"""The benchmark of the intervals; how often they hold the truth is tested in tests/analysis."""

import json
import re
from pathlib import Path

from programs import run

SCRIPT = Path(__file__).parents[1] / "benchmarks/intervals.py"
SMALL = ["--way=2", "--shots=1", "--episodes=60", "--separations=0.5"]


def test_the_table_shows_what_was_measured(tmp_path):
    path = tmp_path / "found.json"
    sizes = ["--classes=15", "--classes=6", "--videos=9", "--least_videos=6", "--repetitions=10"]
    result = run(SCRIPT, *SMALL, *sizes, f"--json={path}")
    assert result.returncode == 0, result.stderr
    assert "2-way, 6 to 9 videos of a class, 10 repetitions" in result.stdout
    cases = json.loads(path.read_text())["cases"]
    assert [case["case"]["classes"] for case in cases] == [15, 6]
    rows = re.findall(r"^\| (\d.*?) \|$", result.stdout, re.M)
    for row, case in zip(rows, cases, strict=True):
        cells, found = row.split(" | "), case["found"]
        assert cells[:3] == [str(case["case"]["classes"]), "1", "60"]
        assert cells[3] == f"{100 * found['accuracy']:.0f} %"
        shown = f"{found['videos'][0]:.1f} (± {100 * found['videos'][1]:.1f})"
        assert cells[5] == shown
        assert 50 < found["accuracy"] * 100 < 95
        assert found["videos"][0] >= 60
        assert found["field"][1] < found["videos"][1]
    # Six classes are too few for an interval over classes.
    assert [row.split(" | ")[6] == "–" for row in rows] == [False, True]


def test_an_interval_that_cannot_be_said_is_a_dash():
    # Three classes are too few for an interval over videos, too.
    result = run(SCRIPT, *SMALL, "--classes=3", "--videos=9", "--repetitions=5")
    assert result.returncode == 0, result.stderr
    (row,) = re.findall(r"^\| (\d.*?) \|$", result.stdout, re.M)
    assert row.split(" | ")[5:7] == ["–", "–"]
    assert row.split(" | ")[4] != "–"


def test_too_few_videos_or_classes_are_refused_with_both_numbers():
    result = run(SCRIPT, *SMALL, "--least_videos=1")
    assert result.returncode == 2
    assert "--least_videos=1: expected 2 (for 1-shot with 1 query) to 20" in result.stderr
    result = run(SCRIPT, *SMALL, "--classes=9", "--classes=1")
    assert result.returncode == 2
    result = run(SCRIPT, "--way=6", "--classes=24", "--classes=5")
    assert result.returncode == 2
    assert "--classes=5: expected at least --way=6 classes" in result.stderr
