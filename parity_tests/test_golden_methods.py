"""Recorded values of the official code of the other methods, replayed by all their backends."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from parity_tests import apart
from parity_tests.case import Case
from parity_tests.golden import __main__ as command
from parity_tests.golden.files import RefusedError, read
from parity_tests.golden.record import record
from parity_tests.golden.replay import compare, compute, findings, load_backend, replay
from parity_tests.tolerances import golden_bounds

FOLDER = pathlib.Path(__file__).parent / "golden"
# <method>_r18_<kind>….npz; those of MoLo have no method in front.
FILES = sorted(FOLDER.glob("*_r18_*.npz"))
GROUPS = {
    "eval": ["outputs", "stages", "losses"],
    "train": ["outputs", "stages", "losses", "gradients", "statistics"],
    "steps": ["losses", "statistics", "parameters", "decay"],
}
# Small: a frame of 64 pixels costs a twelfth of one of 224.
SMALL = {"way": 2, "shot": 2, "query": 1, "frames": 4, "size": 64, "seed": 17}
COHERENCE = (("prototypes_first", True), ("window", 1), ("balance", 51.0), ("apart_weight", 10.0))
OPTIONS = {"hyrsm": COHERENCE[:1], "hyrsm_pp": COHERENCE}
# Drawn values are so large that every softmax saturates, and gradients vanish.
SCALED = {"trx": tuple((f"transformers.{i}.v_linear.weight", 0.03) for i in range(2))}


def _replays():
    for path in FILES:
        for name in ("jax", "torch"):
            if path.stem.split("_r18_")[0] in load_backend(name).METHODS:
                yield pytest.param(path, name, id=f"{path.stem}-{name}")


def _small(method):
    extra = {"options": OPTIONS.get(method, ()), "scaled": SCALED.get(method, ())}
    return Case(method, **extra, **SMALL)


def _outside(found):
    return [(one.group, one.name) for one in found if not one.inside]


@pytest.fixture(scope="module")
def recorded_trx(tmp_path_factory):
    """A file with a small episode of TRX and its gradients."""
    path = tmp_path_factory.mktemp("recorded") / "all.npz"
    record(path, _small("trx"), "train")
    return path


@pytest.fixture(scope="module")
def replay_apart():
    with apart.replaying() as replay:
        yield replay


@pytest.mark.parametrize(("path", "backend"), list(_replays()))
def test_recorded_values_are_reproduced(replay_apart, path, backend):
    file, found = read(path), replay_apart(path, backend)
    assert list(dict.fromkeys(one.group for one in found)) == GROUPS[file.kind]
    assert _outside(found) == []
    assert next(one.bound for one in found if one.group == "losses") == 1e-5


def test_the_files_are_of_every_method_that_has_official_code():
    files = [read(path) for path in FILES]
    recorded = {(file.case.method, file.kind) for file in files}
    methods = ("protonet", "otam", "trx", "hyrsm", "hyrsm_pp")
    assert recorded == {(method, kind) for method in methods for kind in ("eval", "train")}
    by_name = {file.path.stem: file.case for file in files}
    assert by_name["trx_r18_train"].scaled[0] == ("transformers.0.v_linear.weight", 0.125)
    kinetics = by_name["hyrsm_pp_r18_eval_k100"]
    assert kinetics.position == (2048.0, 0.02)
    assert dict(kinetics.options) == dict(COHERENCE) | {"prototypes_first": False}
    assert dict(by_name["hyrsm_r18_eval_2shot"].options) == {"prototypes_first": True}
    assert by_name["hyrsm_pp_r18_train"].coefficients.temporal == 0.3
    assert by_name["protonet_r18_eval_2shot"].coefficients.classification == 0.0


@pytest.mark.parametrize("method", ["bi_mhm", "trx", "hyrsm_pp"])
def test_a_recorded_optimizer_step_is_read_and_replayed(tmp_path, method):
    case = dataclasses.replace(_small(method), accumulation=2)
    record(tmp_path / "steps.npz", case, "steps")
    file = read(tmp_path / "steps.npz")
    # `multi_shot` of the other methods is written, and nothing follows from it.
    assert dataclasses.replace(file.case, coefficients=case.coefficients) == case
    found = replay(file, "torch")
    assert list(dict.fromkeys(one.group for one in found)) == GROUPS["steps"]
    assert _outside(found) == []
    if method == "hyrsm_pp":
        first = file.meta["history"][0]
        sum_of_terms = first["match"] + 0.8 * first["cls"] + 0.3 * first["temporal"]
        assert first["total"] == pytest.approx(sum_of_terms / 2, rel=1e-6)


def test_parameters_that_no_loss_moves_may_be_in_a_file_or_not(tmp_path, recorded_trx):
    with np.load(recorded_trx) as stored:
        arrays = {name: stored[name] for name in stored.files}
    assert (arrays["grad/transformers.0.norm_v.weight"] == 0).all()
    fewer = {name: array for name, array in arrays.items() if "norm_v" not in name}
    np.savez(tmp_path / "fewer.npz", **fewer, **{"grad/transformers.0.tuples.3": np.zeros(2)})
    whole, part = (read(path) for path in (recorded_trx, tmp_path / "fewer.npz"))
    recording = compute(whole, "torch")
    for file in (whole, part):
        assert file.case == whole.case
        assert _outside(compare(file, recording, "torch")) == []
    np.savez(tmp_path / "less.npz", **{n: a for n, a in fewer.items() if "norm_k.bias" not in n})
    with pytest.raises(RefusedError, match=r"grad/ lacks transformers.0.norm_k.bias"):
        read(tmp_path / "less.npz")


def test_a_gradient_that_cancels_is_judged_by_that_of_its_weight(recorded_trx):
    file = read(recorded_trx)
    recording = compute(file, "torch")
    bounds = golden_bounds("trx", "train", "resnet18")
    bias, weight = (f"transformers.0.v_linear.{leaf}" for leaf in ("bias", "weight"))
    gradients = recording["gradients"]
    size = np.linalg.norm(gradients[weight])
    assert np.linalg.norm(gradients[bias]) < 1e-6 * size
    # Other noise of the same size is no fault; a gradient that does not cancel is one.
    for added, expected in ((1e-7, []), (0.2, [("gradients", bias)] * 2)):
        noise = np.full_like(gradients[bias], added * size / len(gradients[bias]) ** 0.5)
        changed = recording | {"gradients": gradients | {bias: gradients[bias] + noise}}
        assert _outside(findings(file, changed, bounds)) == expected


def _change(path, change):
    with np.load(FOLDER / "hyrsm_pp_r18_train.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    meta = json.loads(str(arrays.pop("meta")))
    change(meta, arrays)
    np.savez(path, meta=json.dumps(meta), **arrays)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, a: m.update(method="tarn"), "meta.method is 'tarn'; expected one of molo, "),
        (lambda m, a: m.update(method=["trx"]), "meta.method is ['trx']"),
        (lambda m, a: m.update(method="trx"), "meta has unknown temporal"),
        (lambda m, a: m.pop("multi_shot"), "meta lacks multi_shot"),
        (lambda m, a: m.pop("temporal"), "meta lacks temporal"),
        (lambda m, a: m["temporal"].pop("window"), "meta.temporal lacks window"),
        (lambda m, a: m["temporal"].update(balance=0), "meta.temporal.balance is not above 0"),
        (lambda m, a: m["coef"].update(con=1.0), "meta.coef has unknown con"),
        (lambda m, a: m["losses"].pop("temporal"), "meta.losses lacks temporal"),
        (lambda m, a: m.update(size=100), "meta.size is 100; expected a multiple of 32"),
        (lambda m, a: m.update(frames=7), "out/class_logits has shape (72, 64), expected (63, 64)"),
        (lambda m, a: m.update(scaled=[1]), "meta.scaled is no object"),
        (lambda m, a: m.update(scaled={"fc": 1.0}), "meta.scaled has unknown fc"),
        (lambda m, a: a.pop("stage/backbone.8/1"), "stage/ lacks backbone.8/1"),
    ],
)
def test_a_file_with_wrong_fields_is_refused(tmp_path, change, message):
    path = _change(tmp_path / "x.npz", change)
    with pytest.raises(RefusedError) as error:
        read(path)
    assert message in str(error.value)


def test_a_method_that_a_backend_lacks_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(load_backend("torch"), "METHODS", ("molo",))
    with pytest.raises(SystemExit) as exit_:
        command.main([str(FOLDER / "otam_r18_train.npz"), "--backend=torch"])
    assert exit_.value.code == 2
    assert "torch computes molo, and not otam" in capsys.readouterr().err
