"""Computes what a file recorded, with one of the implementations, and measures the differences."""

import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from parity_tests.case import Case
from parity_tests.golden import recipe
from parity_tests.golden.files import GoldenFile, RefusedError
from parity_tests.methods import is_fixed, judged_by
from parity_tests.recording import Recording, output_error
from parity_tests.tolerances import GROUPS, GoldenBounds, golden_bounds

BACKENDS = ("jax", "torch")
# Group of the report -> group of the file's probes.
_PROBED = {
    "stages": "stage",
    "gradients": "grad",
    "statistics": "stat",
    "parameters": "param",
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """The worst error of one kind in one group.

    Attributes:
        group: `outputs`, `stages`, `losses`, `gradients`, `statistics`, `parameters`.
        measure: `value`; `step 1` and so on for the losses of optimizer steps; or for probes
            `norm`, `median norm`, `projection`.
        name: the quantity with the worst error; for a median, how many there are.
        error: the error, relative (to the norm, for probes).
        bound: the largest that rounding explains.
    """

    group: str
    measure: str
    name: str
    error: float
    bound: float

    @property
    def inside(self) -> bool:
        """Whether the error is inside the tolerance; one that is no number is not."""
        return bool(self.error <= self.bound)


def replay(file: GoldenFile, backend: str, *, double: bool = False) -> list[Finding]:
    """Computes what the file recorded and compares all of it; as :func:`compare`."""
    return compare(file, compute(file, backend, double=double), backend)


def compare(file: GoldenFile, ours: Recording, backend: str) -> list[Finding]:
    """Compares all that the file recorded with a computation.

    Args:
        file: the recorded values.
        ours: what :func:`compute` returned. Of float64 the errors are the rounding of what was
            recorded.
        backend: `jax` or `torch`.

    Returns:
        The worst errors, group by group.

    Raises:
        RefusedError: if the backend does not have the file's method.
    """
    bounds = golden_bounds(file.case.method, file.kind, file.case.backbone)
    found = findings(file, ours, bounds)
    if file.kind == "steps":
        found.append(_decay(file, load_backend(backend).spared(file.case)))
    return found


def compute(file: GoldenFile, backend: str, *, double: bool = False) -> Recording:
    """Computes what the file recorded; arguments as for :func:`replay`."""
    module = load_backend(backend)
    case = file.case
    if case.method not in module.METHODS:
        known = ", ".join(module.METHODS)
        raise RefusedError(f"{file.path}: {backend} computes {known}, and not {case.method}")
    if file.kind == "steps":
        count = file.meta["accum"]
        batches = (
            [case.episode(step * count + number) for number in range(count)]
            for step in range(file.meta["steps"])
        )
        options = {"rates": file.meta["lrs"], "weight_decay": file.meta["weight_decay"]}
        return module.steps(case, case.weights(), batches, double=double, **options)
    if file.kind == "train":
        return module.gradients(case, case.weights(), case.episode(), double=double)
    weights = case.weights(file.arrays["stats"])
    return module.forward(case, weights, case.episode(), train=False, double=double)


def findings(file: GoldenFile, ours: Recording, bounds: GoldenBounds) -> list[Finding]:
    """Compares a computation with what the file recorded."""
    found = []
    if "out" in file.arrays:
        errors = {n: output_error(ours["outputs"][n], a) for n, a in file.arrays["out"].items()}
        found.append(_worst("outputs", "value", errors, bounds.outputs))
    if file.kind == "steps" or "losses" in file.meta:
        found += _loss_findings(file, ours["losses"], bounds)
    for group, stored in _PROBED.items():
        if stored in file.arrays:
            cancelled = file.case.names.cancelled if group == "gradients" else ()
            found += _probed(group, file.arrays[stored], ours[group], bounds, cancelled)
    return sorted(found, key=lambda finding: GROUPS.index(finding.group))


def recorded(path: Path, case: Case, recording: Recording) -> GoldenFile:
    """Returns a computation of an episode with its gradients as if it had been read from a file."""
    losses = {name: float(recording["losses"][ours]) for name, ours in case.names.losses.items()}
    meta = {"losses": losses, "total": float(recording["losses"]["total"])}
    names = {group: list(recording[group]) for group in _PROBED if group in recording}
    names["stages"] = [
        n for n in names["stages"] if n.rpartition("/")[0] not in case.names.unrecorded
    ]
    arrays = {
        _PROBED[group]: {
            name: np.array(recipe.probe(_direction(group, name), recording[group][name]))
            for name in names[group]
        }
        for group in names
    }
    # Of the statistics the counters are not recorded.
    arrays["stat"] = {n: a for n, a in arrays["stat"].items() if "num_batches" not in n}
    return GoldenFile(path, "train", case, meta, arrays | {"out": dict(recording["outputs"])})


def _direction(group: str, name: str) -> str:
    """The name a probe's direction was drawn for: of stages without the number of the call."""
    return name.rpartition("/")[0] if group == "stages" else name


def load_backend(name: str) -> ModuleType:
    return importlib.import_module(f"parity_tests.{name}_backend")


def _losses(file: GoldenFile) -> Iterator[tuple[str, float]]:
    """Yields our names and the recorded values; of steps, means over their episodes."""
    names = file.case.names.losses
    if file.kind != "steps":
        for name, value in file.meta["losses"].items():
            yield names[name], value
        yield "total", file.meta["total"]
        return
    count = file.meta["accum"]
    for step in range(file.meta["steps"]):
        entries = file.meta["history"][step * count : (step + 1) * count]
        for name, ours in names.items():
            yield f"{step}/{ours}", float(np.mean([entry[name] for entry in entries]))
        # What every episode adds to the loss of its step was recorded, so the sum is that loss.
        yield f"{step}/total", float(np.sum([entry["total"] for entry in entries]))


def _loss_findings(
    file: GoldenFile, ours: Mapping[str, np.ndarray], bounds: GoldenBounds
) -> list[Finding]:
    """Compares the losses, those of each optimizer step by themselves."""
    errors: dict[int, dict[str, float]] = {}
    for name, recorded in _losses(file):
        step = int(name.partition("/")[0]) if file.kind == "steps" else 0
        errors.setdefault(step, {})[name] = _scalar_error(ours[name], recorded)
    measures = {step: f"step {step + 1}" if file.kind == "steps" else "value" for step in errors}
    return [
        _worst("losses", measures[step], found, bounds.loss(step)) for step, found in errors.items()
    ]


def _scalar_error(ours: np.ndarray, recorded: float) -> float:
    return abs(float(ours) - recorded) / max(abs(recorded), np.finfo(np.float32).tiny)


def _probed(
    group: str,
    recorded: Mapping[str, np.ndarray],
    ours: Mapping[str, np.ndarray],
    bounds: GoldenBounds,
    cancelled: tuple[str, ...],
) -> list[Finding]:
    norms, projections = {}, {}
    for name, (norm, projection) in recorded.items():
        our_norm, our_projection = recipe.probe(_direction(group, name), ours[name])
        scale = max(abs(recorded[judged_by(name, cancelled)][0]), np.finfo(np.float32).tiny)
        norms[name] = abs(our_norm - norm) / scale
        projections[name] = abs(our_projection - projection) / scale
    limit = getattr(bounds, group)
    found = [
        _worst(group, "norm", norms, limit.norm),
        _worst(group, "projection", projections, limit.projection),
    ]
    if limit.median_norm is not None:
        median = float(np.median(list(norms.values())))
        found.insert(
            0, Finding(group, "median norm", f"of {len(norms)}", median, limit.median_norm)
        )
    return found


def _worst(group: str, measure: str, errors: Mapping[str, float], bound: float) -> Finding:
    # An error that is no number is the worst there is.
    name = max(errors, key=lambda n: np.inf if np.isnan(errors[n]) else errors[n])
    return Finding(group, measure, name, float(errors[name]), bound)


def _decay(file: GoldenFile, spared: set[str]) -> Finding:
    """Compares the recorded list of the parameters without weight decay with ours."""
    different = spared ^ set(map(str, file.meta["no_decay"]))
    unused = file.case.names.unused or ("/",)
    wrong = sorted(n for n in different if not n.endswith(unused) and not is_fixed(n))
    return Finding("decay", "parameters", wrong[0] if wrong else "none", float(len(wrong)), 0.0)


def summary(findings: list[Finding]) -> list[dict[str, Any]]:
    """Returns the findings as JSON."""
    return [dataclasses.asdict(finding) | {"inside": finding.inside} for finding in findings]
