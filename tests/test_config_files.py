"""Where a configuration is looked for, and what is said where it is not found."""

import shutil
from pathlib import Path

import pytest

from molo_jax import config_files
from molo_jax.cli import load_config
from molo_jax.errors import UsageError

ROOT = Path(__file__).parents[1]
MINE = """from molo_jax.config import base_config
def get_config(method="molo"):
    config = base_config(method)
    config.train.steps = {steps}
    return config
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, steps):
    path.parent.mkdir(exist_ok=True)
    path.write_text(MINE.format(steps=steps))


def test_the_packaged_configurations_are_those_of_the_folder_at_the_top_of_the_checkout():
    assert config_files.packaged_folder() == ROOT / "configs"
    assert config_files.packaged_names() == sorted(p.stem for p in ROOT.glob("configs/*.py"))
    assert "ssv2_5shot" in config_files.packaged_names()


@pytest.mark.parametrize(
    "given", ["ssv2_5shot", "ssv2_5shot.py", "configs/ssv2_5shot", "./configs/ssv2_5shot.py"]
)
def test_a_packaged_configuration_is_found_from_any_folder(here, given):
    assert config_files.located(given) == str(ROOT / "configs/ssv2_5shot.py")


def test_a_name_may_be_followed_by_a_method(here):
    config = load_config("ssv2_5shot:hyrsm")
    assert (config.dataset.name, config.method.name) == ("ssv2", "hyrsm")
    assert tuple(config.eval.shots) == (5,)
    assert load_config("configs/ssv2_5shot.py").method.name == "molo"


def test_ones_own_file_comes_before_the_packaged_one(here):
    write(here / "configs/folder.py", steps=21)
    assert load_config("folder").train.steps == 21
    assert load_config("folder.py").train.steps == 21
    assert load_config("configs/folder.py").train.steps == 21
    write(here / "folder.py", steps=11)
    assert load_config("folder").train.steps == 11
    # The other one where its folder is named.
    assert load_config("configs/folder").train.steps == 21
    # A name without extension is a file like any other.
    write(here / "mine", steps=31)
    assert load_config("mine").train.steps == 31
    assert load_config(f"{here}/folder.py:otam").method.name == "otam"


def test_a_folder_of_the_same_name_is_no_configuration(here):
    (here / "folder").mkdir()
    assert load_config("folder").dataset.name == "folder"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("ssv2_5shto", "'ssv2_5shto' does not exist; did you mean ssv2_5shot"),
        ("configs/ssv2_5shots.py", "'configs/ssv2_5shots.py' does not exist; did you mean ssv2_5s"),
        ("ssv2", "'ssv2' does not exist; did you mean ssv2_1shot or ssv2_5shot or "),
        ("SSV2_1shot", "did you mean ssv2_1shot or "),
        ("elsewhere/folder.py", "'elsewhere/folder.py' does not exist; did you mean folder?"),
        ("configs/../folder.py", "does not exist; did you mean folder?"),
        ("none.py", "'none.py' does not exist. Expected the path of a file, or the name of a"),
        ("", "configuration file '' does not exist. Expected"),
        ("own", "configuration file 'own' is a folder. Expected"),
        ("..", "configuration file '..' is a folder. Expected"),
    ],
)
def test_a_typo_gets_the_closest_names_and_the_list(here, given, meant):
    (here / "own").mkdir()
    with pytest.raises(UsageError) as caught:
        load_config(f"{given}:molo")
    message = str(caught.value)
    assert meant in message
    assert message.endswith(", ".join(config_files.packaged_names()))
    assert config_files.find(given) is None


def test_in_an_installed_package_the_configurations_are_inside_of_it(here, monkeypatch):
    (here / "molo_jax").mkdir()
    shutil.copytree(ROOT / "configs", here / "molo_jax/configs")
    # What lies beside an installed package is none of its business.
    write(here / "configs/stranger.py", steps=1)
    monkeypatch.setattr(config_files, "_PACKAGE", here / "molo_jax")
    assert config_files.packaged_folder() == here / "molo_jax/configs"
    assert "stranger" not in config_files.packaged_names()
    assert config_files.located("synthetic") == str(here / "molo_jax/configs/synthetic.py")
