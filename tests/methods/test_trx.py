"""Cross-attention between tuples of frames against loops in NumPy."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from molo_jax.engine.step import make_match
from molo_jax.methods.frame_outputs import Tuples
from molo_jax.methods.settings import METHODS
from molo_jax.methods.trx import TRX, tuple_distances, tuples

LABELS, QUERIES = (1, 0, 1, 1, 0), (0, 1)
FRAMES = 4


def _linear(layer, x):
    return x @ np.asarray(layer.kernel[...], np.float64) + np.asarray(layer.bias[...])


def _normalized(layer, x):
    y = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    return y * np.asarray(layer.scale[...], np.float64) + np.asarray(layer.bias[...])


def _positioned(features):
    frames, width = features.shape
    encoding = np.zeros((frames, width))
    for p in range(frames):
        for i in range(0, width, 2):
            encoding[p, i] = math.sin(p / 10000 ** (i / width))
            encoding[p, i + 1] = math.cos(p / 10000 ** (i / width))
    return features + 0.1 * encoding


def _keys_and_values(transformer, features, cardinality):
    """Whole tuples, concatenated and mapped, one after the other."""
    positioned = _positioned(features)
    found = []
    for places in itertools.combinations(range(len(features)), cardinality):
        joined = np.concatenate([positioned[place] for place in places])
        key = _normalized(transformer.key_norm, _linear(transformer.key_projection, joined))
        found.append((key, _linear(transformer.value_projection, joined)))
    return found


def _score(transformer, query, shots, cardinality):
    """One softmax over all tuples of all shots of the class."""
    of_query = _keys_and_values(transformer, query, cardinality)
    of_class = [x for shot in shots for x in _keys_and_values(transformer, shot, cardinality)]
    total = 0.0
    for key, value in of_query:
        weights = np.exp([key @ other / math.sqrt(1152) for other, _ in of_class])
        expected = sum(w * v for w, (_, v) in zip(weights / weights.sum(), of_class, strict=True))
        total += np.sum((value - expected) ** 2)
    return -total / len(of_query)


def test_scores_follow_the_definition_with_unequal_shots(
    build, episode, run, embed_and_match, frame_features
):
    network, task = build("trx"), episode(LABELS, QUERIES, frames=FRAMES)
    support, query = (frame_features(network, clips) for clips in (task.support, task.query))
    expected = np.zeros((2, 2))
    for q in range(2):
        for label, shots in ((0, support[[1, 4]]), (1, support[[0, 2, 3]])):
            scores = [
                _score(network.cross_transformers[i], query[q], shots, cardinality)
                for i, cardinality in enumerate((2, 3))
            ]
            expected[q, label] = np.mean(scores)
    np.testing.assert_allclose(run(network, task, n_way=2).logits, expected, rtol=1e-4)
    np.testing.assert_allclose(embed_and_match(network, task, n_way=2), expected, rtol=1e-4)


def test_tuples_are_the_ordered_ones_in_lexicographic_order():
    assert tuples(4, 2) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert tuples(4, 3) == [(0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3)]
    assert (len(tuples(8, 2)), len(tuples(8, 3))) == (28, 56)


def test_one_softmax_runs_over_all_shots_of_a_class_and_over_no_other_class():
    # One tuple a clip and one channel: scores are products of the keys.
    query = Tuples(jnp.asarray([[1.0]]), jnp.asarray([[0.0]]))
    keys = jnp.asarray([math.log(3), 0.0, 0.0]).reshape(3, 1, 1)
    support = Tuples(keys, jnp.asarray([4.0, 8.0, 7.0]).reshape(3, 1, 1))
    distances = tuple_distances(query, support, jnp.asarray([0, 0, 1]), 2)
    # Weights 3/4 and 1/4: the class expects 5.
    np.testing.assert_allclose(distances, [25.0, 49.0], rtol=1e-6)


def test_scores_far_beyond_the_range_of_an_exponential_are_weighed():
    query = Tuples(jnp.asarray([[1.0]]), jnp.asarray([[0.0]]))
    keys = jnp.asarray([900.0, 900.0 - math.log(3), -900.0]).reshape(3, 1, 1)
    support = Tuples(keys, jnp.asarray([4.0, 8.0, 7.0]).reshape(3, 1, 1))
    distances = tuple_distances(query, support, jnp.asarray([0, 0, 1]), 2)
    np.testing.assert_allclose(distances, [25.0, 49.0], rtol=1e-4)


def test_dropout_acts_on_positioned_frames_in_training_alone(build, episode, run):
    network, task = build("trx", dropout_position=0.5), episode(LABELS, QUERIES)
    plain = run(network, task, n_way=2).stages["cross_transformers.0.positioned"].query
    training = run(network, task, n_way=2, train=True, keys=[1])
    dropped = np.asarray(training.stages["cross_transformers.0.positioned"].query[0])
    kept = dropped != 0
    assert 0.3 < kept.mean() < 0.7
    np.testing.assert_allclose(dropped[kept], 2 * np.asarray(plain)[kept], rtol=1e-5)


@pytest.mark.parametrize(("frames", "positions"), [(8, 12), (5, 7)])
def test_official_files_hold_scaled_sinusoids_and_the_frame_numbers_of_tuples(frames, positions):
    settings = METHODS["trx"](num_classes=1, backbone="resnet18", frames=frames)
    buffers = TRX.fixed_buffers(settings)
    pairs, triples = math.comb(frames, 2), math.comb(frames, 3)
    assert len(buffers) == 2 + pairs + triples
    encoding = buffers["transformers.1.pe.pe"]
    assert encoding.shape == (1, positions, 512)
    assert math.isclose(encoding[0, 6, 4], 0.1 * math.sin(6 / 10000 ** (4 / 512)), rel_tol=1e-5)
    assert math.isclose(encoding[0, 6, 5], 0.1 * math.cos(6 / 10000 ** (4 / 512)), rel_tol=1e-5)
    last = buffers[f"transformers.1.tuples.{triples - 1}"]
    np.testing.assert_array_equal(last, [frames - 3, frames - 2, frames - 1])
    assert last.dtype == np.int64
    np.testing.assert_array_equal(buffers["transformers.0.tuples.1"], [0, 2])


def _clips_and_episodes(network, *, episodes, way, shot, queries):
    """Features of 60 clips of 8 frames, and episodes of them by position."""
    rng = np.random.default_rng(2)
    frames = jnp.asarray(rng.standard_normal((60, 8, 16)), jnp.float32)
    features = network.encode(frames, train=False, rngs=None)[1]
    places = [rng.permutation(60)[: way * shot + queries] for _ in range(episodes)]
    support, query = np.split(np.int32(places), [way * shot], axis=1)
    return features, support, query, np.tile(np.int32(np.repeat(range(way), shot)), (episodes, 1))


def test_queries_matched_in_groups_score_as_side_by_side(build):
    network = build("trx")
    # Seven queries: one group of five, and two left over.
    features, support, query, labels = _clips_and_episodes(
        network, episodes=2, way=3, shot=2, queries=7
    )
    graphdef, params, stats = nnx.split(network, nnx.Param, nnx.BatchStat)
    logits = make_match(graphdef, n_way=3)(params, stats, features, support, query, labels)
    assert logits.shape == (2, 7, 3)
    for e in range(2):
        sets = (jax.tree.map(lambda x, i=i: x[i], features) for i in (support[e], query[e]))
        expected = network.score(*sets, jnp.asarray(labels[e]), n_way=3)[1]
        np.testing.assert_allclose(logits[e], expected, rtol=1e-5)


def test_the_memory_of_an_evaluation_is_that_of_one_episode(build):
    network = build("trx")
    arguments = _clips_and_episodes(network, episodes=64, way=5, shot=5, queries=5)
    graphdef, params, stats = nnx.split(network, nnx.Param, nnx.BatchStat)
    match = make_match(graphdef, n_way=5)
    memory = match.lower(params, stats, *arguments).compile().memory_analysis()
    # Side by side, 64 episodes would take 3 GB.
    assert memory.temp_size_in_bytes < 100e6
