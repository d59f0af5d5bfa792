"""Trains every method on the generated videos, evaluates it on new classes, and prints one table.

    python benchmarks/methods.py

The methods have the budget of the demo (configs/synthetic.py) and the same data, which are made
first, in <out>/data. Each runs in a process of its own with the work folder <out>/<method>, where
its output is in log.txt. All seven take about an hour on 2 cores.

A command that was stopped goes on where it was: a method whose results are there is not run again,
and one that was in training goes on from its last checkpoint. The times are those of all attempts
together. A method that fails is named in one line, and the others go on; the exit code is 1 then.

    python benchmarks/methods.py --method=molo,otam --steps=50 --episodes=100 --out=runs/small
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _workers import processor
from absl import flags
from ml_collections import ConfigDict

from molo_jax import cli
from molo_jax.config import config_keys
from molo_jax.console import show_error
from molo_jax.errors import MoloError, UsageError
from molo_jax.files import parse_json, read_json, write_json, written
from molo_jax.methods.settings import METHODS
from molo_jax.stopping import ending_at_once

ROOT = Path(__file__).resolve().parents[1]
# In the folder of a method: its configuration and the seconds that it has taken so far.
RUN_FILE = "run.json"
LOG_FILE = "log.txt"
# Seconds between two notes of the time, all that a killed command loses of it.
_NOTE_SECONDS = 2.0
# Seconds after which a process that is to end is asked again.
_PATIENCE_SECONDS = 5.0

_METHODS = flags.DEFINE_list("method", list(METHODS), "Methods to compare, with commas.")
_OUT = flags.DEFINE_string("out", "runs/methods", "Folder of the work folders.")
_DATA = flags.DEFINE_string(
    "data",
    None,
    "Prepared folder of the dataset synthetic; by default <out>/data, which is made where it is"
    " not complete.",
)
_STEPS = flags.DEFINE_integer(
    "steps", None, "Steps of training, in place of the demo's.", lower_bound=1
)
_EPISODES = flags.DEFINE_integer(
    "episodes", None, "Episodes of each evaluation, in place of the demo's.", lower_bound=2
)


def main(argv: Sequence[str]) -> None:
    """Runs the comparison with the parsed flags."""
    del argv
    named = _METHODS.value
    if not named or not set(named) <= set(METHODS) or len(set(named)) < len(named):
        raise UsageError(f"--method is {','.join(named)}; expected some of {','.join(METHODS)}")
    out = Path(_OUT.value).absolute()
    data = Path(_DATA.value).absolute() if _DATA.value else out / "data"
    with ending_at_once():
        if not _DATA.value:
            _prepare(data)
        runs = {name: _Run(name, out / name, data) for name in named}
        failed = [name for name, run in runs.items() if not _succeeds(run)]
    done = [run for name, run in runs.items() if name not in failed]
    if done:
        print("\n".join(_table(done)))
    if failed:
        raise MoloError(f"{len(failed)} of {len(runs)} methods failed: {', '.join(failed)}")


def _prepare(data: Path) -> None:
    print(f"preparing the generated videos in {data}", flush=True)
    arguments = ("-m", "molo_jax.prepare", "--dataset=synthetic", f"--out={data}")
    code = _call([sys.executable, *arguments], None, lambda seconds: None)
    if code:
        raise MoloError(f"the videos could not be prepared (exit code {code}, see above)")


def _succeeds(run: "_Run") -> bool:
    """Runs a method unless it is finished; says in one line what failed."""
    try:
        run.finish()
    except MoloError as error:
        show_error(f"{run.name}: {error}")
        return False
    return True


class _Run:
    """The training and the evaluation of one method."""

    def __init__(self, name: str, folder: Path, data: Path):
        self.name, self.folder = name, folder
        path = f"{ROOT}/configs/synthetic.py:{name}"
        config = cli.load_config(path)
        changes = {"data.prepared": str(data), **_budget(config)}
        config.update_from_flattened_dict(changes)
        self.config = config
        overrides = [f"--config.{key}={value}" for key, value in changes.items()]
        self._command = [
            *(sys.executable, "-m", "molo_jax.main", f"--config={path}"),
            *(f"--workdir={folder}", *overrides),
        ]

    def finish(self) -> None:
        """Trains and evaluates, as far as that has not been done.

        Raises:
            MoloError: that failed, or the folder is that of a run with another configuration.
        """
        before = self._seconds_before()
        if all(path.exists() for path in self._result_files()):
            print(f"{self.name}: the results in {self.folder} are taken", flush=True)
            return
        print(f"{self.name}: {'going on' if before else 'training'} in {self.folder}", flush=True)
        with written(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / LOG_FILE
        code = _call(self._command, log, lambda seconds: self._note(before + seconds))
        if code:
            raise MoloError(f"exit code {code}: {_last_line(log)} ({log})")

    def seconds(self) -> float:
        """Returns the time that all attempts together have taken."""
        return self._noted()["seconds"]

    def results(self) -> list[dict[str, Any]]:
        """Reads the results, one for each number of shots."""
        remedy = f"remove {self.folder} and run the command again"
        return [read_json(path, remedy) for path in self._result_files()]

    def _result_files(self) -> list[Path]:
        section = self.config.eval
        return [
            self.folder / f"eval_{section.split}_{section.n_way}way_{shot}shot.json"
            for shot in section.shots
        ]

    def _seconds_before(self) -> float:
        if not (self.folder / RUN_FILE).exists():
            if self.folder.is_dir() and any(self.folder.iterdir()):
                raise MoloError(
                    f"{self.folder} holds no {RUN_FILE}, so it is not known what it holds; remove"
                    " the folder, or choose another with --out"
                )
            return 0.0
        noted, now = self._noted()["config"], _as_json(self.config)
        for key in sorted({*config_keys(noted), *config_keys(now)}):
            values = [_value(config, key) for config in (noted, now)]
            if values[0] != values[1]:
                raise MoloError(
                    f"{self.folder} holds a run with {key} {values[0]!r}, asked for is"
                    f" {values[1]!r}; remove the folder, or choose another with --out"
                )
        return self.seconds()

    def _noted(self) -> dict[str, Any]:
        return read_json(self.folder / RUN_FILE, f"remove {self.folder}")

    def _note(self, seconds: float) -> None:
        content = {"seconds": seconds, "config": _as_json(self.config)}
        write_json(self.folder / RUN_FILE, content)


def _budget(config: ConfigDict) -> dict[str, int]:
    """Returns what --steps and --episodes change."""
    changes = {}
    if _STEPS.value is not None:
        changes["train.steps"] = _STEPS.value
        changes["optimizer.warmup_steps"] = min(config.optimizer.warmup_steps, _STEPS.value // 2)
    if _EPISODES.value is not None:
        changes["eval.episodes"] = _EPISODES.value
        changes["train.val_episodes"] = min(config.train.val_episodes, _EPISODES.value)
    return changes


def _as_json(config: ConfigDict) -> dict[str, Any]:
    return parse_json(config.to_json())


def _value(config: dict[str, Any], key: str) -> Any:
    found: Any = config
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _call(command: Sequence[str], log: Path | None, note: Callable[[float], None]) -> int:
    """Runs a command to its end, which a signal to this process is to it too.

    Args:
        command: program and arguments.
        log: file that its output is added to; by default that of this process.
        note: called with the seconds so far, every now and then and at the end.

    Returns:
        The exit code.
    """
    began = time.monotonic()
    note(0.0)
    stream = log.open("a", encoding="utf-8") if log else None
    child = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=ROOT)
    try:
        while True:
            try:
                return child.wait(_NOTE_SECONDS)
            except subprocess.TimeoutExpired:
                note(time.monotonic() - began)
    finally:
        _end(child)
        if stream:
            stream.close()
        note(time.monotonic() - began)


def _end(child: subprocess.Popen) -> None:
    """Waits until a process has ended, which is asked to as long as it runs.

    A signal can get lost while the process starts.
    """
    while child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_PATIENCE_SECONDS)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line.strip() for line in lines if line.strip()]
    return said[-1].removeprefix("error: ") if said else "it said nothing"


def _table(runs: Sequence[_Run]) -> list[str]:
    """The lines of the Markdown table, behind one that says what it shows."""
    config = runs[0].config
    section = config.eval
    head = (
        f"{config.dataset.name}, {section.split} split: {section.n_way}-way accuracy in % with 95 %"
        f" intervals over {section.episodes} episodes, after {config.train.steps} steps of training"
        f" ({config.model.backbone}; {processor()})"
    )
    columns = ["method", *(f"{shot}-shot" for shot in section.shots), "minutes"]
    lines = ["", head, "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for run in runs:
        cells = [f"{100 * r['accuracy']:.1f} ± {100 * r['ci95']:.1f}" for r in run.results()]
        cells = [METHODS[run.name].title, *cells, f"{run.seconds() / 60:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    cli.run(main)
