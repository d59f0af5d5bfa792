"""The temporal coherence term against loops in NumPy and values worked out by hand."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from molo_jax.methods.hyrsm_pp import coherence


def _pairs(tokens, window, balance, apart_weight):
    frames = len(tokens)
    found = np.zeros((frames, frames))
    for i in range(frames):
        for j in range(frames):
            cosine = tokens[i] @ tokens[j] / np.linalg.norm(tokens[i]) / np.linalg.norm(tokens[j])
            distance, steps = 1 - cosine, abs(i - j)
            if steps <= window:
                found[i, j] = distance / (steps**2 + 1)
            else:
                margin = 1 - math.exp(-((steps - window) ** 2) / balance)
                found[i, j] = apart_weight * max(0.0, margin - distance)
    return found


@pytest.mark.parametrize("window", [0, 1, 3])
def test_every_pair_of_frames_follows_the_definition(window):
    tokens = np.random.default_rng(window).standard_normal((2, 6, 3)) + 1
    settings = {"window": window, "balance": 5.0, "apart_weight": 7.0}
    found = coherence(jnp.asarray(tokens, jnp.float32), **settings)
    expected = np.stack([_pairs(each, **settings) for each in tokens])
    # Both sides of the maximum with zero occur.
    steps = np.abs(np.arange(6)[:, None] - np.arange(6))
    outside = expected[:, steps > window]
    assert (outside > 0).any()
    assert (outside == 0).any()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_equal_frames_cost_their_margin_beyond_the_window_and_nothing_within():
    found = coherence(jnp.ones((3, 4)), window=1, balance=2.0, apart_weight=10.0)
    margin = 10 * (1 - math.exp(-1 / 2))
    np.testing.assert_allclose(found, [[0, 0, margin], [0, 0, 0], [margin, 0, 0]], atol=1e-5)


def test_orthogonal_frames_cost_half_next_to_each_other_and_nothing_beyond_the_window():
    found = coherence(jnp.eye(3), window=1, balance=2.0, apart_weight=10.0)
    np.testing.assert_allclose(found, [[0, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0]], atol=1e-6)


def test_the_term_is_the_mean_over_the_support_of_every_query_plus_the_mean_over_queries(
    build, episode, run
):
    settings = {"window": 0, "balance": 3.0, "apart_weight": 4.0}
    network = build("hyrsm_pp", **settings)
    training = run(network, episode((1, 0, 1, 1), (0, 1)), n_way=2)
    tokens = training.stages["tokens"]
    support = np.asarray(tokens.support, np.float64).reshape(-1, 4, 16)
    query = np.asarray(tokens.query, np.float64)
    # Two prototypes for each of two queries.
    assert len(support) == 2 * 2
    expected = sum(
        np.mean([_pairs(each, **settings) for each in videos]) for videos in (support, query)
    )
    np.testing.assert_allclose(training.losses["temporal"], expected, rtol=1e-4)


def test_the_scores_are_those_of_hyrsm(build, episode, run):
    task = episode((1, 0, 1, 1), (0, 1))
    plain, coherent = (run(build(name), task, n_way=2) for name in ("hyrsm", "hyrsm_pp"))
    np.testing.assert_array_equal(plain.logits, coherent.logits)
