"""MoLo in PyTorch, compact and independent of the JAX implementation, to compare it with.

Reference: Wang et al., MoLo: Motion-augmented Long-short Contrastive Learning for Few-shot Action
Recognition, CVPR 2023, arXiv 2304.00946. Module names, and with them the names in `state_dict`, are
those of the official checkpoints, so these load with `strict=True` (:func:`load_official`).

Letters: s support, q query, v videos, n way, t frame, h w space, c channel, d feature, l tokens.
"""

from molo_torch_ref.checkpoint import load_official, official_tensors
from molo_torch_ref.losses import Coefficients, loss_terms, total_loss
from molo_torch_ref.model import Episode, MoLo, Output
from molo_torch_ref.training import (
    Schedule,
    learning_rate,
    make_optimizer,
    parameter_groups,
    train_step,
)

__all__ = [
    "Coefficients",
    "Episode",
    "MoLo",
    "Output",
    "Schedule",
    "learning_rate",
    "load_official",
    "loss_terms",
    "make_optimizer",
    "official_tensors",
    "parameter_groups",
    "total_loss",
    "train_step",
]
