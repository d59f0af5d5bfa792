"""The benchmark of matching: its rows add up, follow from the shapes, and errors are one line."""

import json
import re
from pathlib import Path

import pytest
from programs import run

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
SCRIPT = FOLDER / "matching.py"
TINY = ["--episodes=5", "--batch=2", "--classes=3", "--videos=3", "--way=2", "--frames=3"]
PARTS = ("compile", "draw", "gather", "match", "rest")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What the benchmark prints and writes for two methods."""
    path = tmp_path_factory.mktemp("matching") / "numbers.json"
    result = run(SCRIPT, *TINY, "--method=otam,molo", "--shots=1,2", f"--json={path}")
    assert result.returncode == 0, result.stderr
    return result.stdout, json.loads(path.read_text())


def test_every_method_and_number_of_shots_has_a_row_molo_first(measured):
    _, numbers = measured
    found = [(row["method"], row["shot"]) for row in numbers["rows"]]
    assert found == [("molo", 1), ("molo", 2), ("otam", 1), ("otam", 2)]


def test_the_parts_add_up_to_the_seconds_and_the_largest_dominates(measured):
    for row in measured[1]["rows"]:
        assert sum(row[part] for part in PARTS) == pytest.approx(row["total"], abs=1e-6)
        assert all(row[part] >= 0 for part in PARTS)
        assert row[row["dominates"]] == max(row[part] for part in PARTS)


def test_the_ratio_is_that_to_molo_with_as_many_shots(measured):
    rows = {(row["method"], row["shot"]): row for row in measured[1]["rows"]}
    for (_, shot), row in rows.items():
        assert row["ratio"] == pytest.approx(row["total"] / rows["molo", shot]["total"])


def test_the_features_are_those_that_the_methods_keep(measured):
    rows = {(row["method"], row["shot"]): row for row in measured[1]["rows"]}
    # 9 clips in a table of 16 rows: 3 frame vectors; a class token and those, a class token and
    # their 2 differences.
    assert rows["otam", 1]["features"] == 16 * 3 * 512 * 4
    assert rows["molo", 1]["features"] == 16 * (4 + 3) * 512 * 4
    assert all(0 <= row["accuracy"] <= 1 for row in rows.values())


def test_the_table_shows_what_was_measured(measured):
    printed, numbers = measured
    lines = re.findall(r"^\| (MoLo|OTAM) \| (\d) \| (\S+) \| (\S+) \|", printed, re.M)
    expected = [
        (
            {"molo": "MoLo", "otam": "OTAM"}[row["method"]],
            str(row["shot"]),
            f"{row['total']:.1f}",
            f"{row['ratio']:.2f}",
        )
        for row in numbers["rows"]
    ]
    assert lines == expected


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--method=molo,tsn", "--method is molo,tsn; expected some of molo,protonet"),
        ("--shots=0", "--shots is 0; expected numbers of at least 1"),
        ("--videos=5", "--videos is 5; such episodes need at least 6"),
        ("--classes=4", "--classes is 4; such episodes need at least 5"),
        ("--frames=13", "--frames is 13; TRX takes 3 to 12"),
        ("--json=/no/such/folder/x", "--json is /no/such/folder/x; expected a file in a folder"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(option, message):
    result = run(SCRIPT, option)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1


def test_the_benchmark_does_not_import_tensorflow():
    program = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import matching, _matching;"
    result = run("-c", program + "print('tensorflow' in sys.modules)")
    assert result.stdout == "False\n", result.stderr
