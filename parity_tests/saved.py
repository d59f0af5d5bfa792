"""Bytes that a forward pass in training keeps for its gradient, in both implementations.

Nothing is computed: shapes are enough. Parameters do not count, and what several operations keep
together counts once.

    python -m parity_tests.saved      ResNet-18 at crop 64, and ResNet-50 at crop 224
"""

import dataclasses
import itertools
from collections.abc import Mapping
from unittest import mock

import jax
import numpy as np
import torch
from flax import nnx
from jax.extend.core import Var
from torch.autograd.graph import saved_tensors_hooks

from molo_jax.methods.episode import Episode
from molo_jax.nn import remat as recomputation
from molo_jax.nn.precision import PRECISIONS, using
from molo_torch_ref import Episode as TorchEpisode
from molo_torch_ref import loss_terms, make_network, total_loss
from molo_torch_ref import matching as torch_matching
from parity_tests import jax_backend, torch_backend
from parity_tests.case import Case


def kept_by_jax(
    case: Case, precision: str = "float32", remat: str = "none", episodes: int = 1
) -> int:
    """Counts the residuals of the gradient of episodes that run side by side."""
    graphdef, params, stats = jax_backend._structure(case)
    episode = Episode(**_shapes(case, jax.ShapeDtypeStruct, channels_last=True))
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((episodes, *x.shape), x.dtype), episode)

    def loss(params, stats, episode):
        model = nnx.merge(graphdef, params, stats, copy=True)
        losses = model(episode, n_way=case.way, train=True, rngs=nnx.Rngs(dropout=0)).losses
        return model.total_loss(losses)

    def losses(params, stats, batch):
        return jax.vmap(loss, in_axes=(None, None, 0))(params, stats, batch)

    def kept(params, stats, batch):
        return jax.tree.leaves(jax.vjp(lambda p: losses(p, stats, batch), params)[1])

    with using(PRECISIONS[precision]), recomputation.using(remat):
        program = jax.make_jaxpr(kept)(params, stats, batch).jaxpr
    given = set(program.invars[: len(jax.tree.leaves(params))])
    found = {value for value in program.outvars if isinstance(value, Var)} - given
    return sum(value.aval.size * value.aval.dtype.itemsize for value in found)


def kept_by_torch(case: Case) -> int:
    """Counts what PyTorch's autograd keeps for an episode: each storage once."""
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        return tensor

    with torch.device("meta"):
        model = make_network(case.method, **case.network()).train()
        episode = TorchEpisode(**_shapes(case, _empty))
        own = {p.untyped_storage()._cdata for p in model.parameters()}
        # Labels without values choose nothing.
        with (
            mock.patch.object(torch_matching, "prototypes", _prototypes),
            saved_tensors_hooks(pack, lambda tensor: tensor),
        ):
            output = torch_backend._apply(model, case, episode)
            total_loss(loss_terms(output, episode), case.coefficients, case.accumulation)
    return sum(each.nbytes() for key, each in storages.items() if key not in own)


def _prototypes(tokens: torch.Tensor, labels: torch.Tensor, n_way: int) -> torch.Tensor:
    """The mean of as many shots for each class, in the order of the classes."""
    del labels
    return tokens.unflatten(0, (n_way, -1)).mean(1)


def _empty(shape: tuple[int, ...], kind: type) -> torch.Tensor:
    return torch.empty(shape, dtype={np.float32: torch.float32, np.int32: torch.int64}[kind])


def _shapes(case: Case, make, channels_last: bool = False) -> Mapping[str, object]:
    """Makes the arrays of an episode from their shapes and types."""
    frame = (case.size, case.size, 3) if channels_last else (3, case.size, case.size)
    arrays = {}
    for name, count in (("support", case.shot), ("query", case.query)):
        videos = case.way * count
        arrays[name] = make((videos, case.frames, *frame), np.float32)
        for kind in ("labels", "classes"):
            arrays[f"{name}_{kind}"] = make((videos,), np.int32)
    return arrays


if __name__ == "__main__":
    small = Case(way=5, shot=1, query=1, frames=8, size=64)
    paper = dataclasses.replace(small, backbone="resnet50", query=6, size=224)
    for one in (small, paper):
        print(f"{one.backbone}, crop {one.size}, {one.way * (1 + one.query)} clips")
        print(f"  PyTorch  {kept_by_torch(one) / 2**30:8.3f} GiB")
        for precision, remat in itertools.product(PRECISIONS, recomputation.REMATS):
            kept = kept_by_jax(one, precision, remat) / 2**30
            print(f"  {precision:7} {remat:6} {kept:8.3f} GiB")
