"""What is computed again for the gradient instead of being kept: one setting, read while tracing.

The network marks its parts as units (:func:`molo_jax.nn.layers.recomputed`); the setting says which
of them keep their inputs alone. Values, statistics and dropout masks stay the same. Nothing here
imports JAX.
"""

import contextlib
import contextvars
from collections.abc import Iterator

# A residual block, a stage of the decoder, the motion step or a temporal encoder.
BLOCK = "block"
# One of the four stages of a ResNet: a row of blocks.
STAGE = "stage"
# Every setting by its name: the units that are computed again.
REMATS: dict[str, tuple[str, ...]] = {"none": (), "blocks": (BLOCK,), "full": (BLOCK, STAGE)}

_CURRENT: contextvars.ContextVar[str] = contextvars.ContextVar("remat", default="none")


def recomputes(unit: str) -> bool:
    """Whether the current setting computes units of this kind again."""
    return unit in REMATS[_CURRENT.get()]


@contextlib.contextmanager
def using(name: str) -> Iterator[None]:
    """Sets what is computed again, by a name in :data:`REMATS`, of what is traced in the block."""
    token = _CURRENT.set(name)
    try:
        yield
    finally:
        _CURRENT.reset(token)
