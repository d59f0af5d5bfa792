"""A backbone of one linear map, with which the methods are small enough for loops in NumPy."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from molo_jax.backbones import BACKBONES, BackboneInfo
from molo_jax.methods.base import Method
from molo_jax.methods.episode import Episode, Training
from molo_jax.methods.settings import METHODS
from molo_jax.nn.layers import linear

WIDTH = 16


class ToyBackbone(nnx.Module):
    """Maps every pixel; the mean over a frame's pixels is its feature."""

    def __init__(self, info: BackboneInfo, *, rngs: nnx.Rngs):
        self.linear = linear(3, info.width, rngs=rngs)

    def __call__(self, frames, *, set_sizes, train):
        del set_sizes, train
        return {"features": self.linear(frames)}


@pytest.fixture
def build(monkeypatch) -> Callable[..., Method]:
    """Builds a method on the toy backbone, for seven training classes."""
    info = BackboneInfo("toy", ToyBackbone, width=WIDTH, stride=2, output="features")
    monkeypatch.setitem(BACKBONES, "toy", info)

    def make(method: str, seed: int = 0, **settings) -> Method:
        settings = METHODS[method](num_classes=7, backbone="toy", **settings)
        rng = np.random.default_rng(seed)
        network = nnx.eval_shape(lambda: settings.build(nnx.Rngs(0)))
        # Drawn by NumPy: nothing has to be compiled.
        for path, leaf in nnx.to_flat_state(nnx.state(network, nnx.Param)):
            spread = 0.3 if len(leaf.shape) == 1 else leaf.shape[-2] ** -0.5
            value = path[-1].endswith("scale") + spread * rng.standard_normal(leaf.shape)
            leaf.set_value(jnp.asarray(value, jnp.float32))
        return network

    return make


@pytest.fixture
def run() -> Callable[..., Training]:
    """Runs an episode as one compiled program.

    With keys, dropout acts, and all that comes out has one row for each of them.
    """

    def compute(network: Method, task: Episode, *, n_way: int, train=False, keys=()) -> Training:
        graphdef, state = nnx.split(network)

        def once(task, rngs):
            model = nnx.merge(graphdef, state, copy=True)
            return model(task, n_way=n_way, train=train, rngs=rngs)

        if not keys:
            return jax.jit(lambda task: once(task, None))(task)
        each = jax.vmap(lambda key: once(task, nnx.Rngs(dropout=key)))
        return jax.jit(each)(jnp.stack([jax.random.key(key) for key in keys]))

    return compute


@pytest.fixture
def embed_and_match() -> Callable[..., np.ndarray]:
    """Scores an episode from clips that were embedded by themselves, as evaluation does."""

    def compute(network: Method, task: Episode, *, n_way: int, places=slice(None)) -> np.ndarray:
        graphdef, state = nnx.split(network)

        @jax.jit
        def program(state, support, query, labels):
            model = nnx.merge(graphdef, state)
            one_by_one = (jax.lax.map(lambda x: model.embed(x[None]), x) for x in (support, query))
            features = (jax.tree.map(lambda x: x[:, 0], x) for x in one_by_one)
            return model.match(*features, labels, n_way=n_way)

        chosen = task.support[places], task.query, task.support_labels[places]
        return np.asarray(program(state, *chosen))

    return compute


@pytest.fixture
def episode() -> Callable[..., Episode]:
    """Makes an episode of random clips."""

    def make(
        support_labels: Sequence[int],
        query_labels: Sequence[int],
        frames: int = 4,
        seed: int = 0,
    ) -> Episode:
        rng = np.random.default_rng(seed)
        support, query = (
            rng.standard_normal((len(labels), frames, 2, 4, 3)) + rng.uniform(-1, 1, 3)
            for labels in (support_labels, query_labels)
        )
        return Episode(
            support=jnp.asarray(support, jnp.float32),
            query=jnp.asarray(query, jnp.float32),
            support_labels=jnp.asarray(support_labels),
            query_labels=jnp.asarray(query_labels),
            support_classes=jnp.asarray(support_labels) + 2,
            query_classes=jnp.asarray(query_labels) + 2,
        )

    return make


@pytest.fixture
def frame_features() -> Callable[[Method, np.ndarray], np.ndarray]:
    """Computes the frame features (v, t, d) of clips on the toy backbone in float64."""

    def compute(method: Method, clips) -> np.ndarray:
        layer = method.backbone.linear
        kernel, bias = (np.asarray(x[...], np.float64) for x in (layer.kernel, layer.bias))
        return np.asarray(clips, np.float64).mean((2, 3)) @ kernel + bias

    return compute
