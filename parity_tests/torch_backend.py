"""Runs a case in PyTorch (`molo_torch_ref`)."""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from molo_torch_ref import (
    Coefficients,
    Episode,
    MoLo,
    loss_terms,
    make_optimizer,
    parameter_groups,
    total_loss,
    train_step,
)
from parity_tests.case import FIXED, Arrays, Case, Tensors
from parity_tests.recording import OUTPUTS, STAGES, Recording


def forward(
    case: Case, tensors: Tensors, episode: Arrays, *, train: bool, double: bool = False
) -> Recording:
    """Runs an episode without gradients: outputs, stages, losses, and statistics in training."""
    model = make_model(case, tensors, double=double).train(train)
    with torch.no_grad(), record_stages(model) as stages:
        output = _apply(model, case, to_torch(episode, double))
        losses = _losses(case, output, to_torch(episode, double))
    recording = {"outputs": _outputs(output), "stages": stages, "losses": _arrays(losses)}
    return recording | ({"statistics": _statistics(model)} if train else {})


def gradients(case: Case, tensors: Tensors, episode: Arrays, *, double: bool = False) -> Recording:
    """Runs an episode in training mode with the gradient of its total loss."""
    model = make_model(case, tensors, double=double).train()
    with record_stages(model) as stages:
        output = _apply(model, case, to_torch(episode, double))
    losses = _losses(case, output, to_torch(episode, double))
    losses["total"].backward()
    return {
        "outputs": _outputs(output),
        "stages": stages,
        "losses": _arrays(losses),
        "gradients": {name: _array(p.grad) for name, p in model.named_parameters()},
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
            coefficients=Coefficients(*case.coefficients),
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
        "parameters": {name: _array(p) for name, p in model.named_parameters()},
        "statistics": _statistics(model),
    }


def spared(case: Case) -> set[str]:
    """Returns the names of the parameters without weight decay."""
    with torch.device("meta"):
        model = MoLo(**case.network())
    groups = parameter_groups(model, weight_decay=1.0)
    undecayed = {id(p) for g in groups if not g["weight_decay"] for p in g["params"]}
    return {name for name, p in model.named_parameters() if id(p) in undecayed}


def make_model(case: Case, tensors: Tensors, *, double: bool = False) -> MoLo:
    """Builds the network with the given weights, loaded strictly."""
    model = MoLo(**case.network())
    state = {name: torch.tensor(array) for name, array in tensors.items()}
    model.load_state_dict(state | {"pe.pe": model.pe.pe}, strict=True)
    return (model.double() if double else model).to(_device())


def to_torch(episode: Arrays, double: bool = False) -> Episode:
    """Moves the arrays of an episode to the device."""
    dtypes = {"support": torch.float64, "query": torch.float64} if double else {}
    return Episode(
        **{
            name: torch.tensor(array, dtype=dtypes.get(name), device=_device())
            for name, array in episode.items()
        }
    )


@contextlib.contextmanager
def record_stages(model: MoLo) -> Iterator[dict[str, np.ndarray]]:
    """Collects the outputs of the modules of `STAGES`, numbered by call."""
    recorded: dict[str, np.ndarray] = {}
    calls = dict.fromkeys(STAGES, 0)

    def hook_of(name):
        def hook(module, inputs, output):
            del module, inputs
            recorded[f"{name}/{calls[name]}"] = _array(output).copy()
            calls[name] += 1

        return hook

    hooks = [model.get_submodule(name).register_forward_hook(hook_of(name)) for name in STAGES]
    try:
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()


def _apply(model: MoLo, case: Case, episode: Episode):
    return model(episode.support, episode.query, episode.support_labels, case.way)


def _losses(case: Case, output, episode: Episode) -> dict[str, torch.Tensor]:
    terms = loss_terms(output, episode)
    total = total_loss(terms, Coefficients(*case.coefficients), case.accumulation)
    return terms | {"total": total * case.accumulation}


def _outputs(output) -> dict[str, np.ndarray]:
    return {name: _array(getattr(output, name)) for name in OUTPUTS}


def _statistics(model: MoLo) -> dict[str, np.ndarray]:
    return {name: _array(buffer) for name, buffer in model.named_buffers() if name not in FIXED}


def _arrays(values: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: _array(value) for name, value in values.items()}


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _device() -> torch.device:
    """The accelerator where there is one, in full float32 precision."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
