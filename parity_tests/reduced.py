"""How far bfloat16 moves every stage of MoLo from float32: measured, and allowed.

    python -m parity_tests.reduced        measures all of it on this machine, as a table in Markdown

Rounding to bfloat16 is 2e-3 to 4e-3 of a value, and happens in each layer. Batch normalization over
few samples multiplies what has come together. Measured with the narrow ResNet-18, crop 64 and 3
frames; the support set and the query set have one bound.
"""

from collections.abc import Mapping

import jax

from molo_jax.nn.precision import PRECISIONS, using
from parity_tests import jax_backend, narrow
from parity_tests.case import SMALL, Case
from parity_tests.recording import Recording, output_error, relative_error

# How many measured roundings are allowed. Other processors sum in another order, which is little
# beside the rounding to bfloat16.
FACTOR = 2.0

# Errors as in `recording.compare`: group and official module -> in evaluation, in training.
MEASURED: Mapping[str, tuple[float, float]] = {
    "stages/backbone.3": (2.7e-3, 3.4e-3),
    "stages/backbone.4": (4.7e-3, 8.0e-3),
    "stages/backbone.5": (7.1e-3, 1.7e-2),
    "stages/backbone.6": (8.4e-3, 2.5e-2),
    "stages/backbone.7": (9.5e-3, 3.9e-2),
    "stages/motion_reduce": (1.3e-2, 3.9e-2),
    "stages/motion_conv": (1.3e-2, 4.4e-2),
    "stages/motion_up": (1.3e-2, 4.0e-2),
    "stages/pe": (7.9e-3, 2.0e-2),
    "stages/temporal_atte_before": (7.5e-3, 3.0e-2),
    "stages/temporal_atte_before_motion": (8.8e-3, 2.4e-2),
    "stages/classification_layer": (4.5e-3, 1.2e-2),
    "stages/up1": (1.3e-2, 4.5e-2),
    "stages/up2": (1.3e-2, 5.4e-2),
    "stages/up3": (1.4e-2, 6.7e-2),
    "stages/outc": (1.1e-2, 5.5e-2),
    # Sums of distances `1 - cosine`, relative to the largest.
    "outputs": (1e-2, 1.2e-2),
    "losses": (5.5e-3, 3.5e-3),
    "statistics": (0.0, 1.3e-2),
}


def bound(key: str, *, train: bool) -> float:
    """Returns the largest error that is allowed."""
    return FACTOR * MEASURED[key][train]


def recorded(name: str, *, train: bool, case: Case = SMALL) -> Recording:
    """Runs an episode in a precision of the package."""

    def compute(*arguments):
        with using(PRECISIONS[name]):
            return jax_backend.run_episode(structure, case, *arguments, train=train)

    structure, params, stats = jax_backend.make_network(case, case.weights())
    run = jax_backend.compiled(compute, quick=True)
    _, result = jax.device_get(run(params, stats, jax_backend.to_jax(case.episode())))
    return jax_backend.to_recording(result, with_statistics=train)


def errors(*, train: bool) -> dict[str, float]:
    """Returns the worst error of bfloat16 against float32 for each key of :data:`MEASURED`."""
    reference, ours = (recorded(name, train=train) for name in ("float32", "bf16"))
    worst: dict[str, float] = {}
    for group, values in reference.items():
        error_of = output_error if group == "outputs" else relative_error
        for name, value in values.items():
            key = _key(group, name)
            worst[key] = max(worst.get(key, 0.0), error_of(ours[group][name], value))
    return worst


def _key(group: str, name: str) -> str:
    # `temporal_atte_before.layers.0.1/0` is a part of the module `temporal_atte_before`.
    return f"{group}/{name.split('/')[0].split('.layers')[0]}" if group == "stages" else group


def table() -> str:
    """Returns what is measured on this machine, beside what is allowed."""
    lines = ["| | evaluation | allowed | training | allowed |", "|---|---|---|---|---|"]
    found = [errors(train=train) for train in (False, True)]
    for key in MEASURED:
        cells = [
            f"{found[train].get(key, 0.0):.1e} | {bound(key, train=train):.1e}"
            for train in (False, True)
        ]
        lines.append(f"| {key} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    narrow.register()
    print(table())
