import ast
import dataclasses
import runpy
from pathlib import Path

import pytest

from molo_jax.config import base_config, config_keys
from molo_jax.config_checks import validate
from molo_jax.data.augment import AugmentConfig

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(ROOT.glob("configs/*.py"))
NOT_READERS = ("config.py", "config_checks.py", "presets.py")


def attribute_chains(source):
    """Returns the last two names of every attribute access: `a.b.c.d` gives `c.d`, `b.c`, `a.b`."""
    chains = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = getattr(owner, "id", getattr(owner, "attr", ""))
            chains.add(f"{name}.{node.attr}")
    return chains


def keys_read_by_the_package():
    chains = set()
    for path in (ROOT / "molo_jax").rglob("*.py"):
        if path.name not in NOT_READERS:
            chains |= attribute_chains(path.read_text())
    return chains | {chain.removeprefix("config.") for chain in chains}


def test_every_key_of_the_configuration_is_read_by_the_package():
    unread = set(config_keys(base_config())) - keys_read_by_the_package()
    # One record takes this section as a whole.
    unread -= {f"augment.{field.name}" for field in dataclasses.fields(AugmentConfig)}
    # A method's own settings are read by the method: as `settings.NAME`, where `config` is none.
    own = {f"settings.{name.removeprefix('method.')}" for name in unread}
    assert not own - keys_read_by_the_package()


def test_a_key_that_nobody_reads_would_be_found():
    assert "train.stepss" not in keys_read_by_the_package()
    assert attribute_chains("x = self._config.train.steps") >= {"train.steps", "_config.train"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_is_valid_and_locked(path):
    config = runpy.run_path(str(path))["get_config"]()
    validate(config)
    assert config_keys(config) == config_keys(base_config())
    with pytest.raises(AttributeError):
        config.train.stepss = 1
