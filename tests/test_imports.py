"""Who may import whom: commands -> engine and data -> methods -> backbones -> nn."""

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
    "molo_jax.methods.molo",
    "molo_jax.weights.torch_map",
    "molo_jax.engine.checkpoint",
    "molo_jax.engine.evaluation",
    "molo_jax.engine.mesh",
    "molo_jax.engine.metrics",
    "molo_jax.engine.schedule",
    "molo_jax.engine.step",
    "molo_jax.training_cost",
    "molo_jax.data.augment",
    "molo_jax.data.video.decode",
    "molo_jax.data.clips.episodes",
    "molo_jax.data.lists.splits",
    "molo_jax.data.synthetic",
    "molo_jax.weights.torch_files",
    "molo_jax.predict_run",
)
# What is had before anything slow is imported: mistakes in the flags and in the files are said at
# once.
QUICK = (
    "molo_jax.app",
    "molo_jax.compare",
    "molo_jax.main",
    "molo_jax.embed",
    "molo_jax.summary",
    "molo_jax.predict",
    "molo_jax.report",
    "molo_jax.export",
    "molo_jax.config",
    "molo_jax.config_checks",
    "molo_jax.presets",
    "molo_jax.methods.settings",
    "molo_jax.backbones",
    "molo_jax.benchmarks",
    "molo_jax.weights.imagenet",
    "molo_jax.weights.torch_map",
)
# Room -> what it may import of this package beside itself, errors and files.
ROOMS = {
    "nn": (),
    "backbones": ("molo_jax.nn",),
    "methods": ("molo_jax.backbones", "molo_jax.nn"),
    # Statistics on arrays.
    "analysis": (),
    # No concrete method: the engine sees what all of them have in common.
    "engine": (
        "molo_jax.methods.base",
        "molo_jax.methods.episode",
        "molo_jax.methods.settings",
        "molo_jax.methods.streams",
        "molo_jax.nn",
        "molo_jax.analysis",
        # How tensors were named in older files.
        "molo_jax.old_checkpoints",
    ),
    # What is recorded of the benchmarks needs nothing of the package.
    "benchmarks": (),
    "data": ("molo_jax.benchmarks", "molo_jax.console", "molo_jax.downloads"),
    "weights": (
        "molo_jax.methods",
        "molo_jax.backbones",
        "molo_jax.engine.checkpoint",
        "molo_jax.downloads",
    ),
    # Networks on one's own videos: without configuration, flags and TensorFlow.
    "prediction": (
        # Not what uses TensorFlow, which NO_TENSORFLOW shows.
        "molo_jax.data",
        *("molo_jax.engine.mesh", "molo_jax.engine.runtime", "molo_jax.engine.step"),
        *("molo_jax.methods", "molo_jax.backbones", "molo_jax.nn", "molo_jax.weights"),
        *("molo_jax.provenance", "molo_jax.downloads"),
    ),
    # Features on disk: how a file describes their structure is that of predictions.
    "bank": (
        *("molo_jax.data.clips", "molo_jax.data.lists"),
        *("molo_jax.prediction.container", "molo_jax.prediction.trees"),
    ),
    # What people see. The configuration is read by the command.
    "reporting": (
        *("molo_jax.analysis", "molo_jax.data", "molo_jax.engine", "molo_jax.methods"),
        *("molo_jax.evaluate", "molo_jax.evaluator", "molo_jax.results", "molo_jax.provenance"),
        *("molo_jax.nn.precision", "molo_jax.prediction.report", "molo_jax.stored_config"),
        *("molo_jax.bank", "molo_jax.banks"),
    ),
    # The only room that reads the configuration.
    "build": (
        *("molo_jax.config", "molo_jax.data", "molo_jax.engine", "molo_jax.weights"),
        *("molo_jax.methods", "molo_jax.backbones", "molo_jax.nn.precision"),
        *("molo_jax.resume", "molo_jax.evaluate", "molo_jax.evaluated"),
        *("molo_jax.evaluator", "molo_jax.provenance", "molo_jax.stored_config"),
        *("molo_jax.benchmarks", "molo_jax.same_data"),
    ),
}
# The files beside the rooms that know the configuration: its definition, and the commands.
KNOW_THE_CONFIGURATION = {
    *("config.py", "config_checks.py", "config_help.py", "presets.py", "cli.py"),
    *(
        "main.py",
        "embed.py",
        "prepare.py",
        "convert.py",
        "summary.py",
        "training_cost.py",
        "next_step.py",
    ),
    "report_run.py",
}
EVERYWHERE = ("molo_jax.errors", "molo_jax.files")
# What knows no configuration and no command line.
NO_COMMAND = ("absl", "ml_collections")


def imported(path):
    """Returns the full names of what a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by a relative name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def is_in(name, modules):
    """Whether a name is that of one of the modules, or of something in one."""
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def files_of(room):
    paths = sorted((PACKAGE / room).rglob("*.py"))
    assert paths, f"there is no room {room}"
    return paths


def offenders(room, forbidden, allowed=()):
    """Returns the imports of the files in a room that are in a forbidden module."""
    return [
        (path.name, name)
        for path in files_of(room)
        for name in sorted(imported(path))
        if path.name not in allowed and is_in(name, forbidden)
    ]


def loaded_by(modules, watched):
    """Imports modules in a new process; returns which of the watched ones that has loaded."""
    program = f"import sys, {', '.join(modules)}; print(*sorted({set(watched)} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_every_folder_of_the_package_is_a_room_with_rules():
    folders = {path.parent.name for path in PACKAGE.glob("*/*.py")}
    assert folders == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_is_below_it_only(room):
    allowed = (f"molo_jax.{room}", *ROOMS[room], *EVERYWHERE)
    found = [
        (path.name, name)
        for path in files_of(room)
        for name in sorted(imported(path))
        if is_in(name, ("molo_jax",)) and not is_in(name, allowed)
    ]
    assert found == []


@pytest.mark.parametrize("room", ["nn", "backbones", "methods", "engine", "prediction", "bank"])
def test_what_computes_knows_no_configuration_and_no_command_line(room):
    assert offenders(room, (*NO_COMMAND, "tensorflow", "tensorflow_datasets")) == []


def test_nothing_below_the_commands_and_the_room_that_builds_knows_the_configuration():
    knowing = {
        path.relative_to(PACKAGE).as_posix()
        for path in files_of(".")
        if any(
            is_in(n, ("ml_collections", "molo_jax.config", "molo_jax.build"))
            for n in imported(path)
        )
    }
    assert {name for name in knowing if not name.startswith("build/")} <= KNOW_THE_CONFIGURATION


def test_the_data_know_no_network_and_leave_jax_to_the_augmentation():
    assert offenders("data", ("flax", "optax", "orbax", "ml_collections")) == []
    assert offenders("data", ("jax",), allowed=("augment.py",)) == []
    assert offenders("data", ("jax",)) != []


def test_one_file_knows_pytorch_and_only_when_it_is_needed():
    found = offenders(".", ("torch", "safetensors"))
    assert {name for name, _ in found} == {"torch_files.py"}
    assert loaded_by(["molo_jax.convert", "molo_jax.weights.networks"], ["torch"]) == []


@pytest.mark.parametrize("module", QUICK)
def test_a_mistake_in_flags_or_files_is_found_before_anything_slow_is_imported(module):
    slow = ["jax", "flax", "tensorflow", "tensorflow_datasets", "torch"]
    assert loaded_by([module], slow) == []


def test_the_weight_map_needs_nothing_but_numpy_and_the_two_tables():
    tables = {"molo_jax.backbones.BACKBONES", "molo_jax.methods.settings"}
    names = imported(PACKAGE / "weights/torch_map.py")
    outside = {name.split(".")[0] for name in names} - sys.stdlib_module_names
    assert outside == {"numpy", "molo_jax"}
    own = {name for name in names if name.startswith("molo_jax.")}
    assert all(is_in(name, tables) for name in own), own


def test_what_needs_no_files_does_not_wait_for_tensorflow():
    assert loaded_by(NO_TENSORFLOW, ["tensorflow"]) == []
