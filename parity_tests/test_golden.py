"""Recorded values of the official implementation, replayed in both implementations."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from parity_tests import apart
from parity_tests.golden import __main__ as command
from parity_tests.golden.files import RefusedError, read
from parity_tests.golden.replay import compare, compute, findings
from parity_tests.tolerances import golden_bounds

FOLDER = pathlib.Path(__file__).parent / "golden"
EVAL = FOLDER / "r18_eval.npz"
GROUPS = {
    "eval": ["outputs", "stages"],
    "train": ["outputs", "stages", "losses", "gradients", "statistics"],
    "steps": ["losses", "statistics", "parameters", "decay"],
}


@pytest.mark.parametrize("kind", GROUPS)
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_recorded_values_are_reproduced(request, replay, backend, kind):
    if (backend, kind) == ("torch", "eval"):
        # Other tests need what is computed here too.
        file, recording = request.getfixturevalue("recomputed")
        found = compare(file, recording, backend)
    else:
        found = replay(FOLDER / f"r18_{kind}.npz", backend)
    assert list(dict.fromkeys(finding.group for finding in found)) == GROUPS[kind]
    assert [finding for finding in found if not finding.inside] == []


@pytest.fixture(scope="module")
def replay():
    with apart.replaying() as replay:
        yield replay


@pytest.fixture(scope="module")
def recomputed():
    file = read(EVAL)
    return file, compute(file, "torch")


def _outside(file, recording):
    found = findings(file, recording, golden_bounds("molo", file.kind, file.case.backbone))
    return [(finding.group, finding.name) for finding in found if not finding.inside]


def test_a_recorded_value_that_is_a_little_off_is_found(recomputed):
    file, recording = recomputed
    assert _outside(file, recording) == []
    for group, name, factor in (
        ("out", "logits_q2s", 1 + 1e-4),
        ("stage", "backbone.5/1", 1 + 1e-4),
        ("stage", "temporal_atte_before/0", np.nan),
    ):
        changed = file.arrays | {group: file.arrays[group] | {}}
        changed[group][name] = changed[group][name] * factor
        altered = dataclasses.replace(file, arrays=changed)
        (one,) = {name for _, name in _outside(altered, recording)}
        assert one == name


def _write(path, change=lambda meta, arrays: None, source=EVAL):
    with np.load(source) as file:
        arrays = {name: file[name] for name in file.files}
    meta = json.loads(str(arrays.pop("meta")))
    change(meta, arrays)
    np.savez(path, meta=json.dumps(meta), **arrays)
    return path


def test_an_unchanged_copy_is_read(tmp_path):
    file = read(_write(tmp_path / "copy.npz"))
    assert file.case == read(EVAL).case
    assert file.case.position == (10.0, 1.0)


@pytest.mark.parametrize(
    "position", [[2048, 0.02], {"A": 2048, "B": 0.02}, {"POSITION_B": 0.02, "POSITION_A": 2048}]
)
def test_the_positional_encoding_is_read(tmp_path, position):
    path = _write(tmp_path / "kinetics.npz", lambda meta, _: meta.update(position=position))
    assert read(path).case.position == (2048.0, 0.02)


@pytest.mark.parametrize(
    ("source", "change", "message"),
    [
        ("eval", lambda m, a: m.pop("seed"), "meta lacks seed"),
        ("eval", lambda m, a: m.update(surprise=1), "meta has unknown surprise"),
        ("eval", lambda m, a: m.update(kind="test"), "meta.kind is 'test'; expected one of eval"),
        ("eval", lambda m, a: m.update(backbone="vgg"), "meta.backbone is 'vgg'"),
        ("eval", lambda m, a: m.update(backbone=["resnet18"]), "meta.backbone is ['resnet18']"),
        ("eval", lambda m, a: m.update(seed=3_000_000), "meta.seed is 3000000; expected at most"),
        ("eval", lambda m, a: m.update(way=0), "meta.way is 0"),
        ("eval", lambda m, a: m.update(way=True), "meta.way is True"),
        ("eval", lambda m, a: m.update(position=[1]), "meta.position is [1]"),
        ("eval", lambda m, a: m.update(shot=2), "out/class_logits has shape (6, 64)"),
        ("eval", lambda m, a: a.pop("out/logits"), "out/ lacks logits"),
        ("eval", lambda m, a: a.pop("stage/outc/0"), "stage/ lacks outc/0"),
        ("eval", lambda m, a: a.update({"stage/outc/1": np.ones(2)}), "has unknown outc/1"),
        ("eval", lambda m, a: a.update({"more/x": np.ones(2)}), "the file has unknown more"),
        ("eval", lambda m, a: a.update({"stage/outc/0": np.ones(3)}), "has shape (3,)"),
        (
            "eval",
            lambda m, a: a.update({"stage/outc/0": np.full(2, np.nan)}),
            "stage/outc/0 holds values that are no finite numbers",
        ),
        ("train", lambda m, a: m["losses"].pop("cls"), "meta.losses lacks cls"),
        ("train", lambda m, a: m["losses"].update(extra=1.0), "meta.losses has unknown extra"),
        ("train", lambda m, a: m.update(total="high"), "meta.total is 'high'"),
        ("train", lambda m, a: a.pop("grad/scale"), "grad/ lacks scale"),
        ("steps", lambda m, a: m["history"].pop(), "meta.history has 3 entries"),
        ("steps", lambda m, a: m["lrs"].append(0.1), "meta.lrs has 3 entries"),
        ("steps", lambda m, a: m["coef"].pop("rec"), "meta.coef lacks rec"),
        ("steps", lambda m, a: m.update(lrs=[10**400, 1]), "meta.lrs[0] is 1000"),
        ("steps", lambda m, a: m.update(weight_decay=float("nan")), "meta.weight_decay is nan"),
    ],
)
def test_a_file_with_wrong_fields_is_refused(tmp_path, source, change, message):
    path = _write(tmp_path / "x.npz", change, FOLDER / f"r18_{source}.npz")
    with pytest.raises(RefusedError) as error:
        read(path)
    assert message in str(error.value)
    assert str(error.value).startswith(str(path))


def test_files_of_other_kinds_are_refused(tmp_path):
    text = tmp_path / "text.npz"
    text.write_text("no values")
    cut = tmp_path / "cut.npz"
    cut.write_bytes(EVAL.read_bytes()[:5000])
    single = tmp_path / "single.npz"
    with single.open("wb") as file:
        np.save(file, np.ones(3))
    nested = tmp_path / "nested.npz"
    np.savez(nested, meta="[" * 200_000)
    damaged = tmp_path / "damaged.npz"
    np.savez_compressed(damaged, meta="{}", noise=np.random.default_rng(0).random(9999))
    content = bytearray(damaged.read_bytes())
    content[20_000:30_000] = bytes(10_000)
    damaged.write_bytes(content)
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, meta=np.array({"kind": "eval"}, dtype=object))
    for path in (
        text,
        cut,
        single,
        nested,
        damaged,
        pickled,
        tmp_path / "absent.npz",
        FOLDER / "augment.npz",
    ):
        with pytest.raises(RefusedError, match=path.name):
            read(path)


def test_the_command_reports_and_exits_by_what_it_found(tmp_path, capsys, recomputed, monkeypatch):
    monkeypatch.setattr("parity_tests.golden.replay.compute", lambda *_, **__: recomputed[1])
    wrong = _write(
        tmp_path / "wrong.npz",
        lambda m, a: a.update({"stage/backbone.6/0": 1.001 * a["stage/backbone.6/0"]}),
    )
    out = tmp_path / "out.json"
    assert command.main([str(EVAL), "--backend=torch"]) == 0
    assert "all inside" in capsys.readouterr().out
    assert command.main([str(EVAL), str(wrong), "--backend=torch", f"--json={out}"]) == 1
    assert f"OUTSIDE the tolerance: {wrong}" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert [one["inside"] for one in report["files"]] == [True, False]
    (beyond,) = {f["name"] for f in report["files"][1]["findings"] if not f["inside"]}
    assert beyond == "backbone.6/0"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.json", "wrong.npz"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.npz"], "error: refused: absent.npz: there is no such file"),
        ([str(EVAL), "--json=/no/such/folder/x.json"], "does not exist"),
        ([str(EVAL), "--backend=tf"], "invalid choice: 'tf'"),
        ([], "FILE.npz"),
    ],
)
def test_mistakes_in_the_command_line_exit_with_2(arguments, message):
    run = subprocess.run(
        [sys.executable, "-m", "parity_tests.golden", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=pathlib.Path(__file__).parents[1],
    )
    assert run.returncode == 2
    assert message in run.stderr
    assert "Traceback" not in run.stderr
