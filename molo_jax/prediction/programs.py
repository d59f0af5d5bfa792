"""A network as two pure programs with its weights inside: what is exported.

The embedder turns raw clips into features, the matcher turns the features of support clips and
queries into scores. Letters: v clips, s support clips, q queries, n classes, t frames, r side in
pixels of a frame.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import export
from jaxtyping import Array, Float, UInt8

from molo_jax.backbones import backbone_info
from molo_jax.data.augment import eval_views
from molo_jax.methods.base import Method
from molo_jax.methods.episode import Features
from molo_jax.methods.frames import FrameMethod
from molo_jax.nn.precision import FLOAT32, using
from molo_jax.prediction.export_folder import EMBEDDER, MATCHER
from molo_jax.prediction.sources import Network

# Names of inputs and outputs that are no features.
CLIPS, MEMBERS, LOGITS = "clips", "members", "logits"
SUPPORT, QUERY = "support", "query"
# The features of a clip where they are one array.
FEATURES = "features"

NamedFeatures = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Program:
    """A pure function of arrays, with the weights of a network inside.

    Attributes:
        name: `embedder` or `matcher`.
        function: takes pytrees of arrays and returns one; dictionaries name the arrays.
        arguments: shape and type of each array that it takes; sizes that are free are symbolic.
        inputs: name of each array that it takes, in the order of their leaves.
        outputs: name of each array that it returns, likewise.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def results(self) -> Any:
        """Shape and type of each array that the program returns."""
        return jax.eval_shape(self.function, *self.arguments)


def programs(network: Network) -> tuple[Program, Program]:
    """Returns the embedder and the matcher of a network.

    ``embedder(clips)`` takes clips of ``uint8 (v, t, r, r, 3)`` and returns a dictionary of named
    features. ``matcher(support, members, query)`` takes two such dictionaries and the classes of
    the support clips, one row of zeros and a one for each clip (s, n), and returns the logits (q,
    n). The numbers v, s, n and q are free. Both compute in float32.
    """
    embed, rule = _embedder(network), network.rule
    (clips,) = export.symbolic_shape("v")
    pixels = _array((clips, rule.num_frames, rule.resize, rule.resize, 3), jnp.uint8)
    features = jax.eval_shape(embed, pixels)
    names = tuple(features)
    support, query, classes = export.symbolic_shape("s, q, n")
    embedder = Program(EMBEDDER, embed, (pixels,), (CLIPS,), names)
    matcher = Program(
        MATCHER,
        _matcher(network),
        (
            _of(features, support),
            _array((support, classes), jnp.float32),
            _of(features, query),
        ),
        (*(f"{SUPPORT}_{n}" for n in names), MEMBERS, *(f"{QUERY}_{n}" for n in names)),
        (LOGITS,),
    )
    return embedder, matcher


def _array(shape: tuple[Any, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _of(features: Mapping[str, Any], clips: Any) -> dict[str, Any]:
    """Returns the shapes of the features of so many clips."""
    return {name: _array((clips, *x.shape[1:]), x.dtype) for name, x in features.items()}


def _embedder(network: Network) -> Callable[[Any], NamedFeatures]:
    info, crop = backbone_info(network.settings.backbone), network.rule.crop

    def embed(clips: UInt8[Array, "v t r r 3"]) -> NamedFeatures:
        with using(FLOAT32):
            views = eval_views(clips, crop, (info.mean, info.std))
            return named(_merged(network).embed(views))

    return embed


def _matcher(network: Network) -> Callable[..., Any]:
    def match(
        support: NamedFeatures, members: Float[Array, "s n"], query: NamedFeatures
    ) -> Float[Array, "q n"]:
        with using(FLOAT32):
            model = _merged(network)
            labels, n_way = jnp.argmax(members, axis=1), members.shape[1]
            sets = (unnamed(network, each) for each in (support, query))
            # Of a method on frame features, `match` takes a few queries after the other for the
            # sake of memory: a loop of a length that is not known here.
            if isinstance(model, FrameMethod):
                return model.score(*sets, labels, n_way=n_way)[1]
            return model.match(*sets, labels, n_way=n_way)

    return match


def _merged(network: Network) -> Method:
    return nnx.merge(network.graphdef, network.params, network.batch_stats)


def named(features: Features) -> NamedFeatures:
    """Returns the arrays of features by names, which a program in any language can have.

    The name of an array is its path in the pytree, such as `appearance`, or `features` where there
    is one array alone. The names are in the order of the alphabet, as in JAX's dictionaries.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(features)
    return dict(sorted((_name(path), leaf) for path, leaf in leaves))


def unnamed(network: Network, arrays: Mapping[str, Any]) -> Features:
    """Undoes :func:`named`."""
    structure = jax.eval_shape(
        lambda clips: _merged(network).embed(clips),
        _array((1, network.rule.num_frames, network.rule.crop, network.rule.crop, 3), jnp.float32),
    )
    return jax.tree_util.tree_map_with_path(lambda path, _: arrays[_name(path)], structure)


def _name(path: tuple[Any, ...]) -> str:
    parts = [
        str(getattr(key, "name", getattr(key, "idx", getattr(key, "key", "")))) for key in path
    ]
    name = "_".join(parts)
    # A name begins with a letter.
    return name if name[:1].isalpha() else "_".join([FEATURES, *parts])
