"""MoLo and the field's baselines in PyTorch, independent of the JAX implementation to be compared.

Reference: Wang et al., MoLo: Motion-augmented Long-short Contrastive Learning for Few-shot Action
Recognition, CVPR 2023, arXiv 2304.00946; the other methods name theirs in their files.

All methods have one shape: ``make_network(method, **settings)`` builds a network, which maps
``(support, query, support_labels, n_way)`` to an :class:`Output`; ``loss_terms(output, episode)``
names its loss terms, and ``total_loss(terms, coefficients, accumulation)`` weighs them.

Module names, and with them the names in `state_dict`, are those of the official checkpoints, so
these load with `strict=True` (:func:`load_official`).

Letters: s support, q query, v videos, n way, t frame, h w space, c channel, d feature, l tokens.
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as _error:
    raise ImportError(
        f"molo_torch_ref needs PyTorch ({_error}); install it with: pip install 'molo-jax[torch]'"
    ) from None

from molo_torch_ref.checkpoint import load_official, official_tensors
from molo_torch_ref.losses import Coefficients, loss_terms, total_loss
from molo_torch_ref.methods import METHODS, make_network
from molo_torch_ref.model import MoLo
from molo_torch_ref.structures import Episode, Output
from molo_torch_ref.training import (
    Schedule,
    learning_rate,
    make_optimizer,
    parameter_groups,
    train_step,
)

__all__ = [
    "METHODS",
    "Coefficients",
    "Episode",
    "MoLo",
    "Output",
    "Schedule",
    "learning_rate",
    "load_official",
    "loss_terms",
    "make_network",
    "make_optimizer",
    "official_tensors",
    "parameter_groups",
    "total_loss",
    "train_step",
]
