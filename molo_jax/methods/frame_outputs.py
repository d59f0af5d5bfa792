"""What the methods on frame features keep of clips.

Letters: v videos, t frame, d feature, u tuple of frames, c channel of keys and values.
"""

from jaxtyping import Array, Float

from molo_jax.methods.episode import pytree


@pytree
class Projections:
    """TRX: what every frame adds to the key and to the value of a tuple at each of its places."""

    keys: Float[Array, "v t place c"]
    values: Float[Array, "v t place c"]


@pytree
class Tuples:
    """TRX: normalized keys and values of all ordered tuples of frames."""

    keys: Float[Array, "v u c"]
    values: Float[Array, "v u c"]


@pytree
class Encoded:
    """HyRSM: encoded clips.

    Attributes:
        means: mean over frames of the encoded frame tokens.
        mapped: the encoded frame tokens' part in the new frame tokens.
    """

    means: Float[Array, "v d"]
    mapped: Float[Array, "v t d"]
