"""HyRSM++: HyRSM with a temporal coherence term on the new frame tokens of each video.

Reference: Wang et al., HyRSM++: Hybrid Relation Guided Temporal Set Matching for Few-shot Action
Recognition, Pattern Recognition 2024.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from molo_jax.methods.episode import Episode
from molo_jax.methods.frames import Stages
from molo_jax.methods.hyrsm import HyRSM
from molo_jax.nn.matching import unit


class HyRSMPlusPlus(HyRSM):
    """HyRSM, which in training also draws close frames of a video together and others apart."""

    def loss_terms(self, stages: Stages, episode: Episode) -> dict[str, Float[Array, ""]]:
        settings, tokens = self.settings, stages["tokens"]
        pairs = {
            "window": settings.window,
            "balance": settings.balance,
            "apart_weight": settings.apart_weight,
        }
        # Those of the support once for every query.
        temporal = sum(jnp.mean(coherence(x, **pairs)) for x in (tokens.support, tokens.query))
        return super().loss_terms(stages, episode) | {"temporal": temporal}

    def loss_weights(self) -> Mapping[str, float]:
        return {**super().loss_weights(), "temporal": self.settings.temporal}


def coherence(
    tokens: Float[Array, "*batch t d"], *, window: int, balance: float, apart_weight: float
) -> Float[Array, "*batch t t"]:
    """Temporal coherence term of every pair of frames of each video.

    With the distance ``delta = 1 - cos`` of frames ``i`` and ``j`` and ``n = |i - j|``:
    ``delta / (n^2 + 1)`` within the window, ``n <= window``, and beyond it
    ``apart_weight max(0, m - delta)`` with the margin ``m = 1 - exp(-(n - window)^2 / balance)``.

    Args:
        tokens: frame tokens of videos.
        window: frames at most so far apart are drawn together.
        balance: sigma squared; the larger, the slower the margin grows with the distance in time.
        apart_weight: beta, what counts a pair beyond the window that is closer than its margin.
    """
    directions = unit(tokens)
    distances = 1.0 - jnp.einsum(
        "...id,...jd->...ij", directions, directions, precision=lax.Precision.HIGHEST
    )
    frames = np.arange(tokens.shape[-2])
    steps = np.abs(frames[:, None] - frames)
    margins = (1.0 - np.exp(-((steps - window) ** 2) / balance)).astype(tokens.dtype)
    together = distances / (steps**2 + 1)
    return jnp.where(steps <= window, together, apart_weight * jax.nn.relu(margins - distances))
