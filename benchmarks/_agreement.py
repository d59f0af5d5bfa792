"""Both sides get the same weights and must compute the same before they are timed."""

from typing import Any

from _report import FRAMEWORKS
from _workers import Worker

from molo_jax.errors import MoloError

# Largest relative difference of the losses, and of the scores, that counts as the same computation,
# by the precision of JAX. TF32 products have 10 bits of mantissa, 13 fewer than float32; bf16 has
# 7, and so have the maps between the layers.
AGREEMENT = {"float32": 1e-4, "tf32": 2e-2, "bf16": 5e-2}


def check_agreement(
    options: dict[str, Any], workers: dict[str, Worker], devices: dict[str, dict[str, Any]]
) -> dict[str, float]:
    """Gives both the same weights, and compares what they compute on the first episode.

    Raises:
        MoloError: they compute on different platforms, or not the same.
    """
    platforms = [devices[name]["platform"] for name in FRAMEWORKS]
    if platforms[0] != platforms[1]:
        raise MoloError(
            f"JAX computes on the {platforms[0]} and PyTorch on the {platforms[1]}, which is no"
            " comparison; install both for the GPU, or set JAX_PLATFORMS=cpu and"
            " CUDA_VISIBLE_DEVICES= for the CPU"
        )
    workers["torch"].call("load", workers["jax"].call("tensors"))
    ours, theirs = (workers[name].call("losses") for name in FRAMEWORKS)
    worst = max(ours, key=lambda name: _relative(ours[name], theirs[name]))
    scores, expected = (workers[name].call("scores") for name in FRAMEWORKS)
    # Match scores are sums over frames of 1 - cosine: however small, they are rounded as the 1 is.
    units = options["frames"], abs(expected[1]).max()
    errors = [abs(a - b).max() / u for a, b, u in zip(scores, expected, units, strict=True)]
    difference = {
        "loss": _relative(ours["total"], theirs["total"]),
        "worst_term": _relative(ours[worst], theirs[worst]),
        "scores": max(map(float, errors)),
    }
    limit = AGREEMENT[options["precision"]]
    print(
        f"same computation: loss {ours['total']:.6f} and {theirs['total']:.6f}, relative difference"
        f" {difference['loss']:.1e}, of the worst term ({worst}) {difference['worst_term']:.1e},"
        f" of the scores {difference['scores']:.1e}; at most {limit:.0e}",
        flush=True,
    )
    # Not "any above": a difference that is no number is too large as well.
    if not all(value <= limit for value in difference.values()):
        raise MoloError(
            f"JAX and PyTorch do not compute the same: {difference} relative difference, expected"
            f" at most {limit:.0e}"
        )
    return difference


def _relative(value: float, reference: float) -> float:
    return abs(value - reference) / max(abs(reference), 1e-30)
