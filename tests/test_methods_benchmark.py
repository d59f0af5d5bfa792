"""The comparison of all methods: its table shows the result files, and a stopped one goes on."""

import json
import re
from pathlib import Path

import pytest
from programs import run

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks/methods.py"
TITLES = {"protonet": "ProtoNet", "otam": "OTAM"}
SMALL = ("--method=protonet,otam", "--steps=2", "--episodes=3")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A prepared folder with few generated videos."""
    out = tmp_path_factory.mktemp("generated") / "data"
    counts = [f"--{split}_videos=6" for split in ("val", "test")]
    result = run(
        *("-m", "molo_jax.prepare", "--dataset=synthetic", f"--out={out}"),
        *("--train_videos=2", *counts, "--train_n_query=1"),
    )
    assert result.returncode == 0, result.stderr
    return out


@pytest.fixture(scope="module")
def compared(data, tmp_path_factory):
    """The folder of a small comparison, and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "methods"
    result = run(SCRIPT, *SMALL, f"--data={data}", f"--out={out}")
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def rows(printed):
    """Title, both accuracies, and minutes of each line of the table."""
    return re.findall(r"^\| (ProtoNet|OTAM) \| (.*?) \| (.*?) \| (.*?) \|$", printed, re.M)


def stored(out, name, shot):
    return json.loads((out / name / f"eval_test_5way_{shot}shot.json").read_text())


def test_the_table_shows_the_result_files_and_the_time(compared):
    out, printed = compared
    expected = []
    for name, title in TITLES.items():
        results = [stored(out, name, shot) for shot in (1, 5)]
        cells = [f"{100 * r['accuracy']:.1f} ± {100 * r['ci95']:.1f}" for r in results]
        seconds = json.loads((out / name / "run.json").read_text())["seconds"]
        assert seconds > 1
        expected.append((title, *cells, f"{seconds / 60:.1f}"))
    assert rows(printed) == expected
    assert "over 3 episodes, after 2 steps of training" in printed


def test_each_result_is_that_of_its_method_with_the_asked_budget(compared):
    out, _ = compared
    for name in TITLES:
        for shot in (1, 5):
            result = stored(out, name, shot)
            assert (result["method"], result["shot"], result["episodes"]) == (name, shot, 3)
            assert result["config"]["train"]["steps"] == 2
            assert Path(result["checkpoint"]).is_relative_to(out / name)


def test_finished_methods_are_taken_and_others_go_on(compared, data):
    out, printed = compared
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/eval_*.json")}
    seconds = json.loads((out / "otam/run.json").read_text())["seconds"]
    # As if it had been killed between training and evaluation.
    (out / "otam/eval_test_5way_5shot.json").unlink()
    result = run(SCRIPT, *SMALL, f"--data={data}", f"--out={out}")
    assert result.returncode == 0, result.stderr
    assert f"protonet: the results in {out}/protonet are taken\n" in result.stdout
    assert f"otam: going on in {out}/otam\n" in result.stdout
    assert [row[:3] for row in rows(result.stdout)] == [row[:3] for row in rows(printed)]
    after = {path: path.stat().st_mtime_ns for path in out.glob("*/eval_*.json")}
    assert set(after) == set(before)
    assert all(after[p] == before[p] for p in before if p.parent.name == "protonet")
    assert json.loads((out / "otam/run.json").read_text())["seconds"] > seconds + 1


def test_a_method_that_fails_is_one_line_and_the_others_go_on(compared, data):
    out, printed = compared
    kept = (out / "protonet/run.json").read_text()
    broken = json.loads(kept)
    broken["config"]["train"]["steps"] = 3
    (out / "protonet/run.json").write_text(json.dumps(broken))
    result = run(SCRIPT, *SMALL, f"--data={data}", f"--out={out}")
    (out / "protonet/run.json").write_text(kept)
    assert result.returncode == 1
    assert [row[0] for row in rows(result.stdout)] == ["OTAM"]
    assert rows(result.stdout)[0][1:3] == rows(printed)[1][1:3]
    assert result.stderr.splitlines() == [
        f"error: protonet: {out}/protonet holds a run with train.steps 3, asked for is 2; remove"
        " the folder, or choose another with --out",
        "error: 1 of 2 methods failed: protonet",
    ]


def test_the_last_line_of_a_method_that_fails_is_shown(tmp_path):
    out = tmp_path / "methods"
    result = run(SCRIPT, "--method=otam", "--steps=2", f"--data={tmp_path}/none", f"--out={out}")
    assert result.returncode == 1
    said, summary = result.stderr.splitlines()
    assert said.startswith("error: otam: exit code 1: ")
    assert f"{tmp_path}/none" in said
    assert said.endswith(f"({out}/otam/log.txt)")
    assert summary == "error: 1 of 1 methods failed: otam"


def test_an_unknown_method_is_one_line_and_exit_code_2(tmp_path):
    result = run(SCRIPT, "--method=molo,tsn", f"--out={tmp_path}/none")
    assert result.returncode == 2
    assert result.stderr.startswith("error: --method is molo,tsn; expected some of molo,protonet")
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
