"""Shows where the time of one training step goes on a CPU, in JAX and in PyTorch.

    python benchmarks/cpu_profile.py --backbone=resnet18 --crop=224 --way=2 --query=1

Both compute the step that `benchmarks/train_step.py` times, in float32, each in a process of its
own: two steps, and then one that is recorded by `jax.profiler` and by `torch.profiler`. Printed are
the milliseconds of each kind of operation, in the forward pass and in the gradient. Recomputation
(--remat, of JAX alone) counts as gradient. XLA computes several operations in one pass: such a pass
belongs to the last of them. An addition of a shortcut is in PyTorch among everything else.
"""

import argparse
import sys
from typing import Any, NoReturn

from _cpu_profile import table
from _workers import Worker
from train_step import _check_numbers, _frameworks

from molo_jax.errors import MoloError, UsageError
from molo_jax.nn.remat import REMATS


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    try:
        print("\n".join(_measured(_options(arguments))))
    except MoloError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; --help lists the options")


def _options(arguments: list[str] | None) -> dict[str, Any]:
    # Not above: the workers import this module too, and PyTorch's is to do without JAX.
    from molo_jax.backbones import BACKBONES

    parser = _Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--backbone", choices=BACKBONES, default="resnet18")
    add("--crop", type=int, default=224, help="side of the square input, pixels")
    add("--frames", type=int, default=8, help="frames of a clip")
    add("--way", type=int, default=2, help="classes of an episode")
    add("--shot", type=int, default=1, help="support clips of a class")
    add("--query", type=int, default=1, help="query clips of a class")
    add("--remat", choices=tuple(REMATS), default="none", help="what JAX computes again")
    add("--frameworks", help="jax, torch, or both with a comma (default)")
    options = vars(parser.parse_args(arguments))
    constant = {"episodes": 1, "microbatch": 1, "steps": 1, "warmup": 0, "workers": 0}
    switches = dict.fromkeys(("compile", "channels_last", "checkpoint", "autocast"), False)
    flags = dict.fromkeys(("torch_autocast", "torch_compile", "torch_checkpoint"), False)
    options |= constant | switches | flags | {"precision": "float32", "end_to_end": False}
    _check_numbers(options, BACKBONES[options["backbone"]].stride)
    options["frameworks"] = _frameworks(options)
    return options


def _measured(options: dict[str, Any]) -> list[str]:
    found = {}
    for side in options["frameworks"]:
        worker = Worker("cpu_profile", options | {"side": side})
        try:
            found[side] = worker.call("profile")
        finally:
            worker.stop()
    lines = table(found)
    if "jax" in found:
        mebibytes = found["jax"]["temporary_bytes"] / 2**20
        lines += ["", f"JAX's program needs {mebibytes:.0f} MiB beside parameters and data"]
    return lines


if __name__ == "__main__":
    sys.exit(main())
