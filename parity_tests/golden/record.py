"""Records what one implementation computes, in the format of the recorded files.

    python -m parity_tests.golden.record OUT.npz --method=trx --kind=train [--backbone=resnet50] …

Such a file says nothing about the official code. It shows how far rounding alone moves what a
method computes on other networks and episodes than the recorded ones: replay it in float64.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from molo_torch_ref.resnet import BACKBONES
from parity_tests.case import Case
from parity_tests.golden import recipe
from parity_tests.golden.files import KINDS
from parity_tests.golden.replay import load_backend
from parity_tests.methods import METHODS
from parity_tests.recording import Recording

_PROBED = {
    "stages": "stage",
    "gradients": "grad",
    "statistics": "stat",
    "parameters": "param",
}
_RATES, _WEIGHT_DECAY = (1e-4, 5e-5), 1e-3


def record(path: str | Path, case: Case, kind: str, *, by: str = "torch") -> None:
    """Computes a case in float32 and writes what comes out.

    Args:
        path: the file to write.
        case: the settings; `accumulation` counts the episodes of an optimizer step.
        kind: `eval`, `train` or `steps` (two steps).
        by: the backend, `torch` or `jax`.
    """
    module, weights = load_backend(by), case.weights()
    meta, stats = _meta(case, kind), {}
    if kind == "steps":
        meta |= {"no_decay": sorted(module.spared(case)), "weight_decay": _WEIGHT_DECAY}
        meta |= {"lrs": list(_RATES), "steps": len(_RATES), "accum": case.accumulation}
        numbers = np.arange(len(_RATES) * case.accumulation).reshape(len(_RATES), -1)
        batches = ([case.episode(int(number)) for number in row] for row in numbers)
        recording = module.steps(case, weights, batches, rates=_RATES, weight_decay=_WEIGHT_DECAY)
        meta["history"] = _history(case, recording)
    else:
        if kind == "train":
            recording = module.gradients(case, weights, case.episode())
        else:
            recording = module.forward(case, weights, case.episode(), train=False)
            running = ("running_mean", "running_var")
            stats = {f"stats/{n}": a for n, a in weights.items() if n.endswith(running)}
        losses = {name: float(value) for name, value in recording["losses"].items()}
        meta["losses"] = {name: losses[ours] for name, ours in case.names.losses.items()}
        meta["total"] = losses["total"]
    np.savez_compressed(path, meta=json.dumps(meta), **stats, **_arrays(case, kind, recording))


def _meta(case: Case, kind: str) -> dict[str, Any]:
    options = dict(case.options)
    same = ("method", "backbone", "way", "shot", "query", "seed", "frames", "size")
    meta = {name: getattr(case, name) for name in same}
    fields = case.names.coefficients.items()
    meta |= {
        "kind": kind,
        "num_class": case.num_classes,
        "position": list(case.position),
        "multi_shot": int(options.get("prototypes_first", case.shot > 1)),
        "scaled": dict(case.scaled),
        "coef": {name: getattr(case.coefficients, field) for name, field in fields},
    }
    if "temporal" in meta["coef"]:
        settings = {"window": "window", "balance": "balance", "coefficient": "apart_weight"}
        meta["temporal"] = {name: options[ours] for name, ours in settings.items()}
    return meta


def _history(case: Case, recording: Recording) -> list[dict[str, float]]:
    """The terms of every episode: their means over the step, for the backends give no others."""
    entries = []
    for step in range(len(_RATES)):
        values = recording["losses"]
        entry = {n: float(values[f"{step}/{ours}"]) for n, ours in case.names.losses.items()}
        entry["total"] = float(values[f"{step}/total"]) / case.accumulation
        entries += [entry] * case.accumulation
    return entries


def _arrays(case: Case, kind: str, recording: Recording) -> dict[str, np.ndarray]:
    arrays = {}
    if kind != "steps":
        arrays |= {f"out/{name}": array for name, array in recording["outputs"].items()}
    for group, stored in _PROBED.items():
        for name, array in recording.get(group, {}).items():
            module, _, call = name.rpartition("/")
            if name.endswith("num_batches_tracked") or module in case.names.unrecorded:
                continue
            direction = module if call and group == "stages" else name
            arrays[f"{stored}/{name}"] = np.asarray(recipe.probe(direction, array))
    return arrays


def main(argv: Sequence[str] | None = None) -> int:
    """Records the case that `argv` describes."""
    parser = argparse.ArgumentParser(prog="python -m parity_tests.golden.record")
    parser.add_argument("out", metavar="OUT.npz")
    parser.add_argument("--method", choices=tuple(METHODS), required=True)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--backbone", choices=tuple(BACKBONES), default="resnet18")
    parser.add_argument("--by", choices=("torch", "jax"), default="torch", help="what computes")
    for name, default in (("way", 2), ("shot", 1), ("query", 1), ("seed", 101)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name in ("frames", "size"):
        default = getattr(Case(), name)
        parser.add_argument(f"--{name}", type=int, default=default, help=f"of a clip ({default})")
    options = parser.parse_args(argv)
    same = ("method", "backbone", "way", "shot", "query", "seed", "frames", "size")
    case = Case(**{name: getattr(options, name) for name in same})
    settings = {"hyrsm": {"prototypes_first": True}}
    settings["hyrsm_pp"] = settings["hyrsm"] | {"window": 1, "balance": 51.0, "apart_weight": 10.0}
    case = dataclasses.replace(case, options=tuple(settings.get(case.method, {}).items()))
    if options.kind == "steps":
        case = dataclasses.replace(case, accumulation=2)
    if case.method == "trx":
        scaled = tuple((f"transformers.{i}.v_linear.weight", 0.125) for i in range(2))
        case = dataclasses.replace(case, scaled=scaled)
    record(options.out, case, options.kind, by=options.by)
    return 0


if __name__ == "__main__":
    sys.exit(main())
