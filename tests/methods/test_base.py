"""What all methods share, against hand-worked values."""

import jax.numpy as jnp
import numpy as np

from molo_jax.methods.base import accuracy, cross_entropy


def test_cross_entropy_is_the_mean_negative_log_probability():
    logits = jnp.log(jnp.asarray([[0.2, 0.8], [0.5, 0.5]]))
    value = cross_entropy(logits, jnp.asarray([1, 0]))
    np.testing.assert_allclose(value, -(np.log(0.8) + np.log(0.5)) / 2, rtol=1e-6)


def test_accuracy_counts_the_rows_whose_largest_score_is_their_label():
    logits = jnp.asarray([[0.2, 0.8], [0.5, 0.4], [3.0, -1.0], [0.0, 1.0]])
    np.testing.assert_allclose(accuracy(logits, jnp.asarray([1, 1, 0, 1])), 0.75)
