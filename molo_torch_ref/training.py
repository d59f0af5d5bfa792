"""Optimizer groups, learning rate and the training step, as in the official training."""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import nn

from molo_torch_ref.losses import Coefficients, loss_terms, total_loss
from molo_torch_ref.structures import Episode


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Splits the parameters into those with and those without L2 weight decay.

    Quirk kept: only names that contain ``bn`` or ``norm`` are spared, so batch normalizations that
    are called otherwise (``backbone.1``, every ``downsample.1``, the decoder's) decay.
    """
    decayed, spared = [], []
    for name, parameter in model.named_parameters():
        # The numbers of TRX's tuples are parameters by name alone.
        if not parameter.requires_grad:
            continue
        (spared if "bn" in name or "norm" in name else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]


def make_optimizer(
    model: nn.Module, weight_decay: float = 1e-3, lr: float = 1e-4
) -> torch.optim.Adam:
    """Adam with L2 decay added to the gradient (not AdamW)."""
    groups = parameter_groups(model, weight_decay)
    return torch.optim.Adam(groups, lr=lr, betas=(0.9, 0.999), eps=1e-8)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The official learning rate's settings; ``steps_iter`` is P, the iterations of a unit."""

    base_lr: float
    warmup_start_lr: float
    steps_iter: int
    steps: Sequence[int]
    factors: Sequence[float]


def learning_rate(schedule: Schedule, iteration: int) -> float:
    """Rate at an iteration; an optimizer step has that of the last of its iterations.

    With ``e = floor(i / P) + i / P``: while ``e < 1``, linear from the start of the warm-up to the
    rate at ``e = 1``; then ``base_lr * factors[k]``, ``k`` the last with ``steps[k] <= e``.
    Quirk kept: ``e`` counts the progress twice.
    """

    def rate(progress: float) -> float:
        index = max(k for k, step in enumerate(schedule.steps) if step <= progress)
        return schedule.base_lr * schedule.factors[index]

    fraction = iteration / schedule.steps_iter
    progress = math.floor(fraction) + fraction
    if progress >= 1.0:
        return rate(progress)
    return schedule.warmup_start_lr + progress * (rate(1.0) - schedule.warmup_start_lr)


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    episodes: Sequence[Episode],
    *,
    n_way: int,
    coefficients: Coefficients,
    accumulation: int,
    lr: float,
) -> list[dict[str, float]]:
    """One optimizer step over several episodes, whose gradients are averaged.

    As in the official training, where ``accumulation`` episodes are summed on each of several GPUs
    and averaged over these: the gradient is the mean over the episodes of the cross-entropies plus
    ``accumulation`` times the weighted reconstruction.

    Returns:
        For each episode every loss term, and ``total``, as it went into the sum.

    Raises:
        FloatingPointError: if a loss is not finite; no step is made.
    """
    model.train()
    optimizer.zero_grad(set_to_none=True)
    history = []
    for number, episode in enumerate(episodes):
        output = model(episode.support, episode.query, episode.support_labels, n_way)
        terms = loss_terms(output, episode)
        total = total_loss(terms, coefficients, accumulation)
        (total * (accumulation / len(episodes))).backward()
        values = {name: term.item() for name, term in {**terms, "total": total}.items()}
        for name, value in values.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"episode {number} of the step: {name} is {value}")
        history.append(values)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    return history
