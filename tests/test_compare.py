"""The command; what it computes is tested in tests/analysis."""

import json
import re

import pytest
from outcomes import header, outcome, sweep
from programs import run
from test_documentation import error_line, run_all

from molo_jax.analysis.outcome import Outcome
from molo_jax.analysis.outcome_file import outcome_path, write_outcomes

HOSTILE = ["<b>x</b>", "a|b", "a_b*c", "R & B, 50% {$}", "\\x{", "~^#`'\""]
WRONG = {
    "a": (2, "RUN and RUN are required"),
    "a a/": (2, "a comparison needs two different runs"),
    "a --baseline=a": (2, "RUN and RUN are required"),
    "a nowhere": (1, "nowhere does not exist; expected a work folder or a file of outcomes"),
    "a empty": (1, "empty has no file eval_test_outcomes.npz; evaluate its network first"),
    "a b --split=val": (1, "a has no file eval_val_outcomes.npz; evaluate its network first"),
    "a b --out=a/eval_test_outcomes.npz": (2, "--out=a/eval_test_outcomes.npz: expected a folder"),
    "a seed": (
        1,
        "a/eval_test_outcomes.npz and seed/eval_test_outcomes.npz are not comparable, for they"
        " differ in the seed of the episodes: 0 and 1; evaluate both with the same lists and"
        " settings, --config.seed among them",
    ),
    "a bad": (
        1,
        "the videos left out as bad: 0 entries and 1 entries ('class 0/3.mp4' only there)",
    ),
    "a elsewhere": (
        1,
        "no run has a data set in common with the first: a was tested on ssv2; elsewhere was tested"
        " on kinetics",
    ),
    "a broken": (1, "broken/eval_test_outcomes.npz is damaged"),
    "a b --basline=b": (2, "unknown flag --basline; did you mean --baseline?"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Work folders of runs, some of which cannot be compared with the run `a`."""
    root = tmp_path_factory.mktemp("runs")

    def make(name, spread=1.0, dataset="", **changes):
        path = outcome_path(root / name, f"{dataset}_test" if dataset else "test")
        path.parent.mkdir(exist_ok=True)
        known = {"dataset": dataset} if dataset else {}
        write_outcomes(path, header(**known, **changes), sweep(spread=spread))

    make("a", 0.6, class_names=HOSTILE)
    make("b", 0.9, class_names=HOSTILE, title="OTAM <i>|&_", backbone="resnet18")
    make("c", 0.9, class_names=HOSTILE, crop=112)
    make("seed", seed=1)
    make("bad", bad_videos={"class 0/3.mp4": "cut"})
    make("elsewhere", dataset="kinetics")
    make("cross", 0.6)
    make("cross", 0.7, dataset="ucf101", class_names=HOSTILE)
    make("cross2", 0.7, title="TRX", trained_on="kinetics")
    make("cross2", 0.6, dataset="ucf101", title="TRX", trained_on="kinetics", class_names=HOSTILE)
    (root / "empty").mkdir()
    make("broken")
    path = outcome_path(root / "broken", "test")
    path.write_bytes(path.read_bytes()[:-100])
    return root


@pytest.fixture(scope="module")
def refused(folder):
    before = sorted(folder.rglob("*"))
    runs = run_all("molo_jax.compare", [words.split() for words in WRONG], folder)
    assert sorted(folder.rglob("*")) == before
    return dict(zip(WRONG, runs, strict=True))


@pytest.mark.parametrize("words", WRONG)
def test_what_cannot_be_compared_is_refused_in_one_line(refused, words):
    code, said, errors = refused[words]
    assert (code, said) == (WRONG[words][0], "")
    assert WRONG[words][1] in error_line(errors)


@pytest.fixture(scope="module")
def compared(folder):
    out = folder / "compared/deep"
    result = run(
        "-m",
        "molo_jax.compare",
        folder / "a",
        folder / "b/eval_test_outcomes.npz",
        folder / "c",
        f"--baseline={folder / 'c'}",
        "--split=test",
        f"--out={out}",
    )
    assert result.returncode == 0, result.stderr
    return result.stdout, out


def test_the_differences_are_those_from_the_baseline_on_the_same_episodes(compared):
    _, out = compared
    found = json.loads((out / "compare.json").read_text())
    assert found["baseline"] == "MoLo (c)"
    (group,) = found["groups"]
    assert [run["label"] for run in group["runs"]] == ["MoLo (c)", "MoLo (a)", "OTAM <i>|&_"]
    assert [(cell["way"], cell["shot"]) for cell in group["cells"]] == [
        *((3, 1), (3, 2), (5, 1), (5, 2))
    ]
    better, worse = sweep(spread=0.6)[5, 2], sweep(spread=0.9)[5, 2]
    cell = group["cells"][3]
    difference = cell["differences"]["MoLo (a)"]
    assert difference["mean"] == pytest.approx(better.accuracies.mean() - worse.accuracies.mean())
    assert difference["mean"] > difference["ci95_videos"] > difference["ci95"] > 0
    alone = (better.correct & ~worse.correct).sum(), (worse.correct & ~better.correct).sum()
    assert (difference["queries"]["wins"], difference["queries"]["losses"]) == alone
    assert sum(difference["episodes"].values()) == 200
    assert list(difference["per_class"]) == HOSTILE
    same = cell["differences"]["OTAM <i>|&_"]
    assert (same["mean"], same["ci95"], same["ci95_videos"]) == (0, 0, 0)
    assert same["queries"] == {"wins": 0, "ties": 1000, "losses": 0}


def test_the_tables_have_the_layout_of_the_papers_and_say_what_is_compared(compared):
    printed, out = compared
    page = (out / "compare.md").read_text()
    assert "| Method | Backbone | Crop | 1-shot | 2-shot |" in page
    assert "| Method | Backbone | Crop | 3-way | 5-way |" in page
    accuracy = 100 * sweep(spread=0.6)[3, 1].accuracies.mean()
    assert f"| MoLo (a) | resnet50 | 224 | **{accuracy:.1f} ± " in page
    assert re.search(rf"^MoLo \(a\) +resnet50 +224 +{accuracy:.1f} ± ", printed, re.M)
    assert "−" not in re.search(r"^3-way 1-shot  MoLo \(a\) +(\S+)", printed, re.M)[1]
    assert "Not given: the split has 6 classes; 3-way needs" in printed


def test_names_with_special_characters_do_not_break_the_tables(compared):
    _, out = compared
    for block in (out / "compare.md").read_text().split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert "<" not in block
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) <= 1
    source = (out / "compare.tex").read_text()
    assert r"\textless{}b\textgreater{}x\textless{}/b\textgreater{}" in source
    # Without the escaped characters, every brace is closed and each row has its columns.
    plain = re.sub(r"\\[&%$#_{}]", "", source)
    depth = 0
    for sign in plain:
        depth += {"{": 1, "}": -1}.get(sign, 0)
        assert depth >= 0
    assert depth == 0
    assert not re.search(r"[%#_]", plain)
    assert len(re.findall(r"\$", plain)) % 2 == 0
    tabulars = re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", plain, re.S)
    assert len(tabulars) == plain.count(r"\begin{table}") == plain.count(r"\end{table}") == 5
    for columns, body in tabulars:
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(rows) > 1
        assert {row.count("&") for row in rows} == {len(columns) - 1}


def test_networks_tested_on_other_data_sets_have_a_table_across_them(folder):
    result = run("-m", "molo_jax.compare", folder / "cross", folder / "cross2", folder / "a")
    assert result.returncode == 0, result.stderr
    assert "not tested on ucf101: MoLo (a)" in result.stderr
    first = result.stdout.split("\n\n")[0].splitlines()
    assert first[0] == "3-way 1-shot accuracy in % by the tested data set"
    assert re.split(r"\s{2,}", first[2]) == ["Method", "Trained on", "→ ssv2", "→ ucf101"]
    cells = {line[:12].strip(): re.findall(r"(\S+) ± |(–)$", line) for line in first[4:7]}
    means = {s: f"{100 * sweep(spread=s)[3, 1].accuracies.mean():.1f}" for s in (0.6, 0.7)}
    assert cells["MoLo (cross)"] == [(means[0.6], ""), (means[0.7], "")]
    assert cells["TRX"] == [(means[0.7], ""), (means[0.6], "")]
    assert cells["MoLo (a)"] == [(means[0.6], ""), ("", "–")]


def test_equal_headers_with_other_episodes_are_found_out(folder, tmp_path):
    first = sweep()
    shuffled = {}
    for (way, shot), found in first.items():
        videos = found.videos.copy()
        videos[7, 0, -1] = (videos[7, 0].max() + 1) % 12
        shuffled[way, shot] = Outcome(found.classes, videos, shot, found.predicted, found.margins)
    for name, outcomes in (("one", first), ("two", shuffled)):
        write_outcomes(tmp_path / f"{name}.npz", header(), outcomes)
    result = run("-m", "molo_jax.compare", tmp_path / "one.npz", tmp_path / "two.npz")
    assert result.returncode == 1
    assert "are not comparable: episode 7 of 3-way 1-shot has the videos" in result.stderr


def test_a_comparison_needs_a_cell_that_all_have(folder, tmp_path):
    found = sweep()
    write_outcomes(tmp_path / "one.npz", header(), {(3, 1): found[3, 1]})
    write_outcomes(tmp_path / "two.npz", header(), {(5, 1): found[5, 1], (3, 2): found[3, 2]})
    result = run("-m", "molo_jax.compare", tmp_path / "one.npz", tmp_path / "two.npz")
    assert result.returncode == 1
    assert "no way and number of shots in common" in result.stderr
    assert "one.npz has 3-way 1-shot" in result.stderr
    assert "two.npz has 5-way 1-shot, 3-way 2-shot" in result.stderr


def test_the_stand_in_predicts_what_it_should():
    found = sweep(spread=0.01)[5, 2]
    assert found.correct.all()
    assert (found.margins > 0).all()
    worse = sweep(spread=2.0)[5, 1]
    assert 0.2 < worse.accuracies.mean() < 0.6
    assert ((worse.margins > 0) == worse.correct).all()
    assert outcome(worse.classes, worse.videos, 1, spread=2.0).predicted.shape == (200, 5, 1)
