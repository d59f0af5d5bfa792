import shlex
import subprocess
import sys

import pytest

from molo_jax.cli import load_config
from molo_jax.config import base_config, config_keys
from molo_jax.config_help import documented_keys, help_of_keys


def test_every_key_is_documented_once_in_the_order_of_its_file():
    groups = documented_keys()
    names = [name for group in groups for name in group.names]
    assert sorted(names) == sorted(config_keys(base_config()))
    assert names[:3] == ["seed", "init_from", "init_new_classifier"]
    assert names[-1] == "runtime.compilation_cache"
    assert all(len(group.meaning) > 10 for group in groups)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("seed", "Every random choice"),
        ("data.crop", "divisible by 32"),
        ("train.episodes_per_step", "the episodes that the gradient of one is averaged over"),
        ("optimizer.base_lr", "highest learning rate"),
        ("optimizer.warmup_steps", "cosine only"),
        ("eval.n_way", "Classes of an episode"),
    ],
)
def test_a_key_has_the_comment_that_stands_above_it_or_above_its_group(name, words):
    (meaning,) = [group.meaning for group in documented_keys() if name in group.names]
    assert words in meaning


def test_the_list_has_the_values_of_the_configuration_as_flags(pytestconfig):
    lines = help_of_keys(
        load_config(str(pytestconfig.rootpath / "configs/synthetic.py"))
    ).splitlines()
    assert "--config.train.steps=1200" in lines
    assert "--config.eval.shots=1 --config.eval.shots=5" in lines
    assert "--config.method.single_direction=false" in lines
    place = lines.index("--config.data.num_frames=8")
    assert lines[place + 1] == "    Frames of a clip."


def test_the_flags_of_the_list_set_the_values_that_they_show():
    config = base_config()
    config.train.steps, config.dataset.name = 17, "two words"
    config.optimizer.base_lr, config.eval.shots = 3e-7, (2, 3)
    flags = [
        flag
        for line in help_of_keys(config).splitlines()
        if line.startswith("--")
        for flag in shlex.split(line)
        # A tuple without elements cannot be given on the command line.
        if flag != "--config.eval.controls="
    ]
    command = [sys.executable, "-m", "molo_jax.main", "--list_keys", "--config=configs/folder.py"]
    printed = subprocess.run([*command, *flags], capture_output=True, text=True, check=False)
    assert printed.stderr == ""
    assert printed.stdout == help_of_keys(config) + "\n"
