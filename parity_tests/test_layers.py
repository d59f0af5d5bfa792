"""Every named stage of the forward pass, both implementations side by side."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import molo_torch_ref.matching
from molo_jax.methods.molo import MoLo
from molo_jax.methods.molo_outputs import Tokens
from molo_jax.methods.settings import MoLoSettings
from molo_jax.nn import matching
from parity_tests import jax_backend, torch_backend
from parity_tests.case import DEFAULT_POSITION, FULL, KINETICS_POSITION, SMALL
from parity_tests.methods import METHODS
from parity_tests.narrow import NARROW
from parity_tests.recording import compare, relative_error
from parity_tests.tolerances import DOUBLE, FORWARD


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("size", [64, 224])
@pytest.mark.parametrize("backbone", NARROW)
def test_every_stage_is_equal(computed, backbone, size, mode):
    small = dataclasses.replace(SMALL, backbone=NARROW[backbone])
    case = small if size == 64 else dataclasses.replace(FULL, backbone=backbone)
    cases = [dataclasses.replace(case, position=p) for p in (DEFAULT_POSITION, KINETICS_POSITION)]
    double = size == 64
    tensors, episode, train = case.weights(), case.episode(), mode == "train"
    if train and double:
        recordings = [r.copy() for r in computed.training(case)]
        # Compared in test_backward.py.
        recordings[0].pop("gradients")
    else:
        recordings = jax_backend.forwards(
            cases, tensors, episode, train=train, double=double, quick=True
        )
    bounds = DOUBLE if double else FORWARD[mode, backbone]
    stages = METHODS["molo"].stages
    for one, ours in zip(cases, recordings, strict=True):
        reference = torch_backend.forward(one, tensors, episode, train=train, double=double)
        differences = compare(ours, reference, bounds)
        names = {d.name for d in differences if d.group == "stages"}
        assert names == {f"{module}/{i}" for module, calls in stages.items() for i in range(calls)}
        assert [d for d in differences if not d.inside] == []
    # The two encodings really differ, or the second comparison would prove nothing.
    first, second = (recording["stages"]["pe/2"] for recording in recordings)
    assert relative_error(first, second) > 0.1


def _tokens(seed, videos, length, width=24):
    rng = np.random.default_rng(seed)
    return np.maximum(rng.standard_normal((videos, length, width)), 0).astype(np.float32)


@pytest.mark.parametrize("single_direction", [False, True])
@pytest.mark.parametrize("motion_weight", [0.3, 1.7])
def test_matching_is_equal_for_other_options_uneven_shots_and_any_order(
    single_direction, motion_weight
):
    labels = np.array([2, 0, 1, 0, 2, 2])
    appearance, moving = (_tokens(0, 6, 6), _tokens(1, 5, 6)), (_tokens(2, 6, 5), _tokens(3, 5, 5))
    config = MoLoSettings(
        num_classes=3, motion_weight=motion_weight, single_direction=single_direction
    )
    ours = MoLo.scores(
        _Network(config),
        Tokens(jnp.asarray(appearance[0]), jnp.asarray(moving[0])),
        Tokens(jnp.asarray(appearance[1]), jnp.asarray(moving[1])),
        jnp.asarray(labels),
        n_way=3,
    )
    streams = []
    for support, query in (appearance, moving):
        tensors = [torch.tensor(a) for a in (support, query, labels)]
        streams.append(molo_torch_ref.matching.match_stream(*tensors, 3, single_direction))
    (frames, s2q, q2s), (frames_m, s2q_m, q2s_m) = streams
    for name, reference in {
        "match": -(frames + motion_weight * frames_m),
        "support_to_query": -1.5 * s2q,
        "query_to_support": -1.5 * q2s,
        "support_to_query_motion": -0.5 * s2q_m,
        "query_to_support_motion": -0.5 * q2s_m,
    }.items():
        np.testing.assert_allclose(getattr(ours, name), reference.numpy(), rtol=2e-6, err_msg=name)


class _Network:
    """What `MoLo.scores` reads of the network."""

    _distance = MoLo._distance

    def __init__(self, settings):
        self.settings = settings
        self.contrast_scale = jnp.full((1,), 1.5)
        self.motion_contrast_scale = jnp.full((1,), 0.5)


def test_the_gradient_at_a_zero_token_is_finite_and_equal():
    a, b = _tokens(4, 2, 3), _tokens(5, 2, 3)
    a[0, 1] = 0.0
    ours = jax.grad(lambda x: jnp.sum(matching.cosine_distances(x, jnp.asarray(b)) ** 2))(
        jnp.asarray(a)
    )
    x = torch.tensor(a, requires_grad=True)
    (molo_torch_ref.matching.cosine_distances(x, torch.tensor(b)) ** 2).sum().backward()
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(ours, x.grad.numpy(), rtol=1e-5, atol=1e-7)
