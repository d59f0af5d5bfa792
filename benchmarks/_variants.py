"""The rows of the comparison of training steps: how JAX computes, and PyTorch's counterpart.

A row is written PRECISION[+REMAT][:SWITCH+SWITCH…]: the setting of JAX, and behind a colon the
switches of PyTorch, or `eager` for none of them. Without a colon PyTorch gets the counterpart.
"""

import dataclasses
from collections.abc import Iterable, Sequence

from molo_jax.errors import UsageError
from molo_jax.nn.precision import PRECISIONS
from molo_jax.nn.remat import REMATS

EAGER = "eager"
# Switch -> the flag that sets it in every row without a colon.
SWITCHES = {
    "autocast": "torch_autocast",
    "channels_last": "channels_last",
    "compile": "torch_compile",
    "checkpoint": "torch_checkpoint",
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row.

    Attributes:
        precision: a name in `molo_jax.nn.precision.PRECISIONS`.
        remat: a name in `molo_jax.nn.remat.REMATS`.
        switches: those of PyTorch, in the order of `SWITCHES`.
    """

    precision: str
    remat: str
    switches: tuple[str, ...]

    @property
    def jax(self) -> str:
        """What JAX computes with, as it is written."""
        return self.precision if self.remat == "none" else f"{self.precision}+{self.remat}"

    @property
    def torch(self) -> str:
        """What PyTorch computes with; without autocast followed by the convolutions' precision."""
        written = "+".join(self.switches or (EAGER,))
        return written if "autocast" in self.switches else f"{written} {self.torch_precision}"

    @property
    def torch_precision(self) -> str:
        """The precision of PyTorch: TF32 convolutions beside JAX in bf16, unless in autocast."""
        if "autocast" in self.switches:
            return "bf16"
        return "tf32" if self.precision == "bf16" else self.precision

    def options(self) -> dict[str, object]:
        """What the benchmarks of both sides are told beside the sizes."""
        chosen = {"precision": self.precision, "remat": self.remat}
        return chosen | {switch: switch in self.switches for switch in SWITCHES}


def variant(precision: str, remat: str, extra: Sequence[str] = ()) -> Variant:
    """Returns a row with PyTorch's counterpart, and further switches of PyTorch.

    The counterpart of bf16 is autocast with channels-last memory, that of recomputation are
    checkpoints at the blocks of the backbone; the others are computed eagerly.

    Raises:
        UsageError: autocast is asked for beside another precision than bf16.
    """
    switches = {*extra}
    if precision == "bf16":
        switches |= {"autocast", "channels_last"}
    if remat != "none":
        switches.add("checkpoint")
    return _checked(Variant(precision, remat, _ordered(switches)))


def parse(text: str, extra: Sequence[str] = ()) -> list[Variant]:
    """Reads rows with commas between them; the further switches go to those without a colon.

    Raises:
        UsageError: a row is not written as it should be, or is there twice, or there are further
            switches and no row for them.
    """
    if extra and all(":" in each for each in text.split(",")):
        flags = " and ".join(f"--{SWITCHES[switch]}" for switch in extra)
        raise UsageError(
            f"{flags} would change the rows of --variants without a colon, and there are none"
        )
    rows = [_row(each, extra) for each in text.split(",")]
    for place, row in enumerate(rows):
        if row in rows[:place]:
            raise UsageError(f"--variants has {row.jax} beside PyTorch in {row.torch} twice")
    return rows


def _row(text: str, extra: Sequence[str]) -> Variant:
    ours, colon, theirs = text.partition(":")
    precision, plus, remat = ours.partition("+")
    if precision not in PRECISIONS or (plus and remat not in REMATS):
        raise UsageError(
            f"--variants has {text!r}; expected PRECISION or PRECISION+REMAT, of"
            f" {', '.join(PRECISIONS)} and {', '.join(REMATS)}, for example bf16+blocks"
        )
    remat = remat or "none"
    if not colon:
        return variant(precision, remat, extra)
    switches = [] if theirs == EAGER else theirs.split("+")
    if not set(switches) <= set(SWITCHES):
        raise UsageError(
            f"--variants has {text!r}; behind the colon {EAGER} is expected, or switches of"
            f" PyTorch with a plus between them: {', '.join(SWITCHES)}"
        )
    return _checked(Variant(precision, remat, _ordered(switches)))


def _ordered(switches: Iterable[str]) -> tuple[str, ...]:
    chosen = set(switches)
    return tuple(switch for switch in SWITCHES if switch in chosen)


def _checked(row: Variant) -> Variant:
    if "autocast" in row.switches and row.precision != "bf16":
        raise UsageError(
            f"autocast of PyTorch computes in bf16, and JAX is to compute in {row.precision};"
            " compare autocast with --precision=bf16"
        )
    return row
