"""Devices, flags, the cache of compiled programs and traces."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from molo_jax.engine import runtime


def _run(code, **environment):
    """What a process of its own prints, for which JAX has not started yet."""
    given = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=given | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


_SETTINGS = """
import os, sys
from molo_jax.engine import runtime
assert "jax" not in sys.modules
runtime.prepare(deterministic={deterministic}, compilation_cache={cache!r})
import jax
print(os.environ["XLA_FLAGS"])
print(jax.config.jax_compilation_cache_dir)
"""


def test_determinism_is_a_flag_beside_the_others_that_is_set_once():
    code = _SETTINGS.format(deterministic=True, cache="") + (
        "runtime.prepare(deterministic=True, compilation_cache='')\n"
        "print(os.environ['XLA_FLAGS'].count('deterministic'))"
    )
    found = _run(code, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    flags = "--xla_force_host_platform_device_count=2 --xla_gpu_deterministic_ops=true"
    assert found == [flags, "None", "1"]
    assert _run(_SETTINGS.format(deterministic=False, cache="")) == ["", "None"]


def test_compiled_programs_are_kept_in_the_folder_that_is_asked_for(tmp_path):
    user = _SETTINGS.format(deterministic=False, cache="user")
    base = str(tmp_path / "base")
    assert _run(user, XDG_CACHE_HOME=base)[1] == f"{base}/molo_jax/compiled"
    home = _run(user, HOME=str(tmp_path), XDG_CACHE_HOME="")
    assert home[1] == f"{tmp_path}/.cache/molo_jax/compiled"
    own = _SETTINGS.format(deterministic=False, cache=str(tmp_path / "own"))
    assert _run(own)[1] == f"{tmp_path}/own"
    # What the environment says comes first.
    other = str(tmp_path / "elsewhere")
    assert _run(own, JAX_COMPILATION_CACHE_DIR=other)[1] == other


_REFUSED = """
import sys
from molo_jax.engine import runtime
print(runtime.prepare(deterministic=False, compilation_cache={cache!r}))
import jax
print(jax.config.jax_compilation_cache_dir)
"""


def test_without_a_folder_that_can_be_written_programs_are_not_kept_and_it_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    said, folder = _run(_REFUSED.format(cache="user"), XDG_CACHE_HOME=f"{tmp_path}/file")
    assert folder == "None"
    assert said.startswith("compiled programs are not kept, so that the next start compiles again:")
    assert f"'{tmp_path}/file/molo_jax/compiled'; name another folder with --config.r" in said
    said, folder = _run(_REFUSED.format(cache=str(tmp_path / "good")))
    assert (said, folder) == ("", f"{tmp_path}/good")
    variable = {"JAX_COMPILATION_CACHE_DIR": f"{tmp_path}/file/programs"}
    said, _ = _run(_REFUSED.format(cache="user"), **variable)
    assert said.endswith("; name another folder with JAX_COMPILATION_CACHE_DIR=DIR")
    assert f"'{tmp_path}/file/programs'" in said
    # JAX's own business.
    assert _run(_REFUSED.format(cache="user"), JAX_COMPILATION_CACHE_DIR="gs://a/b")[0] == ""


_COUNTED = """
from molo_jax.engine import runtime
runtime.prepare(deterministic=False, compilation_cache={cache!r})
import jax, jax.numpy as jnp
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
with runtime.CacheUse() as use:
    jax.jit(lambda x: jnp.sin(x) + 3)(jnp.ones(5)).block_until_ready()
    print(use.compiled > 0, use.read > 0)
before = use.compiled + use.read
jax.jit(lambda x: jnp.cos(x) * 7)(jnp.ones(5)).block_until_ready()
print(use.compiled + use.read - before)
"""


def test_a_second_process_reads_what_the_first_has_compiled(tmp_path):
    code = _COUNTED.format(cache=str(tmp_path))
    assert _run(code) == ["True False", "0"]
    assert _run(code) == ["False True", "0"]


def test_the_description_names_platform_devices_cache_and_flags(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/x --xla_gpu_deterministic_ops=true")
    first, kept, flags = runtime.description()
    assert first == "JAX computes on the platform cpu, 1 device(s) of the kind cpu"
    assert kept == f"compiled programs are kept in {os.environ['JAX_COMPILATION_CACHE_DIR']}"
    assert flags == "XLA flags: --xla_gpu_deterministic_ops=true"
    devices = [SimpleNamespace(platform="gpu", device_kind="NVIDIA H100")] * 4
    monkeypatch.setattr(jax, "devices", lambda: devices)
    monkeypatch.delenv("XLA_FLAGS")
    described = runtime.description()
    assert described[0] == "JAX computes on the platform gpu, 4 device(s) of the kind NVIDIA H100"
    assert len(described) == 2


@pytest.mark.parametrize(
    ("backend", "gpu", "asked", "expected"),
    [
        ("cpu", "", "", ""),
        ("gpu", "NVIDIA H100", "", ""),
        ("cpu", "NVIDIA H100", "", 'install JAX with CUDA: pip install "molo-jax[cuda]"'),
        ("cpu", "NVIDIA H100", "cpu", "because the environment says JAX_PLATFORMS=cpu; unset it"),
        ("cpu", "NVIDIA H100", "cuda,cpu", "the driver may be too old"),
    ],
)
def test_a_gpu_that_is_not_used_is_named_with_the_remedy(
    monkeypatch, backend, gpu, asked, expected
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(runtime, "nvidia_gpu", lambda: gpu)
    monkeypatch.setenv("JAX_PLATFORMS", asked)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    warning = runtime.unused_gpu()
    assert expected in warning
    assert bool(warning) == bool(expected)
    assert ("(NVIDIA H100)" in warning) == bool(expected)


@pytest.mark.parametrize(("visible", "hidden"), [("", True), ("-1", True), ("0", False)])
def test_a_gpu_that_is_hidden_on_purpose_is_said_to_be(monkeypatch, visible, hidden):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(runtime, "nvidia_gpu", lambda: "NVIDIA H100")
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    told = f"the environment hides it: CUDA_VISIBLE_DEVICES={visible}; unset it"
    assert (told in runtime.unused_gpu()) == hidden


def test_a_gpu_is_found_by_its_files(monkeypatch, tmp_path):
    (tmp_path / "information").write_text("Model: \t\t NVIDIA A100-SXM4-40GB\nIRQ: 3\n")
    places = {"/proc/driver/nvidia/gpus/*/information": [str(tmp_path / "information")]}
    monkeypatch.setattr(runtime.glob, "glob", lambda pattern: places.get(pattern, []))
    assert runtime.nvidia_gpu() == "NVIDIA A100-SXM4-40GB"
    places.clear()
    assert runtime.nvidia_gpu() == ""
    places["/dev/nvidia[0-9]*"] = ["/dev/nvidia1", "/dev/nvidia0"]
    assert runtime.nvidia_gpu() == "/dev/nvidia0"


def _traced(folder, steps, done, calls):
    """What a wrapped step returns for each call, and which calls ran while a trace was open."""
    running, seen, traces = [], [], []
    double = jax.jit(lambda state, batch: (state + batch, {"loss": 2 * state}))
    start, stop = jax.profiler.start_trace, jax.profiler.stop_trace

    def start_and_note(place):
        start(place)
        traces.append(place)

    def stop_and_note():
        traces.clear()
        stop()

    def step(state, batch):
        running.append(bool(traces))
        return double(state, batch)

    state = jnp.float32(done)
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(jax.profiler, "start_trace", start_and_note)
        patch.setattr(jax.profiler, "stop_trace", stop_and_note)
        traced = runtime.profiled(step, steps, done=done, folder=folder)
        wrapped = stack.enter_context(traced)
        for _ in range(calls):
            state, metrics = wrapped(state, jnp.float32(1))
            seen.append((float(state), float(metrics["loss"])))
    return seen, running


def test_the_asked_steps_are_traced_and_compute_what_they_compute_without(tmp_path):
    seen, running = _traced(tmp_path / "trace", (6, 7), done=4, calls=4)
    assert running == [False, True, True, False]
    assert seen == [(n + 1.0, 2.0 * n) for n in range(4, 8)]
    (file,) = tmp_path.rglob("*.xplane.pb")
    assert file.stat().st_size > 1000
    assert (seen, [False] * 4) == _traced(tmp_path / "none", None, done=4, calls=4)
    assert not (tmp_path / "none").exists()


def test_a_trace_that_is_cut_short_is_written(tmp_path):
    _, running = _traced(tmp_path / "trace", (1, 9), done=0, calls=2)
    assert running == [True, True]
    assert list(tmp_path.rglob("*.xplane.pb")) != []
    # A run that goes on behind the steps has nothing to trace.
    assert _traced(Path("/nowhere"), (1, 2), done=2, calls=1)[1] == [False]


def test_steps_that_are_not_reached_and_errors_of_the_profiler_are_said(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(runtime._LOGGER, "warning", lambda text, *a: said.append(text % a))
    _traced(tmp_path / "none", (8, 9), done=0, calls=2)
    assert said.pop().startswith("there is no trace: no step from 8 to 9 was made;")

    def fail(*_):
        raise RuntimeError("no room\nfor it")

    monkeypatch.setattr(jax.profiler, "start_trace", fail)
    seen, running = _traced(tmp_path / "a", (1, 2), done=0, calls=2)
    assert (len(seen), running) == (2, [False, False])
    line = f"a trace cannot be begun in {tmp_path}/a: no room; the training goes on without it"
    assert said == [line]
    monkeypatch.setattr(jax.profiler, "start_trace", lambda _: None)
    monkeypatch.setattr(jax.profiler, "stop_trace", fail)
    _traced(tmp_path / "b", (1, 2), done=0, calls=3)
    assert said[1:] == [line.replace("begun", "written").replace("/a:", "/b:")]
