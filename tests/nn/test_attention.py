"""Temporal encoder parts against hand-worked values."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from molo_jax.nn.attention import Attention, FeedForward


def test_attention_with_equal_tokens_adds_the_projected_value_to_each():
    attention = Attention(16, dropout=0.0, rngs=nnx.Rngs(0))
    token = jax.random.normal(jax.random.key(1), (16,))
    y = attention(jnp.broadcast_to(token, (1, 3, 16)), train=False, rngs=None)
    value = (attention.norm(token) @ attention.qkv_projection.kernel[...])[32:]
    expected = (
        token
        + value @ attention.output_projection.kernel[...]
        + attention.output_projection.bias[...]
    )
    np.testing.assert_allclose(y[0], np.broadcast_to(expected, (3, 16)), atol=1e-5)


def test_attention_weighs_values_by_scaled_products_within_each_head():
    attention = Attention(16, dropout=0.0, rngs=nnx.Rngs(3))
    x = jax.random.normal(jax.random.key(2), (1, 5, 16))
    q, k, v = np.split(np.asarray(attention.qkv_projection(attention.norm(x)))[0], 3, axis=-1)
    heads = []
    for head in range(8):
        cut = slice(2 * head, 2 * head + 2)
        weights = np.exp(q[:, cut] @ k[:, cut].T / math.sqrt(2))
        heads.append(weights / weights.sum(1, keepdims=True) @ v[:, cut])
    expected = x[0] + attention.output_projection(jnp.concatenate(heads, axis=-1))
    np.testing.assert_allclose(attention(x, train=False, rngs=None)[0], expected, atol=1e-5)


def test_feed_forward_uses_the_exact_gelu_and_hidden_width_2048():
    layer = FeedForward(4, dropout=0.0, rngs=nnx.Rngs(0))
    x = jnp.asarray([[1.0, -2.0, 0.5, 3.0]])
    hidden = np.asarray(layer.linear1(x), np.float64)[0]
    assert hidden.shape == (2048,)
    gelu = np.array([h * 0.5 * (1 + math.erf(h / math.sqrt(2))) for h in hidden])
    expected = gelu @ np.asarray(layer.linear2.kernel[...], np.float64) + layer.linear2.bias[...]
    np.testing.assert_allclose(layer(x, train=False, rngs=None)[0], expected, atol=1e-5)
