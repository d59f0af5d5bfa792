"""The optimizer against hand-worked updates."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from molo_jax.engine.optimizer import decay_mask, make_optimizer
from molo_jax.methods.molo import MoLo
from molo_jax.methods.settings import MoLoSettings
from molo_jax.weights.torch_map import decays, official_name

GOLDEN = pathlib.Path(__file__).parents[2] / "parity_tests" / "golden"


class _Toy(nnx.Module):
    """One parameter that decays and one that does not."""

    def __init__(self):
        self.conv = nnx.Linear(1, 1, use_bias=False, rngs=nnx.Rngs(0))
        self.conv.kernel[...] = jnp.full((1, 1), 2.0)
        self.layer1 = nnx.List([nnx.Dict(bn1=nnx.Dict(scale=nnx.Param(jnp.full((1,), 2.0))))])


def test_decay_is_added_to_the_gradient_before_the_moments():
    params = nnx.state(_Toy(), nnx.Param)
    optimizer = make_optimizer(lambda step: 0.1 * (step + 1), decays=decays, weight_decay=0.5)
    state = optimizer.init(params)
    values = {"conv": 2.0, "layer1": 2.0}
    moments = dict.fromkeys(values, (0.0, 0.0))
    for step, gradient in enumerate((1.0, -3.0), start=1):
        grads = jax.tree.map(lambda x, g=gradient: jnp.full_like(x, g), params)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for name, value in values.items():
            g = gradient + (0.5 * value if name == "conv" else 0.0)
            m, v = moments[name]
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            moments[name] = (m, v)
            corrected = (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
            values[name] = value - 0.1 * step * corrected
    np.testing.assert_allclose(params["conv"]["kernel"][...], [[values["conv"]]], rtol=1e-5)
    scale = params["layer1"][0]["bn1"]["scale"][...]
    np.testing.assert_allclose(scale, [values["layer1"]], rtol=1e-5)


def test_decay_mask_is_that_of_the_recorded_run():
    with np.load(GOLDEN / "r18_steps.npz") as recorded:
        no_decay = set(json.loads(str(recorded["meta"]))["no_decay"])
    config = MoLoSettings(num_classes=64, backbone="resnet18")
    params = nnx.state(nnx.eval_shape(lambda: MoLo(config, rngs=nnx.Rngs(0))), nnx.Param)
    mask = nnx.to_flat_state(decay_mask(params, decays=decays))
    assert {official_name(path) for path, value in mask if not value.get_value()} == no_decay
