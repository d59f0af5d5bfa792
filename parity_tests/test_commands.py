"""The documented commands of this folder, run small."""

import dataclasses
import functools
import json
import re

import torch

from molo_torch_ref import MoLo
from parity_tests.case import UPDATE


def test_the_comparison_of_ones_own_weights_replaces_the_table(tmp_path, capsys):
    from parity_tests import compare

    path = tmp_path / "checkpoint_epoch_00010.pyth"
    case = dataclasses.replace(UPDATE, backbone="resnet18")
    state = MoLo(**case.network()).state_dict() | {
        name: torch.as_tensor(array) for name, array in case.weights().items()
    }
    torch.save({"epoch": 10, "model_state": {f"head.{n}": t for n, t in state.items()}}, path)
    page = tmp_path / "README.md"
    page.write_text(f"before\n{compare._BEGIN}\nold\n{compare._END}\nafter\n")
    small = ["--mode=eval", "--size=32", "--frames=2", "--way=2", f"--write={page}"]
    assert compare.main([f"--checkpoint={path}", *small]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()] == ["outputs", "stages", "losses"]
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    rows = [line for line in lines if line.startswith("| ResNet-18, eval: ")]
    assert len(rows) == 3
    assert all(float(row.split("|")[3]) < 1e-10 < float(row.split("|")[4]) for row in rows)


def test_the_rounding_of_recorded_values_is_shown(tmp_path, capsys):
    from parity_tests.golden import __main__ as golden
    from parity_tests.golden import record

    file = str(tmp_path / "molo.npz")
    small = ["--backbone=resnet18", "--frames=3", "--size=64"]
    assert record.main([file, "--method=molo", "--kind=eval", *small]) == 0
    assert golden.main([file, "--backend=torch", "--precision=float64"]) == 0
    printed = capsys.readouterr().out
    assert "replayed in torch: all inside" in printed
    (error,) = re.findall(r"^  outputs +value +(\S+)", printed, re.M)
    # The recorded values are float32, and these are not.
    assert 1e-8 < float(error) < 4e-6


def test_what_is_recorded_of_one_implementation_is_replayed_in_it(tmp_path, capsys):
    from parity_tests.golden import __main__ as golden
    from parity_tests.golden import record
    from parity_tests.golden.files import read

    file = tmp_path / "trx.npz"
    small = ["--backbone=resnet18", "--frames=4", "--size=64"]
    assert record.main([str(file), "--method=trx", "--kind=eval", *small]) == 0
    written = read(file)
    assert (written.kind, written.case.method, written.case.backbone) == ("eval", "trx", "resnet18")
    assert golden.main([str(file), "--backend=torch"]) == 0
    assert "replayed in torch: all inside" in capsys.readouterr().out


def test_a_whole_training_is_compared(tmp_path, capsys, monkeypatch):
    from molo_jax.data import synthetic
    from parity_tests import training

    counts = {"train": 2, "val": 1, "test": 2}
    generate = functools.partial(synthetic.generate, videos_per_class=counts)
    monkeypatch.setattr(synthetic, "generate", generate)
    small = ["--frames=2", "--way=2", "--backbone=narrow18", "--test_episodes=2"]
    small.append("--precision=float64")
    arguments = ["--steps=1", "--episodes_per_step=1", f"--out={tmp_path / 'parity'}", *small]
    assert training.main(arguments) == 0, capsys.readouterr().err
    result = json.loads((tmp_path / "parity/result.json").read_text())
    assert (tmp_path / "parity/curves.png").stat().st_size > 10_000
    assert result
