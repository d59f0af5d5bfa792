"""What MoLo computes of clips and of an episode; all are JAX pytrees.

Letters: v videos, q query, n way, t frame, h w space, c channel, d feature, k training classes.
"""

from jaxtyping import Array, Float

from molo_jax.methods.episode import Sets, pytree


@pytree
class Tokens:
    """Encoded token sequences of clips; token 0 is the global (class) token.

    The sequence of a stream that is not used is ``None``.
    """

    appearance: Float[Array, "v t+1 d"] | None
    motion: Float[Array, "v t d"] | None


@pytree
class Matching:
    """Class scores of every query.

    Attributes:
        match: negative distances, appearance plus weighted motion: what predictions are made from.
        support_to_query, query_to_support: negative long-short distances of the appearance stream.
        support_to_query_motion, query_to_support_motion: the same of the motion stream.
    """

    match: Float[Array, "q n"]
    support_to_query: Float[Array, "q n"] | None
    query_to_support: Float[Array, "q n"] | None
    support_to_query_motion: Float[Array, "q n"] | None
    query_to_support_motion: Float[Array, "q n"] | None


@pytree
class MoLoOutput:
    """Everything a forward pass over one episode computes.

    Attributes:
        scores: class scores of the queries.
        class_logits: scores of the training classes, support then query videos.
        tokens: encoded tokens of both sets.
        reconstruction: decoded frame differences, support then query (``None`` if not asked for).
        reconstruction_target: differences of consecutive normalized frames, in the same order.
        stages: intermediate values by name, each a :class:`Sets`, those of the decoder arrays of
            all videos: ``pool, layer1 ... layer4`` backbone maps ``(v, t, h', w', c)``;
            ``motion_reduction, motion_convolution`` reduced maps and their convolution;
            ``motion_expansion`` difference maps with ``d`` channels again, before ReLU;
            ``positioned`` tokens after the positional encoding; ``attention, feedforward,
            encoded`` stages of the encoder, the last before ReLU; the last four also with
            ``motion_`` in front; ``motion_decoder.blocks.0 ... 2, motion_decoder.output``.
    """

    scores: Matching
    class_logits: Float[Array, "v k"]
    tokens: Sets
    reconstruction: Float[Array, "v t-1 h w 3"] | None
    reconstruction_target: Float[Array, "v t-1 h w 3"]
    stages: dict[str, Sets | Array]
