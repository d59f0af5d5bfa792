"""The positional encoding against hand-worked values."""

import math

import jax.numpy as jnp
import numpy as np
from flax import nnx

from molo_jax.nn.positions import PositionalEncoder, sinusoids, textbook_sinusoids


def test_sinusoids_double_the_channel_index_in_the_exponent():
    encoding = sinusoids(4, 6)
    assert math.isclose(encoding[3, 2], math.sin(3 / 10000 ** (4 / 6)), rel_tol=1e-6)
    assert math.isclose(encoding[3, 3], math.cos(3 / 10000 ** (6 / 6)), rel_tol=1e-6)
    np.testing.assert_array_equal(encoding[0], [0, 1, 0, 1, 0, 1])


def test_textbook_sinusoids_give_both_channels_of_a_pair_one_frequency():
    encoding = textbook_sinusoids(4, 6)
    assert math.isclose(encoding[3, 2], math.sin(3 / 10000 ** (2 / 6)), rel_tol=1e-6)
    assert math.isclose(encoding[3, 3], math.cos(3 / 10000 ** (2 / 6)), rel_tol=1e-6)
    np.testing.assert_array_equal(encoding[0], [0, 1, 0, 1, 0, 1])


def test_positional_encoder_scales_tokens_and_adds_weighted_sinusoids():
    encoder = PositionalEncoder(4, positions=20, a=16.0, b=0.5, dropout=0.1)
    y = encoder(jnp.full((1, 2, 4), 6.0), train=False, rngs=None)
    np.testing.assert_allclose(y[0], 6.0 * 0.5 + 0.5 * sinusoids(2, 4), rtol=1e-6)


def test_positional_dropout_zeroes_its_share_and_scales_the_rest():
    encoder = PositionalEncoder(4, positions=20, a=4.0, b=0.0, dropout=0.25)
    y = np.asarray(encoder(jnp.ones((50, 10, 4)), train=True, rngs=nnx.Rngs(dropout=0)))
    assert set(np.unique(y.round(5))) == {0.0, np.float32(1 / 0.75).round(5)}
    np.testing.assert_allclose((y == 0).mean(), 0.25, atol=0.03)
