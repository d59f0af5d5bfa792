"""Who may import whom: commands -> training -> model, and commands -> data."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "molo_jax"
NO_TENSORFLOW = (
    "molo_jax.config",
    "molo_jax.convert",
    "molo_jax.weights.networks",
    "molo_jax.model",
    "molo_jax.weights.torch_map",
    "molo_jax.engine.checkpoint",
    "molo_jax.engine.evaluation",
    "molo_jax.engine.metrics",
    "molo_jax.engine.schedule",
    "molo_jax.engine.step",
    "molo_jax.data.augment",
    "molo_jax.data.decode",
    "molo_jax.data.episodes",
    "molo_jax.data.splits",
    "molo_jax.data.synthetic",
    "molo_jax.weights.torch_files",
)


def imported(path):
    """Returns the full names of what a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def offenders(folder, forbidden, allowed=()):
    """Returns the imports of the files in a folder that begin with a forbidden name."""
    found = []
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        for name in imported(path):
            if path.name not in allowed and any(
                (name + ".").startswith(f"{f}.") for f in forbidden
            ):
                found.append((path.name, name))
    return found


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        (
            "model",
            ("molo_jax.data", "molo_jax.engine", "molo_jax.config", "absl", "ml_collections"),
        ),
        ("training", ("molo_jax.data", "molo_jax.config", "tensorflow", "ml_collections")),
        ("data", ("molo_jax.model", "molo_jax.engine", "molo_jax.config", "flax")),
    ],
)
def test_imports_go_downwards_only(folder, forbidden):
    assert offenders(folder, forbidden) == []


def test_one_file_knows_pytorch_and_only_when_it_is_needed():
    assert offenders(".", ("torch", "safetensors"), allowed=("torch_files.py",)) == []
    program = (
        "import sys, molo_jax.convert, molo_jax.weights.networks; print('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert result.stdout == "False\n", result.stderr


def test_the_files_of_a_training_are_looked_for_before_anything_slow_is_imported():
    program = "import sys, molo_jax.weights.imagenet, molo_jax.main;"
    program += " print({'jax', 'tensorflow', 'torch', 'flax'} & sys.modules.keys())"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert result.stdout == "set()\n", result.stderr


def test_the_weight_map_needs_nothing_but_numpy():
    own = {"collections", "re", "numpy"}
    assert {name.split(".")[0] for name in imported(PACKAGE / "model/torch_map.py")} == own


def test_the_data_package_leaves_jax_to_the_augmentation():
    assert offenders("data", ("jax",), allowed=("augment.py",)) == []
    assert offenders("data", ("jax",)) != []


def test_what_needs_no_files_does_not_wait_for_tensorflow():
    program = "import sys, {}; print('tensorflow' in sys.modules)".format(", ".join(NO_TENSORFLOW))
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert result.stdout == "False\n", result.stderr
