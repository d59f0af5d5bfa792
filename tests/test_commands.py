"""`molo-jax COMMAND`, which is `python -m molo_jax.COMMAND`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import programs
import pytest

import molo_jax
from molo_jax.__main__ import COMMANDS

PACKAGE = Path(molo_jax.__file__).parent


def run(*arguments):
    """Runs the one name with arguments: its exit code, what it prints, and what it complains of."""
    result = programs.run("-m", "molo_jax", *arguments)
    return result.returncode, result.stdout, result.stderr


def test_every_command_of_the_package_has_its_name_and_no_other():
    has_one = {
        p.stem for p in PACKAGE.glob("*.py") if re.search(r"^    cli\.run\(", p.read_text(), re.M)
    }
    assert set(COMMANDS) == has_one - {"cli"}


def test_the_help_lists_every_command():
    code, said, errors = run("--help")
    assert (code, errors) == (0, "")
    for name, does in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(does)}$", said, re.M)
    # Without a command the same, and it is a mistake.
    assert run() == (2, "", said)


def test_a_command_gets_its_arguments_and_its_exit_code():
    code, said, errors = run("prepare", "--dataset=imagenet", "--videos=v", "--out=x")
    assert (code, said) == (2, "")
    assert errors.startswith("error: --dataset=imagenet is not known; choose")
    # What stands in a module behind `__main__` is done too: the help in groups.
    code, said, errors = run("prepare", "--help")
    assert (code, errors) == (0, "")
    assert said.startswith("Prepares a data set")
    assert run("main", "--config=synthetic", "--list_keys")[1].startswith("--config.seed=0\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predcit"], "error: unknown command 'predcit'; did you mean predict? The commands are "),
        (["zzz"], "error: unknown command 'zzz'. The commands are prepare, main, summary, "),
        (["--weights=x", "predict"], "error: --weights=x stands before the command; expected "),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message):
    code, said, errors = run(*arguments)
    assert (code, said) == (2, "")
    assert errors.startswith(message)
    assert errors.count("\n") == 1


def test_the_version_is_that_of_the_package_in_every_command():
    line = f"molo-jax {molo_jax.__version__}\n"
    assert run("--version") == (0, line, "")
    # Whatever else is given or lacking.
    assert run("main", "--version") == (0, line, "")
    assert run("compare", "--version", "a") == (0, line, "")
    assert "\n  --[no]version: Print the version" in run("compare", "--help")[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "molo_jax", "--help"],
        ["-m", "molo_jax.prepare", "--help"],
        ["-m", "molo_jax.main", "--help"],
    ],
)
def test_a_reader_of_a_help_may_leave_and_a_full_disk_is_one_line(arguments):
    command = [sys.executable, *arguments]
    reader, writer = os.pipe()
    os.close(reader)
    left = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (left.returncode, left.stderr) == (0, "")
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert "No space left on device" in line
