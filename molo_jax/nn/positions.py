"""Positions of the frames of a clip: sinusoids that are added to tokens.

Reference: Wang et al., MoLo, CVPR 2023, "Long-short contrastive objective".
"""

import numpy as np
from flax import nnx
from jaxtyping import Array, Float


def sinusoids(length: int, width: int) -> Float[np.ndarray, "length d"]:
    """Positional encoding of each position ``p`` and channel.

    ``pe[p, i] = sin(p / 10000^(2i/D))`` for even channels ``i``,
    ``pe[p, i] = cos(p / 10000^(2i/D))`` for odd ones.

    Quirk kept: the exponent doubles the channel index, where
    Vaswani et al. (2017, section 3.5) have ``i/D``.
    """
    position = np.arange(length, dtype=np.float64)[:, None]
    channel = np.arange(width, dtype=np.float64)[None]
    angle = position / 10000.0 ** (2.0 * channel / width)
    return np.where(np.arange(width) % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)


def textbook_sinusoids(length: int, width: int) -> Float[np.ndarray, "length d"]:
    """Positional encoding of Vaswani et al. (2017, section 3.5).

    ``pe[p, i] = sin(p / 10000^(i/D))`` and ``pe[p, i + 1] = cos(p / 10000^(i/D))`` for even ``i``.
    """
    position = np.arange(length, dtype=np.float64)[:, None]
    channel = np.arange(width)
    angle = position / 10000.0 ** ((channel - channel % 2) / width)
    return np.where(channel % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)


class PositionalEncoder(nnx.Module):
    """Scales tokens by ``sqrt(D / a)``, adds ``b`` times the sinusoids, then dropout."""

    def __init__(self, width: int, *, positions: int, a: float, b: float, dropout: float):
        self.width, self.positions = width, positions
        self.gain = (width / a) ** 0.5
        self.b = b
        self.dropout = nnx.Dropout(dropout)

    def __call__(
        self, tokens: Float[Array, "v l d"], *, train: bool, rngs: nnx.Rngs | None
    ) -> Float[Array, "v l d"]:
        encoding = sinusoids(self.positions, self.width)[: tokens.shape[1]]
        y = tokens * self.gain + self.b * encoding.astype(tokens.dtype)
        return self.dropout(y, deterministic=not train, rngs=rngs)
