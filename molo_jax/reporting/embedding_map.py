"""The clips of a split as points in a plane, the more alike the nearer."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float, Int
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from molo_jax.errors import MoloError
from molo_jax.methods.episode import Features

# With fewer clips t-SNE has nothing to find, and PCA shows the same.
_LEAST_FOR_TSNE = 30
_DIMENSIONS, _PERPLEXITY = 50, 30.0
# The spread below which clips count as equal; up to so many clips nothing is approximated.
_LEAST_SPREAD, _MOST_EXACT = 1e-9, 1000
COLORS = ("#0b5cad", "#b3470a", "#146c34", "#7b3fa0", "#8a6100", "#b3261e", "#00696f", "#4a4f57")
SHAPES = ("circle", "square", "triangle", "diamond")
SIZE, _EDGE = 640, 24


@dataclasses.dataclass(frozen=True)
class Point:
    """A clip: its place in pixels, and what it says on hover."""

    x: float
    y: float
    text: str


@dataclasses.dataclass(frozen=True)
class MapClass:
    """A class: its number and look in the map, and its clips."""

    number: int
    name: str
    color: str
    shape: str
    x: float
    y: float
    points: Sequence[Point]


@dataclasses.dataclass(frozen=True)
class EmbeddingMap:
    """A map.

    Attributes:
        classes: with their clips.
        method: how the places were found: `PCA` or `t-SNE`.
        clips: how many there are.
        total: how many usable clips the split has.
    """

    classes: Sequence[MapClass]
    method: str
    clips: int
    total: int


def vectors_of(features: Features) -> Float[np.ndarray, "v d"]:
    """Makes a vector of what a method keeps of each clip.

    Each array of the features is averaged over its second axis (the frames) where it has one, laid
    flat, and brought to length 1; the arrays are then joined.
    """
    parts = []
    for leaf in jax.tree.leaves(features):
        values = np.asarray(leaf, np.float64)
        values = values.mean(axis=1) if values.ndim > 2 else values
        values = values.reshape(len(values), -1)
        parts.append(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12))
    return np.concatenate(parts, axis=1)


def places(vectors: Float[np.ndarray, "v d"]) -> tuple[Float[np.ndarray, "v 2"], str]:
    """Lays vectors out in the plane, the same way each time.

    Returns:
        The places, and the name of the method: PCA to 50 dimensions and then t-SNE (van der Maaten
        & Hinton 2008) from 30 clips on; PCA alone for fewer, or where all clips are the same.

    Raises:
        MoloError: a number is not finite.
    """
    if not np.isfinite(vectors).all():
        raise MoloError("the features of the network are not finite, so there is no map of them")
    if vectors.std(axis=0).max() < _LEAST_SPREAD:
        return np.zeros((len(vectors), 2)), "PCA"
    most = min(_DIMENSIONS, *vectors.shape)
    reduced = PCA(n_components=most, random_state=0).fit_transform(vectors)
    # Where all clips have the same features, t-SNE divides by their spread, and its compiled part
    # then ends the process.
    if len(vectors) < _LEAST_FOR_TSNE or reduced[:, :2].std(axis=0).min() < _LEAST_SPREAD:
        flat = np.zeros((len(vectors), 2))
        flat[:, : min(2, most)] = reduced[:, :2]
        return flat, "PCA"
    perplexity = min(_PERPLEXITY, (len(vectors) - 1) / 3)
    how = "exact" if len(vectors) <= _MOST_EXACT else "barnes_hut"
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=0, method=how)
    return tsne.fit_transform(reduced.astype(np.float32)), "t-SNE"


def embedding_map(
    vectors: Float[np.ndarray, "v d"],
    classes: Int[np.ndarray, "v"],
    texts: Sequence[str],
    names: Sequence[str],
    total: int,
) -> EmbeddingMap:
    """Draws a map.

    Args:
        vectors: of the clips.
        classes: the class of each: its position in `names`.
        texts: what each says on hover.
        names: of the classes.
        total: number of usable clips of the split.
    """
    flat, method = places(vectors)
    low, high = flat.min(axis=0), flat.max(axis=0)
    scale = (SIZE - 2 * _EDGE) / max(float((high - low).max()), 1e-12)
    shift = (SIZE - (high - low) * scale) / 2
    flat = (flat - low) * scale + shift
    found = []
    for number, position in enumerate(np.unique(classes).tolist()):
        own = np.flatnonzero(classes == position)
        # The clip with the least distance to the others: a mean can lie where no clip is.
        apart = np.linalg.norm(flat[own][:, None] - flat[own][None], axis=2).sum(axis=1)
        middle = flat[own[int(apart.argmin())]]
        found.append(
            MapClass(
                number + 1,
                names[position],
                COLORS[number % len(COLORS)],
                SHAPES[number // len(COLORS) % len(SHAPES)],
                float(middle[0]),
                float(middle[1]),
                [Point(float(flat[i, 0]), float(flat[i, 1]), texts[i]) for i in own],
            )
        )
    return EmbeddingMap(found, method, len(vectors), total)
