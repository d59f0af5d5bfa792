import jax
import numpy as np
import pytest
import thin_backbone

from molo_jax.methods.settings import METHODS
from molo_jax.prediction.clips import ClipRule
from molo_jax.prediction.sources import make_network
from molo_jax.weights.networks import abstract_network

RULE = ClipRule(num_frames=3, resize=40, crop=32)


@pytest.fixture(scope="module", autouse=True)
def _thin_backbone():
    with thin_backbone.registered():
        yield


@pytest.fixture(scope="session")
def small_networks():
    """Makes networks on the thin ResNet with random weights, by the name of the method."""
    made = {}

    def make(method):
        if method not in made:
            settings = METHODS[method](num_classes=4, backbone=thin_backbone.THIN.name)
            made[method] = make_network(
                f"a random {method}", settings, random_variables(settings), rule=RULE
            )
        return made[method]

    return make


def random_variables(settings):
    """Weights as small as those of a trained network, statistics that are not the first ones."""
    from flax import nnx

    rng, values = np.random.default_rng(5), {}
    for state in abstract_network(settings)[1:]:
        for path, leaf in nnx.to_flat_state(state):
            fan_in = max(1, int(np.prod(leaf.shape[:-1])))
            value = rng.standard_normal(leaf.shape) / np.sqrt(fan_in)
            if path[-1] in ("scale", "var"):
                value = 0.75 + rng.random(leaf.shape) / 2
            values[path] = value.astype(leaf.dtype)
    return values


@pytest.fixture(autouse=True)
def no_cache_of_the_user(tmp_path, monkeypatch):
    """Nothing is kept between tests, or in the user's folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)
