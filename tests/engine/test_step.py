"""The training step: order of statistics, chunks, devices, and what it refuses."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import thin_backbone
from flax import nnx

from molo_jax.engine import step as steps
from molo_jax.engine.mesh import make_mesh
from molo_jax.engine.optimizer import make_optimizer
from molo_jax.engine.state import TrainState, create_model, create_state
from molo_jax.methods.episode import Episode
from molo_jax.methods.settings import MoLoSettings
from molo_jax.weights.torch_map import decays

CONFIG = MoLoSettings(
    num_classes=5,
    backbone="thin",
    dropout_position=0.0,
    dropout_attention=0.0,
    dropout_feedforward=0.0,
)
EPISODES, WAY, SHOT, QUERY, FRAMES = 4, 2, 1, 1, 2


@pytest.fixture(scope="module", autouse=True)
def _thin_backbone():
    with thin_backbone.registered():
        yield


@functools.cache
def _network():
    return create_model(CONFIG, seed=3)


def _state(optimizer):
    _, params, stats = jax.tree.map(jnp.copy, _network())
    return create_state(params, stats, optimizer)


def _batch(scale=1.0):
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(WAY, dtype=np.int32), (EPISODES, 1))
    classes = np.stack([rng.permutation(5)[:WAY] for _ in range(EPISODES)]).astype(np.int32)
    clips = rng.standard_normal((2, EPISODES, WAY, FRAMES, 32, 32, 3)).astype(np.float32)
    return {
        "support": scale * clips[0],
        "query": clips[1],
        "support_labels": labels,
        "query_labels": labels,
        "support_classes": classes,
        "query_classes": classes,
        "index": np.arange(EPISODES, dtype=np.int32),
    }


def _preprocess(arrays, key):
    return Episode(**{name: value for name, value in arrays.items() if name != "index"})


@functools.cache
def _step(devices=1):
    optimizer = make_optimizer(lambda step: 1e-3, decays=decays, weight_decay=1e-3)
    step = steps.make_train_step(
        _network()[0],
        optimizer,
        preprocess=_preprocess,
        episode_key=jax.random.key,
        n_way=WAY,
        mesh=make_mesh(jax.devices()[:devices]),
    )
    return optimizer, step


def _run(chunk, batch=None):
    optimizer, step = _step()
    chunks = steps.chunked(batch or _batch(), chunk)
    state, metrics = step(_state(optimizer), iter(chunks), len(chunks))
    return jax.device_get((state, metrics))


@functools.cache
def _one_by_one():
    """Runs the episodes one after another through a stateful module, summing gradients."""
    graphdef, params, stats = _network()

    @jax.jit
    def one(params, stats, episode):
        def loss(params):
            model = nnx.merge(graphdef, params, stats, copy=True)
            terms = model(episode, n_way=WAY, train=True).losses
            return model.total_loss(terms), (terms, nnx.state(model, nnx.BatchStat))

        return jax.value_and_grad(loss, has_aux=True)(params)

    losses, total = [], jax.tree.map(jnp.zeros_like, params)
    for i in range(EPISODES):
        episode = _preprocess(jax.tree.map(lambda x, i=i: jnp.asarray(x[i]), _batch()), None)
        (loss, (_, stats)), grads = one(params, stats, episode)
        total = jax.tree.map(lambda a, b: a + b / EPISODES, total, grads)
        losses.append(float(loss))
    return stats, total, float(np.mean(losses))


@pytest.mark.parametrize("chunk", [1, 4])
def test_running_statistics_equal_those_of_episodes_in_order(chunk):
    state, _ = _run(chunk)
    expected, _, _ = _one_by_one()
    for (path, ours), (_, theirs) in zip(
        nnx.to_flat_state(state.batch_stats), nnx.to_flat_state(expected), strict=True
    ):
        np.testing.assert_allclose(ours[...], theirs[...], rtol=1e-4, atol=1e-5, err_msg=str(path))


@pytest.mark.parametrize("chunk", [1, 4])
def test_loss_and_gradient_are_means_over_the_episodes(chunk):
    _, metrics = _run(chunk)
    _, gradient, loss = _one_by_one()
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    squares = sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradient))
    np.testing.assert_allclose(metrics["grad_norm"], np.sqrt(squares), rtol=1e-3)


@pytest.mark.parametrize("chunk", [1, 4])
def test_parameters_move_as_adam_moves_them_along_the_mean_gradient(chunk):
    # Where the gradient is far above rounding: Adam's first step is its sign times the rate.
    state, _ = _run(chunk)
    _, gradient, _ = _one_by_one()
    _, before, _ = _network()
    decayed = jax.tree.map(lambda g, p: g + 1e-3 * p, gradient, before)
    for name in ("motion_convolution", "classifier"):
        g, old, new = (t[name]["kernel"][...] for t in (decayed, before, state.params))
        clear = np.abs(g) > 1e-2 * np.abs(g).max()
        assert clear.mean() > 0.05
        np.testing.assert_allclose((new - old)[clear], -1e-3 * np.sign(g)[clear], rtol=1e-3)


def test_the_order_of_episodes_matters_to_the_statistics():
    reverse = {name: value[::-1].copy() for name, value in _batch().items()}
    mean = lambda state: np.asarray(state.batch_stats["backbone"]["bn1"]["mean"][...])  # noqa: E731
    assert np.abs(mean(_run(4)[0]) - mean(_run(4, reverse)[0])).max() > 1e-5


def test_a_step_that_is_not_finite_leaves_the_state_as_it_was():
    optimizer, _ = _step()
    state, metrics = _run(4, _batch(scale=np.nan))
    assert not np.isfinite(metrics["loss"])
    assert int(state.step) == 0
    before = jax.device_get(_state(optimizer))
    jax.tree.map(np.testing.assert_array_equal, state.params, before.params)
    jax.tree.map(np.testing.assert_array_equal, state.batch_stats, before.batch_stats)


@pytest.mark.parametrize(
    ("loss", "gradient", "moves"),
    [(1.0, 2.0, True), (1.0, np.inf, False), (1.0, np.nan, False), (np.nan, 2.0, False)],
)
def test_a_step_is_taken_only_if_both_the_loss_and_the_norm_of_the_gradient_are_finite(
    loss, gradient, moves
):
    optimizer = optax.sgd(0.5)
    params = nnx.State({"w": nnx.Param(jnp.array([3.0, 5.0]))})
    stats = nnx.State({"m": nnx.BatchStat(jnp.float32(7))})
    state = TrainState(params, stats, optimizer.init(params), jnp.int32(4))
    means = steps._Totals(
        grads=nnx.State({"w": nnx.Param(jnp.array([1.0, gradient]))}),
        metrics={"loss": jnp.float32(loss)},
        batch_stats=nnx.State({"m": nnx.BatchStat(jnp.float32(8))}),
    )
    new, metrics = steps._update(optimizer, state, means)
    np.testing.assert_array_equal(new.params["w"][...], [2.5, 4.0] if moves else [3.0, 5.0])
    assert (int(new.step), float(new.batch_stats["m"][...])) == ((5, 8) if moves else (4, 7))
    np.testing.assert_allclose(metrics["grad_norm"], np.sqrt(1 + gradient**2), rtol=1e-6)


def test_chunks_keep_the_order_of_episodes_and_must_divide_them():
    cut = steps.chunked({"index": np.arange(6)}, 3)
    assert [chunk["index"].tolist() for chunk in cut] == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match="6 episodes cannot be cut into chunks of 4"):
        steps.chunked({"index": np.arange(6)}, 4)


_SEVERAL_DEVICES = """
import re

import jax, numpy as np
import test_step
from thin_backbone import THIN
from molo_jax.backbones import BACKBONES

BACKBONES[THIN.name] = THIN

def run(devices, chunk):
    optimizer, step = test_step._step(devices)
    chunks = test_step.steps.chunked(test_step._batch(), chunk)
    return jax.device_get(step(test_step._state(optimizer), iter(chunks), len(chunks)))

one, few = run(1, 4)
for devices, chunk in ((4, 4), (2, 2), (2, 4)):
    many, metrics = run(devices, chunk)
    np.testing.assert_allclose(few["loss"], metrics["loss"], rtol=1e-5)
    np.testing.assert_allclose(few["grad_norm"], metrics["grad_norm"], rtol=1e-3)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(many.params), strict=True):
        assert np.mean(np.abs(a - b) > 1e-4) < 1e-2
    stats = (jax.tree.leaves(state.batch_stats) for state in (one, many))
    for a, b in zip(*stats, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)

# What the devices exchange: nothing for a chunk, and at the end of the step each number once.
from molo_jax.engine import step as steps
from molo_jax.engine.mesh import make_mesh
from molo_jax.engine.optimizer import make_optimizer
from molo_jax.weights.torch_map import decays

optimizer = make_optimizer(lambda step: 1e-3, decays=decays, weight_decay=1e-3)
gradient = steps._chunk_gradient(
    test_step._network()[0], test_step._preprocess, jax.random.key, test_step.WAY, steps.FLOAT32
)
mesh = make_mesh(jax.devices()[:2])
_, start, add, finish = steps._several_devices(gradient, optimizer, mesh)
state = test_step._state(optimizer)
(chunk, _) = steps.chunked(test_step._batch(), 2)
totals = jax.eval_shape(start, state, chunk)
texts = [
    function.lower(*arguments).compile().as_text()
    for function, arguments in (
        (add, (totals, state.params, chunk)),
        (finish, (state, totals, np.float32(2))),
    )
]
exchanged = [
    sum(
        np.prod([int(n) for n in shape.split(",") if n], dtype=int)
        for line in text.splitlines()
        if re.search(r"= .* all-reduce(-start)?[(]", line)
        for shape in re.findall(r"[fs](?:32|64)[[]([0-9,]*)[]]", line.split(" all-reduce")[0])
    )
    for text in texts
]
others = [re.findall(r"(all-gather|all-to-all|collective-permute)[(]", t) for t in texts]
numbers = sum(leaf.size for leaf in jax.tree.leaves(totals)) // 2
print("equal on", len(jax.devices()), "devices; exchanged", exchanged, "of", numbers, others)
assert exchanged == [0, numbers], exchanged
assert others == [[], []]
"""


def test_four_devices_give_the_result_of_one():
    devices = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    flags = {"XLA_FLAGS": devices, "JAX_PLATFORMS": "cpu"}
    here = Path(__file__).parent
    folders = os.pathsep.join(map(str, (here, here.parent, here.parents[1])))
    done = subprocess.run(
        [sys.executable, "-c", _SEVERAL_DEVICES],
        env=os.environ | flags | {"PYTHONPATH": folders},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("equal on 4 devices; exchanged [0, ")


def test_embedded_clips_match_as_the_network_matches_whole_episodes():
    graphdef, params, stats = _network()
    clips = np.random.default_rng(5).standard_normal((4, FRAMES, 32, 32, 3)).astype(np.float32)
    embed = steps.make_embed(graphdef, preprocess=lambda x: 2 * x, mesh=make_mesh())
    tokens = embed(params, stats, clips)
    match = steps.make_match(graphdef, n_way=2)
    support, query = np.array([[3, 0], [1, 2]]), np.array([[1, 2, 1], [3, 3, 0]])
    labels = np.array([[1, 0], [0, 1]])
    logits = match(params, stats, tokens, support, query, labels)

    @jax.jit
    def whole(episode):
        model = nnx.merge(graphdef, params, stats)
        return model(episode, n_way=2, train=False).logits

    for e in range(2):
        episode = Episode(
            support=2 * clips[support[e]],
            query=2 * clips[query[e]],
            support_labels=labels[e],
            # Without training nothing depends on these.
            query_labels=np.zeros(3, np.int32),
            support_classes=np.zeros(2, np.int32),
            query_classes=np.zeros(3, np.int32),
        )
        expected = whole(episode)
        np.testing.assert_allclose(logits[e], expected, rtol=1e-4)
