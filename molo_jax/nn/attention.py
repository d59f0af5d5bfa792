"""Self-attention between the frames of a video or between videos, and feed-forward.

Reference: Wang et al., MoLo, CVPR 2023, "Long-short contrastive objective".
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from molo_jax.nn.layers import layer_norm, linear
from molo_jax.nn.ops import product, to_activations, to_float32

_HEADS = 8
# Width of the feed-forward layer, whatever the feature width is.
_HIDDEN = 2048


def _weights(query: Float[Array, "v g i c"], key: Float[Array, "v g j c"]) -> Array:
    """Computes the attention weights of each head, in float32 from the products on."""
    # Not jax.nn.dot_product_attention, which takes the softmax in float32 whatever it is given.
    wide = {"preferred_element_type": "float32"} if query.dtype == jnp.bfloat16 else {}
    products = product("vgid,vgjd->vgij", query, key, **wide) * query.shape[-1] ** -0.5
    return jax.nn.softmax(products, axis=-1)


def _weighted(weights: Float[Array, "v g i j"], value: Float[Array, "v g j c"]) -> Array:
    """Sums the values by their weights, and puts the heads side by side."""
    y = product("vgij,vgjd->vgid", to_activations(weights), value)
    return rearrange(y, "v g l d -> v l (g d)")


class Attention(nnx.Module):
    """Self-attention on normalized tokens, with residual: ``x + Drop(Linear(MHA(LN(x))))``.

    Tokens stay float32 in every precision; the operands of the products are activations.
    """

    def __init__(self, width: int, *, dropout: float, rngs: nnx.Rngs):
        self.norm = layer_norm(width, rngs=rngs)
        self.qkv_projection = linear(width, 3 * width, use_bias=False, rngs=rngs)
        self.output_projection = linear(width, width, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)

    def __call__(self, x: Array, *, train: bool, rngs: nnx.Rngs | None) -> Array:
        qkv = self.qkv_projection(to_activations(self.norm(x)))
        query, key, value = rearrange(qkv, "v l (three g d) -> three v g l d", three=3, g=_HEADS)
        y = to_float32(self.output_projection(_weighted(_weights(query, key), value)))
        return x + self.dropout(y, deterministic=not train, rngs=rngs)


class RelationAttention(nnx.Module):
    """Self-attention between videos: ``LayerNorm(x + Drop(Linear(MHA(x))))``.

    Dropout acts on the attention weights too. Reference: Wang et al., HyRSM, CVPR 2022, section
    3.2.

    Args:
        width: channels of a token.
        dropout: rate behind the output.
        dropout_weights: rate on the attention weights.
        rngs: source of the random weights.
    """

    def __init__(self, width: int, *, dropout: float, dropout_weights: float, rngs: nnx.Rngs):
        self.query_projection = linear(width, width, use_bias=False, rngs=rngs)
        self.key_projection = linear(width, width, use_bias=False, rngs=rngs)
        self.value_projection = linear(width, width, use_bias=False, rngs=rngs)
        self.norm = layer_norm(width, rngs=rngs)
        self.output_projection = linear(width, width, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)
        self.dropout_weights = nnx.Dropout(dropout_weights)

    def __call__(
        self, x: Float[Array, "v l d"], *, train: bool, rngs: nnx.Rngs | None
    ) -> Float[Array, "v l d"]:
        drop = {"deterministic": not train, "rngs": rngs}
        query, key, value = (
            rearrange(project(to_activations(x)), "v l (g d) -> v g l d", g=_HEADS)
            for project in (self.query_projection, self.key_projection, self.value_projection)
        )
        weights = self.dropout_weights(_weights(query, key), **drop)
        y = to_float32(self.output_projection(_weighted(weights, value)))
        return self.norm(x + self.dropout(y, **drop))


class FeedForward(nnx.Module):
    """``Drop(Linear(Drop(GELU(Linear(x)))))`` with the exact GELU, without its residual.

    Quirk kept: no layer normalization before it, and a hidden width that does not follow the
    feature width.
    """

    def __init__(self, width: int, *, dropout: float, rngs: nnx.Rngs):
        self.linear1 = linear(width, _HIDDEN, rngs=rngs)
        self.linear2 = linear(_HIDDEN, width, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)

    def __call__(self, x: Array, *, train: bool, rngs: nnx.Rngs | None) -> Array:
        drop = {"deterministic": not train, "rngs": rngs}
        hidden = to_float32(self.linear1(to_activations(x)))
        hidden = self.dropout(jax.nn.gelu(hidden, approximate=False), **drop)
        return self.dropout(to_float32(self.linear2(to_activations(hidden))), **drop)


class TemporalEncoder(nnx.Module):
    """One transformer layer over the tokens of a clip; its ReLU is applied by the caller."""

    def __init__(
        self, width: int, *, dropout_attention: float, dropout_feedforward: float, rngs: nnx.Rngs
    ):
        self.attention = Attention(width, dropout=dropout_attention, rngs=rngs)
        self.feedforward = FeedForward(width, dropout=dropout_feedforward, rngs=rngs)

    def __call__(
        self, tokens: Float[Array, "v l d"], *, train: bool, rngs: nnx.Rngs | None
    ) -> dict[str, Float[Array, "v l d"]]:
        """Encodes tokens.

        Returns:
            ``attention`` (with residual), ``feedforward`` (without) and their sum, ``encoded``.
        """
        attended = self.attention(tokens, train=train, rngs=rngs)
        forwarded = self.feedforward(attended, train=train, rngs=rngs)
        return {
            "attention": attended,
            "feedforward": forwarded,
            "encoded": attended + forwarded,
        }
