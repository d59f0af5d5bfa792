"""How many bits a network computes with: one setting, read by layers while they are traced.

A layer asks :func:`current`. The functions of `engine.step` open :func:`using` inside the function
that JAX traces, so a compiled program keeps the precision it was made for. Parameters never change
their type, and no module stores a precision. In float64, nothing of this has an effect.

The precisions are named as in `jax.lax.Precision`; nothing here imports JAX.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class Precision:
    """One setting.

    Attributes:
        name: as the configuration has it.
        convolutions: of convolutions, also of those that are written as matrix products.
            "default" is TF32 on an NVIDIA GPU that has it: products of 10-bit mantissas, sums in
            float32. On a CPU it is float32.
        products: of matrix products with float32 operands.
        activations: type of the feature maps, and of the operands of convolutions and of the
            products inside backbone, motion branch, decoder, attention and feed-forward.
    """

    name: str
    convolutions: str
    products: str
    activations: str


FLOAT32 = Precision("float32", "highest", "highest", "float32")
# Every setting by its name.
PRECISIONS: dict[str, Precision] = {
    each.name: each
    for each in (
        FLOAT32,
        Precision("tf32", "default", "highest", "float32"),
        # What is no activation stays float32: statistics, norms, softmax, distances, losses.
        Precision("bf16", "default", "highest", "bfloat16"),
    )
}

_CURRENT: contextvars.ContextVar[Precision] = contextvars.ContextVar("precision", default=FLOAT32)


def current() -> Precision:
    """Returns the precision that layers compute with: float32, unless a caller has set another."""
    return _CURRENT.get()


@contextlib.contextmanager
def using(precision: Precision) -> Iterator[None]:
    """Sets the precision of what is computed, or traced, in a `with` block.

    Around the call of a function from `jax.jit` it has no effect once that function was traced:
    open the block inside the function.
    """
    token = _CURRENT.set(precision)
    try:
        yield
    finally:
        _CURRENT.reset(token)
