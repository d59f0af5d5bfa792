"""The relation of videos and the match of their new frame tokens against loops in NumPy."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from molo_jax.methods.hyrsm import Fusion
from molo_jax.weights.torch_map import official_name

LABELS, QUERIES = (1, 0, 1, 1), (0, 1)
WITHOUT_DROPOUT = {
    "dropout_position": 0.0,
    "dropout_attention": 0.0,
    "dropout_relation": 0.0,
    "dropout_relation_weights": 0.0,
}


def _array(parameter):
    return np.asarray(parameter[...], np.float64)


def _normalized(layer, x):
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return y * _array(layer.scale) + _array(layer.bias)


def _heads(query, key, value):
    """Attention of 8 heads, one after the other, between tokens (l, d)."""
    size = query.shape[1] // 8
    outputs = []
    for head in range(8):
        part = slice(head * size, (head + 1) * size)
        scores = np.exp(query[:, part] @ key[:, part].T / math.sqrt(size))
        outputs.append(scores / scores.sum(1, keepdims=True) @ value[:, part])
    return np.concatenate(outputs, axis=1)


def _encoded(network, features):
    """Frame tokens of one clip: positions, attention with its residual, ReLU."""
    frames, width = features.shape
    pe = np.zeros((frames, width))
    for p in range(frames):
        for i in range(width):
            wave = math.sin if i % 2 == 0 else math.cos
            pe[p, i] = wave(p / 10000 ** (2 * i / width))
    x = features * math.sqrt(width / 10) + pe
    block = network.frame_encoder
    query, key, value = np.split(
        _normalized(block.norm, x) @ _array(block.qkv_projection.kernel), 3, 1
    )
    out = _heads(query, key, value) @ _array(block.output_projection.kernel) + _array(
        block.output_projection.bias
    )
    return np.maximum(x + out, 0)


def _related(network, videos):
    """Relation tokens of videos (l, d), after ReLU."""
    block = network.relation
    maps = block.query_projection, block.key_projection, block.value_projection
    last = block.output_projection
    parts = (videos @ _array(layer.kernel) for layer in maps)
    out = _heads(*parts) @ _array(last.kernel) + _array(last.bias)
    return np.maximum(_normalized(block.norm, videos + out), 0)


def _mapped(network, tokens, relation):
    """New frame tokens of one video: each token with the relation behind it."""
    joined = np.concatenate([tokens, np.tile(relation, (len(tokens), 1))], axis=1)
    return joined @ _array(network.fusion.kernel)[0] + _array(network.fusion.bias)


def _hausdorff(a, b):
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    grid = 1 - a @ b.T
    return grid.min(0).sum() + grid.min(1).sum()


def _expected(network, support, query, prototypes_first):
    support = [_encoded(network, x) for x in support]
    query = [_encoded(network, x) for x in query]
    shots = [[support[1]], [support[0], support[2], support[3]]]
    if prototypes_first:
        shots = [[np.mean(each, axis=0)] for each in shots]
    videos = [x for each in shots for x in each]
    scores = np.zeros((len(query), 2))
    for q, tokens in enumerate(query):
        relation = _related(network, np.stack([x.mean(0) for x in [*videos, tokens]]))
        new = [_mapped(network, x, r) for x, r in zip([*videos, tokens], relation, strict=True)]
        distances = [_hausdorff(new[-1], each) for each in new[:-1]]
        scores[q] = [-np.mean(distances[: len(shots[0])]), -np.mean(distances[len(shots[0]) :])]
    return scores


@pytest.mark.parametrize("prototypes_first", [True, False])
def test_scores_follow_the_definition_with_unequal_shots(
    build, episode, run, embed_and_match, frame_features, prototypes_first
):
    network = build("hyrsm", prototypes_first=prototypes_first)
    task = episode(LABELS, QUERIES)
    support, query = (frame_features(network, clips) for clips in (task.support, task.query))
    expected = _expected(network, support, query, prototypes_first)
    other = _expected(network, support, query, not prototypes_first)
    # The two heads differ where a class has several shots.
    assert np.abs(expected - other).max() > 1e-2
    np.testing.assert_allclose(run(network, task, n_way=2).logits, expected, rtol=1e-4)
    np.testing.assert_allclose(embed_and_match(network, task, n_way=2), expected, rtol=1e-4)


def test_with_one_shot_both_heads_are_the_same(build, episode, run):
    task = episode((2, 0, 1), (1, 2))
    first, second = (
        run(build("hyrsm", prototypes_first=each), task, n_way=3).logits for each in (True, False)
    )
    np.testing.assert_allclose(first, second, rtol=1e-5)


def test_the_new_frame_tokens_of_the_support_depend_on_the_query(build, episode, run):
    tokens = run(build("hyrsm"), episode(LABELS, QUERIES), n_way=2).stages["tokens"].support
    assert tokens.shape == (2, 2, 4, 16)
    # Far above rounding, which is 1e-7 here.
    assert np.abs(tokens[0] - tokens[1]).max() > 1e-3


def test_a_query_is_scored_without_the_other_queries(build, episode, embed_and_match):
    network, task = build("hyrsm"), episode(LABELS, (0, 1, 1))
    single = dataclasses.replace(task, query=task.query[1:2])
    alone = embed_and_match(network, single, n_way=2)
    np.testing.assert_allclose(alone[0], embed_and_match(network, task, n_way=2)[1], rtol=1e-5)


def test_the_auxiliary_classifier_sees_every_frame_support_first(
    build, episode, run, frame_features
):
    network, task = build("hyrsm", **WITHOUT_DROPOUT), episode(LABELS, QUERIES)
    layer, rows, right = network.classifier, [], []
    for clips, classes in (
        (task.support, task.support_classes),
        (task.query, task.query_classes),
    ):
        for features, label in zip(frame_features(network, clips), classes, strict=True):
            for token in _encoded(network, features):
                scores = token @ _array(layer.kernel) + _array(layer.bias)
                rows.append(np.log(np.exp(scores).sum()) - scores[int(label)])
                right.append(scores.argmax() == int(label))
    training = run(network, task, n_way=2, train=True)
    assert len(rows) == (4 + 2) * 4
    np.testing.assert_allclose(training.losses["classification"], np.mean(rows), rtol=1e-4)
    np.testing.assert_allclose(training.metrics["class_accuracy"], np.mean(right), rtol=1e-6)


def test_the_fusion_is_the_map_of_both_in_a_row():
    layer = Fusion(2, rngs=nnx.Rngs(0))
    layer.kernel[...] = jnp.asarray([[[1.0, 0.0], [0.0, 2.0], [10.0, 0.0], [0.0, 20.0]]])
    layer.bias[...] = jnp.asarray([0.5, 0.25])
    frames, relation = jnp.asarray([1.0, 2.0]), jnp.asarray([3.0, 4.0])
    both = layer.of_frames(frames) + layer.of_relation(relation)
    np.testing.assert_allclose(both, [1 + 30 + 0.5, 4 + 80 + 0.25])


@pytest.mark.parametrize("where", sorted(WITHOUT_DROPOUT))
def test_each_dropout_acts_in_training_alone(build, episode, run, where):
    network = build("hyrsm", **(WITHOUT_DROPOUT | {where: 0.5}))
    task = episode(LABELS, QUERIES)
    plain = np.asarray(run(network, task, n_way=2).logits)
    first, again, other = run(network, task, n_way=2, train=True, keys=[1, 1, 2]).logits
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4
    assert np.abs(first - plain).max() > 1e-4


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (("frame_encoder", "norm", "scale"), "temporal_atte_before.norm.weight"),
        (("frame_encoder", "qkv_projection", "kernel"), "temporal_atte_before.fn.to_qkv.weight"),
        (("frame_encoder", "output_projection", "bias"), "temporal_atte_before.fn.to_out.0.bias"),
        (("relation", "key_projection", "kernel"), "temporal_atte.w_ks.weight"),
        (("relation", "norm", "scale"), "temporal_atte.layer_norm.weight"),
        (("fusion", "kernel"), "layer2.0.weight"),
        (("backbone", "layer2", 0, "bn1", "scale"), "backbone.5.0.bn1.weight"),
    ],
)
def test_official_names(path, name):
    assert official_name(path) == name
