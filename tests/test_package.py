"""The wheel, built from the source distribution and used without a checkout."""

import email
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import molo_jax

ROOT = Path(__file__).parents[1]
# At the top of a checkout: environments, builds, and what the commands write.
_NO_SOURCE = ("build", "dist", "runs", "data")
_HIDDEN_SOURCE = (".ci", ".github", ".gitignore")
_LARGEST_WHEEL = 2 * 10**6
_BUILD = "from setuptools import build_meta; print(build_meta.build_sdist('dist'))"
_USE = """
import importlib.metadata, importlib.util, json, sys
import molo_jax
loaded = sorted({"jax", "tensorflow", "absl", "torch"} & set(sys.modules))
from importlib import resources
from molo_jax import cli, config_files
templates = [resources.files(f"molo_jax.{n}") / "templates" for n in ("prediction", "reporting")]
print(json.dumps({
    "version": molo_jax.__version__,
    "metadata": importlib.metadata.version("molo-jax"),
    "loaded": loaded,
    "files": [molo_jax.__file__, importlib.util.find_spec("molo_torch_ref").origin],
    "absent": [importlib.util.find_spec(n) is None for n in ("parity_tests", "tests", "configs")],
    "path": sys.path,
    "names": config_files.packaged_names(),
    "packaged": config_files.located("configs/ssv2_5shot.py"),
    "methods": [cli.load_config(f"{n}:trx").method.name for n in ("hmdb51_1shot", "synthetic.py")],
    "templates": {p.name: p.read_text("utf-8") for f in templates for p in f.iterdir()},
}))
"""


def run(*command, cwd, **environment):
    """Runs a command that must succeed; returns what it prints."""
    result = subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=os.environ | environment,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def sources(folder, *kinds):
    """Returns the paths of the files of some kinds below a folder of the checkout."""
    paths = [path for kind in kinds for path in (ROOT / folder).rglob(kind)]
    return {path.relative_to(ROOT).as_posix() for path in paths if "__pycache__" not in path.parts}


def no_source(folder, names):
    """Returns which of the names in a folder are no sources: for `shutil.copytree`."""
    made = {name for name in names if name == "__pycache__" or name.endswith((".pyc", ".pyi"))}
    if Path(folder) == ROOT:
        made |= {name for name in names if name in _NO_SOURCE or name.endswith(".egg-info")}
        made |= {name for name in names if name[0] == "." and name not in _HIDDEN_SOURCE}
    return made


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The source distribution, built from a copy: a build writes beside its sources."""
    copy = tmp_path_factory.mktemp("source") / "molo"
    shutil.copytree(ROOT, copy, ignore=no_source)
    name = run(sys.executable, "-c", _BUILD, cwd=copy, PYTHONPATH="").splitlines()[-1]
    return copy / "dist" / name


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """The wheel, built from nothing but the source distribution, without network."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check")
    options = ("--no-deps", "--no-build-isolation", "--no-index", f"--wheel-dir={folder}/dist")
    run(*pip, *options, unpacked, cwd=folder, PYTHONPATH="")
    (path,) = (folder / "dist").iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with the installed wheel and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    options = ("--no-deps", "--no-index", "--no-compile", f"--target={folder}")
    run(*pip, *options, wheel, cwd=folder, PYTHONPATH="")
    return folder


@pytest.fixture
def use(installed, tmp_path):
    """Runs the installed package in an empty folder, where no checkout is on the path.

    Without `site`, Python reads no `.pth` file, which is how an editable installation is found.
    """
    libraries = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    path = os.pathsep.join([str(installed), *libraries])
    python = (sys.executable, "-S")
    return lambda *words: run(*python, *words, cwd=tmp_path, PYTHONPATH=path, PYTHONSAFEPATH="1")


def test_the_wheel_holds_the_package_its_configurations_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        described = email.message_from_bytes(archive.read(metadata))
    package = sources("molo_jax", "*.py", "py.typed", "*.j2", "*.css", "*.js")
    assert len([name for name in package if "/templates/" in name]) >= 6
    configurations = {f"molo_jax/{name}" for name in sources("configs", "*.py")}
    assert held == package | configurations | sources("molo_torch_ref", "*.py")
    assert wheel.stat().st_size < _LARGEST_WHEEL
    assert wheel.name == f"molo_jax-{molo_jax.__version__}-py3-none-any.whl"
    assert described["License-Expression"] == "Apache-2.0"
    # The description is the README.
    assert "# molo-jax" in described.get_payload()


def test_the_source_distribution_holds_all_that_its_tests_read(sdist):
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    folders = ("tests", "parity_tests", "benchmarks", "docs", "configs", ".github", ".ci")
    kinds = ("*.py", "*.md", "*.png", "*.npz", "*.json", "*.yml", "run")
    wanted = {name for folder in folders for name in sources(folder, *kinds)}
    assert len(wanted) > 200
    top = {path.name for kind in ("*.md", "*.toml", "*.txt", "*.py") for path in ROOT.glob(kind)}
    assert not (wanted | top | {"LICENSE", "Makefile", "CITATION.cff"}) - held
    # No file of the repository is larger; what commands write would be.
    assert sdist.stat().st_size < 5 * 10**6


def test_the_installed_package_is_complete_without_a_checkout(use, installed):
    found = json.loads(use("-c", _USE))
    assert found["version"] == found["metadata"] == molo_jax.__version__
    assert found["loaded"] == []
    assert all(Path(file).is_relative_to(installed) for file in found["files"])
    assert (installed / "molo_jax/py.typed").is_file()
    assert not [path for path in found["path"] if Path(path).is_relative_to(ROOT / "molo_jax")]
    assert str(ROOT) not in found["path"]
    assert found["absent"] == [True, True, True]
    assert found["names"] == sorted(path.stem for path in ROOT.glob("configs/*.py"))
    assert found["packaged"] == str(installed / "molo_jax/configs/ssv2_5shot.py")
    assert found["methods"] == ["trx", "trx"]
    templates = {path.name: path.read_text("utf-8") for path in ROOT.glob("molo_jax/*/templates/*")}
    assert len(templates) >= 6
    assert found["templates"] == templates


def test_the_installed_script_runs_the_commands_with_packaged_configurations(use, installed):
    script = installed / "bin/molo-jax"
    assert use(script, "--version") == f"molo-jax {molo_jax.__version__}\n"
    named = use(script, "main", "--config=ssv2_5shot:hyrsm", "--list_keys")
    assert "\n--config.method.name=hyrsm\n" in named
    assert "\n--config.dataset.name=ssv2\n" in named
    module = ("-m", "molo_jax.main", "--config=configs/ssv2_5shot.py:hyrsm", "--list_keys")
    assert use(*module) == named


def test_the_installed_script_starts_processes_of_its_own(use, installed, tmp_path, write_motion):
    for split in ("train", "val", "test"):
        for class_id in (0, 1):
            for number in (0, 1):
                path = tmp_path / f"videos/{split}/{split}_{class_id}/{number}.mp4"
                write_motion(path, class_id, number, frames=4)
    episodes = ("--n_way=2", "--n_shot=1", "--n_query=1", "--train_n_query=1", "--num_frames=2")
    printed = use(
        installed / "bin/molo-jax",
        *("prepare", "--dataset=folder", f"--videos={tmp_path}/videos", f"--out={tmp_path}/out"),
        *("--resize=32", "--workers=1", *episodes),
    )
    assert "every class has enough videos for the episodes asked" in printed
    # The command that is printed knows the configuration, whose crop is larger than these frames.
    assert "next      python -m molo_jax.main --config=configs/folder.py" in printed
    assert " --config.data.crop=32" in printed
    report = json.loads((tmp_path / "out/report_folder.json").read_text())
    assert report["splits"]["train"]["usable"] == 4


def test_the_checks_run_existing_targets_on_the_versions_of_python_that_the_metadata_name():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    prefix = "Programming Language :: Python :: 3."
    said = [c.removeprefix(prefix) for c in project["classifiers"] if c.startswith(prefix)]
    jobs = yaml.safe_load((ROOT / ".github/workflows/checks.yml").read_text())["jobs"]
    matrix = jobs["make"]["strategy"]["matrix"]
    assert matrix["python"] == [f"3.{minor}" for minor in said]
    allowed = SpecifierSet(project["requires-python"])
    assert all(allowed.contains(f"{version}.0") for version in matrix["python"])
    assert matrix["target"] == ["test", "demo"]
    assert jobs["make"]["steps"][-1] == {"run": "make ${{ matrix.target }}"}
    built = [step["run"] for step in jobs["wheel"]["steps"] if "run" in step]
    assert built == ["make wheel"]
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {*matrix["target"], "wheel"} <= targets


def test_the_citation_is_of_the_last_release_and_of_the_paper_that_the_readme_names():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == "[Unreleased]"
    assert headings[1] == f"[{cited['version']}] - {cited['date-released']}"
    # A version in development comes behind the last release, and a release is the last one.
    now = Version(molo_jax.__version__)
    assert now > Version(cited["version"]) if now.is_devrelease else str(now) == cited["version"]
    (paper,) = cited["references"]
    readme = (ROOT / "README.md").read_text()
    title, authors = (
        re.search(rf"^  {key} += {{(.*)}},$", readme, re.M)[1] for key in ("title", "author")
    )
    assert paper["title"] == title.replace("{", "").replace("}", "")
    names = [f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]]
    assert " and ".join(names) == authors
    assert str(paper["year"]) in re.search(r"^  year +=.*$", readme, re.M)[0]
    assert paper["url"] in readme
