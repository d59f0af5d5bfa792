"""What is supported is said in one place, and everything else is refused in one sentence."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from molo_jax import platforms
from molo_jax.platforms import obstacle

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
PYTHONS = [f"3.{n}" for n in range(platforms.FIRST_PYTHON[1], platforms.END_OF_PYTHONS[1])]
# Imports the package on a machine that says of itself what it is not.
IMPORT = """
import importlib, os, sys, typing
sys.path.insert(0, {root!r})
sys.argv[0] = {program!r}
{pretend}
try:
    import molo_jax
except ImportError as error:
    print("refused:", error)
else:
    print("imported")
"""
PRETENDED = {
    "musl": (
        "import sysconfig; sysconfig.get_config_var = lambda name: 'cpython-312-x86_64-linux-musl'",
        "needs the C library glibc",
    ),
    "windows": ("sys.platform = 'win32'", "Linux (WSL 2)"),
    "32 bits": ("sys.maxsize = 2**31 - 1", "and this one has 32"),
    "old": ("sys.version_info = (3, 10, 13, 'final', 0)", "this is Python 3.10.13"),
    "new": ("sys.version_info = (3, 14, 0, 'final', 0)", "this is Python 3.14.0"),
    "power": (
        "os.uname = lambda: ('Linux', 'x', '6', '#1', 'ppc64le')",
        "this Python is for linux on ppc64le",
    ),
}


def import_there(pretend, program="program.py"):
    """Imports the package in a process that pretends to be on another machine."""
    code = IMPORT.format(root=str(ROOT), program=program, pretend=pretend)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("version", [(3, 11), (3, 11, 7), (3, 12, 1), (3, 13, 0), (3, 13, 99)])
@pytest.mark.parametrize(
    "machine", [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")]
)
def test_the_supported_machines_and_pythons_have_no_obstacle(machine, version):
    assert obstacle(*machine, 64, version) == ""


@pytest.mark.parametrize(
    ("machine", "bits", "version", "said"),
    [
        (("win32", ""), 64, (3, 12), r"runs on Linux and macOS, and this is Windows; .* \(WSL 2\)"),
        (("cygwin", "x86_64"), 64, (3, 12), "this is Windows"),
        (("linux", "i686"), 32, (3, 12), "a Python of 64 bits, and this one has 32; install one"),
        (("linux", "aarch64"), 32, (3, 12), "this one has 32"),
        (
            ("linux", "riscv64"),
            64,
            (3, 12),
            "for linux on riscv64; use a machine of",
        ),
        (("freebsd14", "x86_64"), 64, (3, 12), "this Python is for freebsd14 on x86_64"),
        (("linux", ""), 64, (3, 12), "this Python is for linux on an unknown processor"),
        (("darwin", "x86_64"), 64, (3, 12), "on Apple silicon, use a Python .* Intel Macs cannot"),
        (
            ("linux", "x86_64"),
            64,
            (3, 10, 13, "final", 0),
            r"3\.11, 3\.12 or 3\.13, and this is",
        ),
        (("linux", "x86_64"), 64, (2, 7, 18), r"this is Python 2\.7\.18; make an environment"),
        (("linux", "x86_64"), 64, (3, 14, 0), r"this is Python 3\.14\.0; .*: python3\.13 -m venv"),
        (("darwin", "arm64"), 64, (4, 0, 0), r"this is Python 4\.0\.0"),
    ],
)
def test_what_is_not_supported_is_named_with_the_remedy(machine, bits, version, said):
    sentence = obstacle(*machine, bits, version)
    assert re.search(said, sentence)
    assert "\n" not in sentence
    assert not sentence.endswith(".")


@pytest.mark.parametrize("name", PRETENDED)
def test_an_import_elsewhere_raises_one_sentence(name):
    pretend, said = PRETENDED[name]
    result = import_there(pretend)
    assert result.returncode == 0, result.stderr
    (line,) = result.stdout.splitlines()
    assert line.startswith("refused: molo-jax ")
    assert said in line


@pytest.mark.parametrize("name", PRETENDED)
@pytest.mark.parametrize("program", ["-m", "/home/me/.local/bin/molo-jax"])
def test_a_command_elsewhere_says_one_line_and_ends_with_2(name, program):
    pretend, said = PRETENDED[name]
    result = import_there(pretend, program)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: molo-jax ")
    assert said in line


def test_python_m_is_a_command(tmp_path):
    # As `python -m` does it: read at the start of every process.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nsys.version_info = (3, 10, 13, 'final', 0)\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "molo_jax.main", "--config=configs/synthetic.py"],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(
        "error: molo-jax needs Python 3.11, 3.12 or 3.13, and this is Python 3.1"
    )


def test_this_machine_is_supported_and_the_package_is_imported():
    assert import_there("").stdout == "imported\n"
    platforms.check_platform()


def test_the_project_the_makefile_and_the_pages_name_the_same_pythons():
    first, end = (".".join(map(str, v)) for v in (platforms.FIRST_PYTHON, platforms.END_OF_PYTHONS))
    assert PROJECT["requires-python"] == f">={first},<{end}"
    *others, last = PYTHONS
    assert f"PYTHONS := {', '.join(others)} or {last}\n" in MAKEFILE
    last_minor = platforms.END_OF_PYTHONS[1] - 1
    bounds = f"not (3, {platforms.FIRST_PYTHON[1]}) <= sys.version_info[:2] <= (3, {last_minor})"
    assert bounds in MAKEFILE
    for page in ("README.md", "docs/platforms.md"):
        assert f"Python {', '.join(others)} or {last}" in (ROOT / page).read_text(), page


def make(*arguments, **environment):
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin"} | environment,
    )


@pytest.fixture
def interpreters(tmp_path):
    """Makes commands that say that they are a Python of some version, and prints what they do."""

    def write(**versions):
        for name, version in versions.items():
            path = tmp_path / name.replace("_", ".")
            path.write_text(
                f"#!/bin/bash\nif [ \"$1\" = --version ]; then echo 'Python {version}'; exit; fi\n"
                f'exec {sys.executable} -c "import sys; sys.version_info ='
                f' ({version.replace(".", ",")}, \'final\', 0); exec(sys.argv[2])" "$@"\n'
            )
            path.chmod(0o755)
        return f"{tmp_path}:/usr/bin:/bin"

    return write


def test_make_finds_the_first_python_that_is_supported(interpreters, tmp_path):
    path = interpreters(python3="3.10.1", python3_13="3.14.2", python3_12="3.12.4")
    result = make("-n", "install", f"VENV={tmp_path}/v", PATH=path)
    assert f"python3.12 -m venv {tmp_path}/v" in result.stdout
    result = make("-n", "test-newest", f"VENV={tmp_path}/v", PATH=path)
    assert f"python3.12 -m venv {tmp_path}/v-newest" in result.stdout


@pytest.mark.parametrize("version", ["3.10.1", "3.14.0"])
def test_make_refuses_another_python_in_one_sentence(version, interpreters, tmp_path):
    path = interpreters(other=version)
    result = make("install", "PYTHON=other", f"VENV={tmp_path}/v", PATH=path)
    assert result.returncode == 2
    assert result.stderr.splitlines()[0] == (
        f"error: molo-jax needs Python 3.11, 3.12 or 3.13 here; 'other' is Python {version}. Name"
        " another: make PYTHON=/path/to/python3.13"
    )
    assert not (tmp_path / "v").exists()


def test_make_says_that_it_found_no_python(tmp_path):
    result = make("install", "PYTHON=", f"VENV={tmp_path}/v")
    assert result.returncode == 2
    assert result.stderr.splitlines()[0] == (
        "error: no Python 3.11, 3.12 or 3.13 was found; install one, or name it:"
        " make PYTHON=/path/to/python3.13"
    )


def test_each_end_of_the_packages_has_its_pythons(interpreters, tmp_path):
    path = interpreters(python3_11="3.11.9", python3_12="3.12.4")
    for target, other, needed in (
        ("oldest", "python3.12", "3.11"),
        ("newest", "python3.11", "3.12 or 3.13"),
    ):
        variable = f"PYTHON_{target.upper()}"
        result = make(f"test-{target}", f"{variable}={other}", f"VENV={tmp_path}/v", PATH=path)
        assert result.returncode == 2
        assert f"molo-jax needs Python {needed} here; '{other}' is" in result.stderr
        assert f"make {variable}=/path/to/python{needed[-4:]}\n" in result.stderr


def test_make_says_that_an_interpreter_is_not_there(tmp_path):
    result = make("install", "PYTHON=python3.99", f"VENV={tmp_path}/v")
    assert result.returncode == 2
    assert result.stderr.startswith("error: 'python3.99' was not found. Name a Python 3.11, ")


def test_make_refuses_an_environment_of_another_python(interpreters, tmp_path):
    interpreters(python="3.10.13")
    (tmp_path / "v/bin").mkdir(parents=True)
    (tmp_path / "python").rename(tmp_path / "v/bin/python")
    result = make("install", f"VENV={tmp_path}/v")
    assert result.returncode == 2
    assert result.stderr.startswith(
        f"error: molo-jax needs Python 3.11, 3.12 or 3.13, and {tmp_path}/v was made with Python"
        f" 3.10.13; remove {tmp_path}/v, then run make again\n"
    )


# The oldest and the newest packages

_BOUND = re.compile(r"([\w.-]+)(?:\[[\w,-]*\])?>=([\w.]+)(?:,[^;]*)?(; .*)?")


def lower_bounds():
    """The oldest version of every package that pyproject.toml names, with its marker."""
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    named = [line for group in groups for line in group if not line.startswith("molo-jax[")]
    # The one without a bound: JAX's own extra, whose version is that of `jax`.
    named = [line for line in named if line != "jax[cuda12]"]
    found = [_BOUND.fullmatch(line) for line in named]
    assert all(found), named
    return {f"{m[1]}=={m[2]}{m[3] or ''}" for m in found}


def pins(name):
    lines = (ROOT / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_the_oldest_constraints_are_the_lower_bounds_of_the_project():
    torch = {line for line in lower_bounds() if line.startswith("torch==")}
    assert len(torch) == 1
    expected = lower_bounds() - torch | {"torch==2.13.0"}
    assert sorted(pins("constraints-oldest.txt")) == sorted(expected)


def test_every_set_of_constraints_holds_the_same_pytorch_and_the_newest_nothing_else():
    assert pins("constraints-newest.txt") == ["torch==2.13.0"]
    for name in ("constraints.txt", "constraints-oldest.txt"):
        assert "torch==2.13.0" in pins(name)


def test_decord_is_asked_for_only_where_it_has_wheels():
    (line,) = [d for d in PROJECT["dependencies"] if d.startswith("decord")]
    assert line == "decord>=0.6.0; sys_platform == 'linux' and platform_machine == 'x86_64'"


def test_the_tests_of_the_core_exist_and_need_no_pytorch():
    (listed,) = re.findall(r"^CORE_TESTS \?= ((?:.*\\\n)*.*)$", MAKEFILE, re.M)
    words = listed.replace("\\\n", " ").split()
    left_out = {word.removeprefix("--ignore=") for word in words if word.startswith("--ignore=")}
    paths = [ROOT / word for word in words if not word.startswith("--")]
    assert all(path.exists() for path in paths)
    files = {file for path in paths for file in ([path] if path.is_file() else path.rglob("*.py"))}
    kept = [path for path in files if str(path.relative_to(ROOT)) not in left_out]
    assert len(kept) > 50
    for path in kept:
        assert not re.search(r"^(import|from) (torch|gradio|onnx|apache)", path.read_text(), re.M)
