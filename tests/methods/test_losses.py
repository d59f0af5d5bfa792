"""The loss against hand-worked values."""

import jax.numpy as jnp
import numpy as np
import pytest

from molo_jax.model import LossWeights, losses


def test_cross_entropy_is_the_mean_negative_log_probability():
    logits = jnp.log(jnp.asarray([[0.2, 0.8], [0.5, 0.5]]))
    value = losses.cross_entropy(logits, jnp.asarray([1, 0]))
    np.testing.assert_allclose(value, -(np.log(0.8) + np.log(0.5)) / 2, rtol=1e-6)


def test_total_loss_weighs_every_term_and_multiplies_reconstruction_by_the_accumulation():
    values = dict(zip(losses.TERMS, (1.0, 10.0, 100.0, 200.0, 300.0, 400.0, 1000.0), strict=True))
    weights = LossWeights(classification=0.8, contrast=0.05, reconstruction=0.1, accumulation=4)
    total = losses.total_loss({k: jnp.asarray(v) for k, v in values.items()}, weights)
    np.testing.assert_allclose(total, 1 + 0.8 * 10 + 0.05 * 1000 + 4 * 0.1 * 1000, rtol=1e-6)


@pytest.mark.parametrize("term", losses.TERMS)
def test_total_loss_depends_on_every_term(term):
    weights = LossWeights(classification=0.8, contrast=0.05, reconstruction=0.1)
    zero = {name: jnp.zeros(()) for name in losses.TERMS}
    assert float(losses.total_loss(zero | {term: jnp.ones(())}, weights)) > 0
