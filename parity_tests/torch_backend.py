"""Runs a case in PyTorch (`molo_torch_ref`).

What a backend is, this one and `jax_backend`: a module that offers, for a :class:`Case` of any
method in its `METHODS`,

    forward(case, tensors, episode, train=…, double=…)           an episode without gradients
    gradients(case, tensors, episode, double=…)                  an episode with gradients
    steps(case, tensors, batches, rates=…, weight_decay=…, double=…)     optimizer steps
    spared(case)                                                 parameters without weight decay

`tensors` are the weights by official names (`case.weights()`), `episode` is what `case.episode()`
gives, `batches` are lists of such episodes. What comes out is a `Recording`; its names are those
that `case.names` (`parity_tests.methods`) lists: `outputs`, the values of `losses` with `total`,
and `stages` numbered by call. Streams of MoLo that a case leaves out have no entries.
`gradients`, `parameters` and `statistics` have the names of all learnt tensors, those that enter no
loss included (their gradient is 0), the fixed ones not. `case.network()` gives the arguments of the
network, `case.coefficients` the weights of the terms, `case.accumulation` divides the loss.
"""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from molo_torch_ref import (
    Episode,
    Output,
    loss_terms,
    make_network,
    make_optimizer,
    parameter_groups,
    total_loss,
    train_step,
)
from parity_tests.case import Arrays, Case, Tensors
from parity_tests.methods import METHODS as _NAMED
from parity_tests.methods import is_fixed
from parity_tests.recording import Recording

METHODS = tuple(_NAMED)


def forward(
    case: Case, tensors: Tensors, episode: Arrays, *, train: bool, double: bool = False
) -> Recording:
    """Runs an episode without gradients: outputs, stages, losses, and statistics in training."""
    model = make_model(case, tensors, double=double).train(train)
    moved = to_torch(episode, double)
    with torch.no_grad(), record_stages(case, model) as stages:
        output = _apply(model, case, moved)
        losses = _losses(case, output, moved)
    recording = {"outputs": _outputs(case, output), "stages": stages, "losses": _arrays(losses)}
    return recording | ({"statistics": _statistics(model)} if train else {})


def gradients(case: Case, tensors: Tensors, episode: Arrays, *, double: bool = False) -> Recording:
    """Runs an episode in training mode with the gradient of its total loss."""
    model = make_model(case, tensors, double=double).train()
    moved = to_torch(episode, double)
    with record_stages(case, model) as stages:
        output = _apply(model, case, moved)
    losses = _losses(case, output, moved)
    losses["total"].backward()
    return {
        "outputs": _outputs(case, output),
        "stages": stages,
        "losses": _arrays(losses),
        "gradients": {name: _gradient(p) for name, p in _learnt(model).items()},
        "statistics": _statistics(model),
    }


def steps(
    case: Case,
    tensors: Tensors,
    batches: Sequence[Sequence[Arrays]],
    *,
    rates: Sequence[float],
    weight_decay: float,
    double: bool = False,
) -> Recording:
    """Makes one optimizer step for each batch of episodes.

    Losses are named `<step>/<term>`, means over the episodes of the step.
    """
    model = make_model(case, tensors, double=double)
    optimizer = make_optimizer(model, weight_decay)
    losses = {}
    for number, (episodes, rate) in enumerate(zip(batches, rates, strict=True)):
        history = train_step(
            model,
            optimizer,
            [to_torch(episode, double) for episode in episodes],
            n_way=case.way,
            coefficients=case.coefficients,
            accumulation=case.accumulation,
            lr=rate,
        )
        for term in history[0]:
            mean = np.mean([values[term] for values in history])
            # The sum over a step of what each episode adds to it is the step's loss.
            scale = case.accumulation if term == "total" else 1
            losses[f"{number}/{term}"] = np.asarray(scale * mean)
    return {
        "losses": losses,
        "parameters": {name: _array(p) for name, p in _learnt(model).items()},
        "statistics": _statistics(model),
    }


def spared(case: Case) -> set[str]:
    """Returns the names of the parameters without weight decay."""
    with torch.device("meta"):
        model = make_network(case.method, **case.network())
    groups = parameter_groups(model, weight_decay=1.0)
    undecayed = {id(p) for g in groups if not g["weight_decay"] for p in g["params"]}
    return {name for name, p in model.named_parameters() if id(p) in undecayed}


def make_model(case: Case, tensors: Tensors, *, double: bool = False) -> nn.Module:
    """Builds the network with the given weights, loaded strictly."""
    model = make_network(case.method, **case.network())
    state = {name: torch.tensor(array) for name, array in tensors.items()}
    fixed = {name: tensor for name, tensor in model.state_dict().items() if is_fixed(name)}
    model.load_state_dict(state | fixed, strict=True)
    return (model.double() if double else model).to(_device())


def to_torch(episode: Arrays, double: bool = False) -> Episode:
    """Moves the arrays of an episode to the device."""
    dtypes = {"support": torch.float64, "query": torch.float64} if double else {}
    return Episode(
        **{
            name: torch.as_tensor(array, dtype=dtypes.get(name), device=_device())
            for name, array in episode.items()
        }
    )


@contextlib.contextmanager
def record_stages(case: Case, model: nn.Module) -> Iterator[dict[str, np.ndarray]]:
    """Collects the outputs of the modules that are stages of the method, numbered by call."""
    recorded: dict[str, np.ndarray] = {}
    modules = {name: m for name, m in model.named_modules() if name in case.names.stages}
    calls = dict.fromkeys(modules, 0)

    def hook_of(name):
        def hook(module, inputs, output):
            del module, inputs
            # No copy, for memory's sake: nothing that follows a stage changes it in place.
            recorded[f"{name}/{calls[name]}"] = _array(output)
            calls[name] += 1

        return hook

    hooks = [m.register_forward_hook(hook_of(name)) for name, m in modules.items()]
    try:
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()


def _apply(model: nn.Module, case: Case, episode: Episode):
    return model(episode.support, episode.query, episode.support_labels, case.way)


def _losses(case: Case, output, episode: Episode) -> dict[str, torch.Tensor]:
    terms = loss_terms(output, episode)
    total = total_loss(terms, case.coefficients, case.accumulation)
    return terms | {"total": total * case.accumulation}


def _outputs(case: Case, output: Output) -> dict[str, np.ndarray]:
    values = {name: getattr(output, name) for name in case.names.outputs}
    return {name: _array(value) for name, value in values.items() if value is not None}


def _learnt(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if not is_fixed(name)}


def _gradient(parameter: nn.Parameter) -> np.ndarray:
    """The gradient; one that enters no loss has none, which is 0."""
    gradient = parameter.grad
    return _array(torch.zeros_like(parameter) if gradient is None else gradient)


def _statistics(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: _array(buffer) for name, buffer in model.named_buffers() if not is_fixed(name)}


def _arrays(values: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: _array(value) for name, value in values.items()}


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _device() -> torch.device:
    """The accelerator where there is one, in full float32 precision."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
