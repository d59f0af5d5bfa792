"""What all methods on frame features have in common."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from molo_jax.methods.settings import METHODS
from molo_jax.weights import torch_map
from molo_jax.weights.networks import abstract_network

FRAME_METHODS = ("protonet", "bi_mhm", "otam", "trx", "hyrsm", "hyrsm_pp")
RELATION = {"dropout_relation": 0.0, "dropout_relation_weights": 0.0}
WITHOUT_DROPOUT = {
    "trx": {"dropout_position": 0.0},
    "hyrsm": {"dropout_position": 0.0, "dropout_attention": 0.0, **RELATION},
    "hyrsm_pp": {"dropout_position": 0.0, "dropout_attention": 0.0, **RELATION},
}
# Two shots of class 0, three of class 1, one of class 2.
UNEQUAL = (1, 0, 2, 1, 0, 1)
QUERIES = (2, 0, 1, 1)


def _built(build, method, **settings):
    return build(method, **WITHOUT_DROPOUT.get(method, {}), **settings)


@pytest.mark.parametrize("method", FRAME_METHODS)
def test_clips_embedded_one_by_one_match_as_the_whole_episode_does(
    build, episode, run, embed_and_match, method
):
    network, task = _built(build, method), episode(UNEQUAL, QUERIES)
    alone = embed_and_match(network, task, n_way=3)
    np.testing.assert_allclose(alone, run(network, task, n_way=3).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", FRAME_METHODS)
def test_the_order_of_the_support_does_not_matter_and_shots_given_twice_count_once(
    build, episode, embed_and_match, method
):
    network, task = _built(build, method), episode(UNEQUAL, QUERIES)
    expected = embed_and_match(network, task, n_way=3)
    # Class 1 has its three shots twice here, which leaves every mean as it is.
    places = np.array([5, 3, 1, 0, 2, 4, 0, 3, 5])
    other = embed_and_match(network, task, n_way=3, places=places)
    np.testing.assert_allclose(other, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", FRAME_METHODS)
def test_the_loss_is_the_weighted_sum_of_the_terms_that_the_settings_name(
    build, episode, run, method
):
    network, task = _built(build, method), episode(UNEQUAL, QUERIES)
    training = run(network, task, n_way=3, train=True)
    # A compiled program sorts the names.
    assert set(training.losses) == set(METHODS[method].losses)
    scores = np.asarray(training.logits, np.float64)
    chances = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    picked = chances[np.arange(4), np.array(QUERIES)]
    np.testing.assert_allclose(training.losses["match"], -np.log(picked).mean(), rtol=1e-4)
    values = {n: jnp.float32(10**place) for place, n in enumerate(METHODS[method].losses)}
    weights = {"hyrsm": 1 + 0.6 * 10, "hyrsm_pp": 1 + 0.6 * 10 + 0.3 * 100}
    np.testing.assert_allclose(network.total_loss(values), weights.get(method, 1), rtol=1e-6)


def _gradients(network, task, zeroed=None):
    """Gradients of the total loss by path; with parameters below `zeroed` set to zero."""
    graphdef, params, rest = nnx.split(network, nnx.Param, ...)

    @jax.jit
    def gradient(params, task):
        def loss(params):
            model = nnx.merge(graphdef, params, rest, copy=True)
            return model.total_loss(model(task, n_way=3, train=True).losses)

        return jax.value_and_grad(loss)(params)

    for path, leaf in nnx.to_flat_state(params):
        if zeroed is not None and path[: len(zeroed)] == zeroed:
            leaf.set_value(jnp.zeros_like(leaf[...]))
    value, grads = gradient(params, task)
    assert np.isfinite(value)
    return {path: np.asarray(grad[...]) for path, grad in nnx.to_flat_state(grads)}


@pytest.mark.parametrize("method", FRAME_METHODS)
@pytest.mark.parametrize("zeroed", [("backbone",), ()], ids=["features", "weights"])
def test_gradients_are_finite_where_all_vectors_are_zero(build, episode, method, zeroed):
    network, task = _built(build, method), episode(UNEQUAL, QUERIES)
    for path, grad in _gradients(network, task, zeroed).items():
        # Small enough that its square, which an optimizer keeps, is far from overflow.
        assert np.abs(grad).max() < 1e4, path


@pytest.mark.parametrize("method", FRAME_METHODS)
def test_gradients_reach_every_parameter_that_the_scores_depend_on(build, episode, method):
    network, task = _built(build, method), episode(UNEQUAL, QUERIES)
    found = _gradients(network, task)
    without = {torch_map.official_name(path) for path, grad in found.items() if not grad.any()}
    unused = {f"transformers.{i}.norm_v.{leaf}" for i in range(2) for leaf in ("weight", "bias")}
    assert without == (unused if method == "trx" else set())


@pytest.mark.parametrize(
    ("method", "frames", "message"),
    [
        ("trx", 2, "have 2 frames; TRX needs at least 3 and at most 12"),
        ("trx", 13, "have 13 frames; TRX needs at least 3 and at most 12"),
        ("hyrsm", 21, r"have 21 frames; HyRSM needs at least 1 and at most 20"),
        ("hyrsm_pp", 21, r"have 21 frames; HyRSM\+\+ needs at least 1 and at most 20"),
    ],
)
def test_numbers_of_frames_outside_the_limits_are_refused(build, episode, method, frames, message):
    network, task = _built(build, method), episode((0, 1), (0,), frames=frames)
    with pytest.raises(ValueError, match=message):
        network.embed(task.query)
    with pytest.raises(ValueError, match=message):
        network(task, n_way=2, train=True)


@pytest.mark.parametrize(
    ("method", "frames"),
    [
        *(("protonet", 1), ("otam", 1), ("otam", 32), ("trx", 3), ("trx", 12)),
        *(("hyrsm_pp", 1), ("hyrsm_pp", 20)),
    ],
)
def test_the_shortest_and_the_longest_clips_are_scored(build, episode, run, method, frames):
    network, task = _built(build, method), episode((0, 1, 1), (0, 1), frames=frames)
    logits = run(network, task, n_way=2).logits
    assert np.isfinite(logits).all()
    # Scores that tell the classes apart.
    assert np.abs(np.diff(logits, axis=1)).min() > 1e-6


@pytest.mark.parametrize("method", FRAME_METHODS)
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_the_method_is_recognized_from_the_names_of_its_tensors(method, backbone):
    settings = METHODS[method](num_classes=31, backbone=backbone)
    names = _official(settings)
    found, *others = torch_map.recognize(names, method)
    assert found == method
    assert others == [backbone, 31 if settings.classifier else 1]
    first = {"bi_mhm": "protonet", "otam": "protonet", "hyrsm_pp": "hyrsm"}
    assert torch_map.recognize(names)[0] == first.get(method, method)
    assert torch_map.recognize(names, "molo")[0] == first.get(method, method)


def _official(settings):
    """The official name and shape of every tensor, without its values."""
    _, *states = abstract_network(settings)
    flat = [pair for state in states for pair in nnx.to_flat_state(state)]
    return {
        torch_map.official_name(path): torch_map.to_official(
            path, np.broadcast_to(np.bool_(), leaf.shape)
        )
        for path, leaf in flat
    }
