"""What was run in a work folder is recorded line by line."""

import json
import platform

import jax
import pytest

from molo_jax.errors import MoloError
from molo_jax.reporting.commands import record_command, versions


def test_each_command_is_a_line_with_time_and_versions(tmp_path):
    record_command(tmp_path, "first --a='b c'")
    record_command(tmp_path, "second")
    lines = [json.loads(x) for x in (tmp_path / "commands.jsonl").read_text().splitlines()]
    assert [line["command"] for line in lines] == ["first --a='b c'", "second"]
    assert lines[0]["versions"]["jax"] == jax.__version__
    assert lines[0]["time"].endswith("+00:00")
    assert versions()["python"] == platform.python_version()


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MoloError, match=r"absent/commands\.jsonl cannot be written"):
        record_command(tmp_path / "absent", "command")
