"""Evaluates one trained network in every precision, and counts the predictions that are equal.

    python benchmarks/precision.py --config=configs/synthetic.py --workdir=runs/demo \
        --config.data.prepared=runs/demo/data

The episodes are those of an evaluation (`eval.split`, `eval.n_way`, `eval.shots`,
`eval.episodes`). Printed for each precision and number of shots are the accuracy, its difference
from that of float32, and the part of all queries that get the same class as in float32.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from molo_jax import cli
from molo_jax.config_checks import validate

_CONFIG = cli.define_config()
flags.adopt_module_key_flags(cli)
_WORKDIR = flags.DEFINE_string("workdir", "runs/demo", "Work folder of the network.")


def main(argv: Sequence[str]) -> None:
    """Runs the benchmark with the parsed flags."""
    del argv
    config = _CONFIG.value
    validate(config)
    # This imports JAX, for which a mistake in the flags should not have to wait.
    from _precision import compared

    print("\n".join(compared(config, Path(_WORKDIR.value))))


if __name__ == "__main__":
    cli.run(main)
