"""The MoLo network in Flax NNX: modules, matching, losses, and the map to official weights."""

from molo_jax.model.losses import TERMS, LossWeights, loss_terms, total_loss
from molo_jax.model.molo import MoLo
from molo_jax.model.structures import Episode, Matching, MoLoConfig, MoLoOutput, Sets, Tokens

__all__ = [
    "TERMS",
    "Episode",
    "LossWeights",
    "Matching",
    "MoLo",
    "MoLoConfig",
    "MoLoOutput",
    "Sets",
    "Tokens",
    "loss_terms",
    "total_loss",
]
