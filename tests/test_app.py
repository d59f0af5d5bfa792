"""The command of the page: its mistakes, its start, and what stays when it ends."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
from made_weights import torchvision_tensors

from molo_jax import serve


def started(tmp_path, *flags):
    environment = os.environ | {
        "TMPDIR": str(tmp_path / "tmp"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    (tmp_path / "tmp").mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "molo_jax.app", *flags],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "error: --weights=SRC is required, for example --weights=resnet50"),
        (["--weights=x", "--port=70000"], "port"),
        (["--weights=x", "--max_seconds=0"], "max_seconds"),
        (["--wieghts=x"], "error: unknown flag --wieghts; did you mean --weights?"),
    ],
)
def test_a_mistake_in_the_flags_is_said_at_once(tmp_path, flags, message):
    began = time.monotonic()
    process = started(tmp_path, *flags)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 2
    assert message in said
    assert "Traceback" not in said
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--weights=absent.pth"], "error: absent.pth does not exist"),
        (["--weights=x.pth", "--host=0.0.0.0"], "whoever reaches this machine can use it, and it"),
        (["--weights=resnet18", "--unknown=maybe"], "unknown=maybe: expected auto, off or a num"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_leaves_nothing(tmp_path, flags, message):
    pytest.importorskip("gradio")
    process = started(tmp_path, *flags)
    said = process.communicate(timeout=120)[0]
    assert process.returncode in (1, 2)
    assert message in said
    assert "Traceback" not in said
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 0)])
def test_the_page_is_served_and_ends_without_a_trace(tmp_path, number, code):
    pytest.importorskip("gradio")
    from molo_jax.weights import torch_files

    weights = tmp_path / "r18.pth"
    torch_files.write(weights, torchvision_tensors("resnet18"))
    process = started(tmp_path, f"--weights={weights}", "--host=127.0.0.1")
    try:
        lines, address = [], None
        for line in process.stdout:
            lines.append(line)
            if address := re.search(r"the page is at (http://127\.0\.0\.1:\d+/)", line):
                break
        assert address, "".join(lines)
        [folder] = (tmp_path / "tmp").glob("molo_jax-app-*")
        assert folder.stat().st_mode & 0o777 == 0o700
        with urllib.request.urlopen(address[1]) as answer:
            assert "Which action is it?" in answer.read().decode()
        process.send_signal(number)
        said = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert list((tmp_path / "tmp").iterdir()) == []


def test_folders_of_pages_that_were_killed_are_removed_and_those_of_others_are_not(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    for pid in (gone.pid, os.getpid()):
        (tmp_path / f"molo_jax-app-{pid}-x" / "uploads").mkdir(parents=True)
    (tmp_path / "molo_jax-app-notes-x").mkdir()
    (tmp_path / "other").mkdir()
    serve.remove_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"molo_jax-app-{os.getpid()}-x",
        "molo_jax-app-notes-x",
        "other",
    }


def test_gradio_is_told_to_tell_nobody(tmp_path, monkeypatch):
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_SHARE", "GRADIO_ALLOWED_PATHS"):
        monkeypatch.setenv(name, "True")
    for name in ("GRADIO_TEMP_DIR", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("no_proxy", "example.org")
    serve.prepare_environment(tmp_path)
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == os.environ["GRADIO_SHARE"] == "False"
    assert "GRADIO_ALLOWED_PATHS" not in os.environ
    assert os.environ["GRADIO_TEMP_DIR"] == str(tmp_path / "uploads")
    assert os.environ["no_proxy"] == "example.org,127.0.0.1,localhost"
