"""Adam with coupled L2 weight decay, as the official training uses it.

Reference: Kingma and Ba, Adam, ICLR 2015; PyTorch's ``torch.optim.Adam(weight_decay=...)`` adds the
decay to the gradient before the moments are taken (not AdamW).
"""

import functools
from collections.abc import Callable

import optax
from flax import nnx

# Whether weight decay acts on the parameter at a path.
Decays = Callable[[tuple[str | int, ...]], bool]


def make_optimizer(
    schedule: Callable,
    *,
    decays: Decays,
    name: str = "adam",
    weight_decay: float = 1e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Builds the optimizer.

    Args:
        schedule: learning rate as a function of the number of finished optimizer steps.
        decays: tells from a parameter's path whether weight decay acts on it.
        name: `adam`, or `sgd` (without momentum, for which `b1`, `b2` and `eps` mean nothing).
        weight_decay: L2 coefficient, added as ``weight_decay * parameter`` to the gradient of every
            parameter that decays.
        b1: decay rate of the first moment.
        b2: decay rate of the second moment.
        eps: added to the root of the second moment.
    """
    scale = optax.scale_by_adam(b1=b1, b2=b2, eps=eps) if name == "adam" else optax.identity()
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=functools.partial(decay_mask, decays=decays)),
        scale,
        optax.scale_by_learning_rate(schedule),
    )


def decay_mask(params: nnx.State, *, decays: Decays) -> nnx.State:
    """For every parameter, whether weight decay acts on it, as `decays` says of its path."""
    flat = {path: value.replace(decays(path)) for path, value in nnx.to_flat_state(params)}
    return nnx.from_flat_state(flat)
