"""Prototypes and distances against hand-worked values."""

import jax
import jax.numpy as jnp
import numpy as np

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
