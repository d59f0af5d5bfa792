"""Learning-rate schedules: optimizer step -> learning rate.

Reference: the official implementation of MoLo (github.com/alibaba-mmai-research/MoLo).
"""

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Schedule = Callable[[Array], Float[Array, ""]]


def official_rate(
    iteration: int,
    *,
    base_lr: float,
    warmup_start_lr: float,
    steps_iter: int,
    boundaries: Sequence[int],
    factors: Sequence[float],
) -> float:
    """Learning rate of the official code at one iteration, in double precision.

    e = floor(i / P) + i / P;  e < 1: linear from warmup_start_lr to the rate at e = 1,
    else base_lr * factors[k], k the last index with boundaries[k] <= e.

    Quirk kept: the progress e counts twice, so it jumps by 2 at every multiple of P.

    Args:
        iteration: i, from 0.
        base_lr: rate that the factors multiply.
        warmup_start_lr: rate at iteration 0.
        steps_iter: P, iterations of a unit of progress.
        boundaries: ascending progress values, the first of them 0.
        factors: one for each boundary.
    """
    progress = iteration // steps_iter * steps_iter + iteration
    if iteration >= steps_iter:
        return base_lr * factors[_last_boundary(progress, steps_iter, boundaries)]
    target = base_lr * factors[_last_boundary(steps_iter, steps_iter, boundaries)]
    return warmup_start_lr + (target - warmup_start_lr) * (iteration / steps_iter)


def _last_boundary(progress: int, steps_iter: int, boundaries: Sequence[int]) -> int:
    """Compares whole numbers, P times the progress, so that no rounding moves a boundary."""
    return max(k for k, boundary in enumerate(boundaries) if boundary * steps_iter <= progress)


def official_schedule(
    *,
    base_lr: float,
    warmup_start_lr: float,
    steps_iter: int,
    boundaries: Sequence[int],
    factors: Sequence[float],
    accumulation: int = 4,
) -> Schedule:
    """The official schedule as a function of the optimizer step, for use inside jit.

    An optimizer step consumes `accumulation` iterations and has the rate of the last of them. The
    rates are rounded once, from double precision. Arguments as for `official_rate`.

    Returns:
        A function of the step, a whole number from 0.
    """
    recipe = {
        "base_lr": base_lr,
        "warmup_start_lr": warmup_start_lr,
        "steps_iter": steps_iter,
        "boundaries": boundaries,
        "factors": factors,
    }
    iterations = range(accumulation - 1, max(steps_iter, accumulation), accumulation)
    warmup = np.float32([official_rate(iteration, **recipe) for iteration in iterations])
    rates = np.float32([base_lr * factor for factor in factors])
    starts = np.int32([boundary * steps_iter for boundary in boundaries])

    def schedule(step: Array) -> Float[Array, ""]:
        iteration = accumulation * step + accumulation - 1
        progress = iteration // steps_iter * steps_iter + iteration
        constant = jnp.asarray(rates)[jnp.sum(progress >= starts) - 1]
        rising = jnp.asarray(warmup)[jnp.minimum(step, len(warmup) - 1)]
        return jnp.where(iteration < steps_iter, rising, constant)

    return schedule


def cosine_schedule(base_lr: float, warmup_steps: int, steps: int) -> Schedule:
    """Rises linearly to `base_lr` over `warmup_steps`, then falls to 0 along half a cosine.

    s < w: base_lr (s + 1) / w;  else base_lr (1 + cos(pi (s - w) / (steps - w))) / 2

    Args:
        base_lr: the highest rate.
        warmup_steps: w; a training that is not longer ends while the rate still rises.
        steps: optimizer steps of the whole training; the rate stays 0 after them.
    """
    fall = max(steps - warmup_steps, 1)

    def schedule(step: Array) -> Float[Array, ""]:
        rising = base_lr * (step + 1) / max(warmup_steps, 1)
        done = jnp.clip((step - warmup_steps) / fall, 0.0, 1.0)
        falling = base_lr * 0.5 * (1.0 + jnp.cos(math.pi * done))
        return jnp.where(step < warmup_steps, rising, falling).astype(jnp.float32)

    return schedule
