"""Prototypes and distances against hand-worked values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from molo_jax.nn import matching


def test_prototypes_average_unequal_shots_in_ascending_label_order():
    tokens = jnp.asarray([1.0, 2.0, 4.0, 9.0]).reshape(4, 1, 1) * jnp.ones((4, 3, 2))
    classes = matching.prototypes(tokens, jnp.asarray([1, 0, 1, 1]), 2)
    np.testing.assert_allclose(classes[0], np.full((3, 2), 2.0))
    np.testing.assert_allclose(classes[1], np.full((3, 2), 14 / 3), rtol=1e-6)


def test_cosine_distance_has_its_epsilon_inside_the_denominator():
    a, b = jnp.asarray([[[3.0, 4.0]]]), jnp.asarray([[[1.0, 0.0], [0.0, 0.0]]])
    distances = matching.cosine_distances(a, b)
    np.testing.assert_allclose(distances[0, 0, 0], [1 - 3 / 5.01, 1.0], rtol=1e-6)


def test_cosine_distance_has_a_finite_gradient_at_zero_vectors():
    zero = jnp.zeros((1, 2, 3))
    grads = jax.grad(lambda a, b: jnp.sum(matching.cosine_distances(a, b)), argnums=(0, 1))
    for grad in grads(zero, zero):
        np.testing.assert_array_equal(grad, np.zeros((1, 2, 3)))


def test_bi_mean_hausdorff_sums_the_minima_of_rows_and_columns():
    distances = jnp.asarray([[1.0, 5.0, 3.0], [2.0, 0.5, 4.0]]).reshape(1, 1, 2, 3)
    both = matching.bi_mean_hausdorff(distances)
    np.testing.assert_allclose(both, [[(1.0 + 0.5) + (1.0 + 0.5 + 3.0)]])
    one = matching.bi_mean_hausdorff(distances, single_direction=True)
    np.testing.assert_allclose(one, [[1.5]])


def test_split_streams_separates_global_rows_and_columns():
    distances = jnp.arange(12.0).reshape(1, 1, 3, 4)
    frames, to_query, to_class = matching.split_streams(distances)
    np.testing.assert_array_equal(frames[0, 0], [[5, 6, 7], [9, 10, 11]])
    np.testing.assert_array_equal(to_query, [[1 + 2 + 3]])
    np.testing.assert_array_equal(to_class, [[4 + 8]])


def test_class_means_average_unequal_shots_in_ascending_label_order():
    scores = jnp.asarray([[1.0, 2.0, 4.0, 9.0], [3.0, 5.0, 0.0, 0.0]])
    means = matching.class_means(scores, jnp.asarray([1, 0, 1, 1]), 2)
    np.testing.assert_allclose(means, [[2.0, 14 / 3], [5.0, 1.0]], rtol=1e-6)


def test_unit_vectors_keep_their_direction_and_zero_stays_zero():
    vectors = jnp.asarray([[3.0, 4.0], [0.0, 0.0], [0.0, 1e-13]])
    np.testing.assert_allclose(matching.unit(vectors), [[0.6, 0.8], [0, 0], [0, 0.1]], rtol=1e-5)


def test_the_gradient_of_a_unit_vector_at_zero_is_finite_and_small():
    grad = jax.grad(lambda x: jnp.sum(matching.unit(x)))(jnp.zeros((1, 3)))
    np.testing.assert_array_equal(grad, np.ones((1, 3)))


def test_alignment_of_single_frames_is_twice_their_distance():
    costs = matching.otam(jnp.asarray([0.3, 0.8]).reshape(2, 1, 1, 1), smoothing=0.1)
    np.testing.assert_allclose(costs, [[0.6], [1.6]], rtol=1e-6)


def _softest(smoothing, *costs):
    return -smoothing * np.log(sum(np.exp(-cost / smoothing) for cost in costs))


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_alignment_of_two_frames_softens_every_row_but_the_first(smoothing):
    def one_direction(a, b, c, d):
        # Columns of zeros before and behind; the first row is a running sum.
        first = _softest(smoothing, 0.0, a, 0.0) + c
        second = _softest(smoothing, a, first) + d
        return _softest(smoothing, a + b, second, a + b)

    a, b, c, d = 0.2, 0.9, 0.7, 0.4
    expected = one_direction(a, b, c, d) + one_direction(a, c, b, d)
    costs = matching.otam(jnp.asarray([[[[a, b], [c, d]]]]), smoothing=smoothing)
    np.testing.assert_allclose(costs, [[expected]], rtol=1e-5)


def test_alignment_of_many_frames_neither_underflows_nor_loses_its_gradient():
    # Each direction costs 32 or little less, 320 times the smoothing: exp(-320) is 0 in float32.
    distances = jnp.ones((1, 1, 32, 32))
    cost, grad = jax.value_and_grad(lambda x: jnp.sum(matching.otam(x, smoothing=0.1)))(distances)
    assert 50 < cost < 64
    # A path takes one distance of every column, and now and then two of the first.
    assert grad.min() > -1e-5
    assert 63.99 <= grad.sum() < 65
