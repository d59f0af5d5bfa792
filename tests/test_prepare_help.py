"""The help of the preparation: its flags in groups."""

import subprocess
import sys

import pytest
from absl import flags

from molo_jax import prepare, prepare_help


def test_every_flag_of_the_preparation_is_in_one_group_of_the_help():
    own = {flag.name for flag in flags.FLAGS.flags_by_module_dict()[prepare.__name__]}
    grouped = [name for _, names, _ in prepare_help.GROUPS for name in names]
    assert sorted(grouped) == sorted(own)


def test_the_help_has_groups_layouts_examples_and_defaults():
    lines = prepare_help.text().splitlines()
    titles = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert titles == [
        "Which data:",
        "Which episodes the classes and videos must be enough for:",
        "What is done:",
        "How frames are stored:",
        "Apache Beam, for several machines:",
        "Generated videos:",
    ]
    assert sum(line.startswith("  python -m molo_jax.prepare --dataset=") for line in lines) == 2
    for layout in ("DIR/<class>/*", "DIR/{train,val,test}/<class>/*", "--split_file=", "--splits_"):
        assert any(line.startswith(f"      {layout}") for line in lines)
    assert "  --n_shot          Shots of a test episode. (default 5)" in lines
    assert "  --out             Folder to write the prepared frames into." in lines
    assert max(map(len, lines)) <= 98


@pytest.mark.parametrize("flag", ["--help", "--helpshort"])
def test_help_is_printed_without_failure_or_noise(flag):
    command = [sys.executable, "-m", "molo_jax.prepare", flag]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("Prepares a data set: decodes every video once and stores its")
    assert "absl" not in result.stdout
    assert result.stdout.count("\n  --dataset ") == 1


def test_help_is_asked_for_by_a_flag_of_its_own():
    assert prepare_help.is_asked_for(["--dataset=folder", "--help"])
    assert prepare_help.is_asked_for(["-h"])
    assert not prepare_help.is_asked_for(["--videos", "help", "--out=--help"])
