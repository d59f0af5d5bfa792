import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from molo_jax.data.augment import eval_views
from molo_jax.errors import MoloError
from molo_jax.prediction import embedder as embedders
from molo_jax.prediction.clips import read_clip
from molo_jax.prediction.embedder import Embedder
from molo_jax.prediction.sources import make_network, variables_of

LABELS = np.array([0, 1, 0, 1, 2])


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(2).integers(0, 256, (7, 3, 40, 40, 3), np.uint8)


def model_of(network):
    return nnx.merge(network.graphdef, network.params, network.batch_stats)


def whole(network, pixels):
    """Features as the network gives them for all clips at once."""
    return model_of(network).embed(eval_views(jnp.asarray(pixels), 32, (0.45, 0.225)))


def test_clips_are_embedded_in_parts_as_all_at_once(small_networks, pixels, monkeypatch):
    network = small_networks("molo")
    monkeypatch.setitem(embedders._PIXELS_AT_ONCE, "cpu", 3 * 3 * 32 * 32)
    embedder = Embedder(network)
    assert embedder.clips_at_once == 3
    found, expected = embedder.embed_pixels(pixels), whole(network, pixels)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * np.abs(b).max())
    assert embedder.embedded == 7
    structure = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), found)
    assert embedder.structure == structure


@pytest.mark.parametrize("method", ["molo", "hyrsm"])
def test_a_score_does_not_depend_on_the_other_queries(small_networks, pixels, method):
    network = small_networks(method)
    embedder = Embedder(network)
    clips = [each.features for each in embedder.embed([read_clip(p, network.rule) for p in pixels])]
    support, query = clips[:5], clips[5:]
    together = embedder.logits(support, LABELS, query, 3)
    alone = np.concatenate([embedder.logits(support, LABELS, [each], 3) for each in query])
    np.testing.assert_allclose(together, alone, rtol=1e-6, atol=1e-6)
    stacked = [jax.tree.map(lambda *x: jnp.stack(x), *each) for each in (support, query[:1])]
    expected = model_of(network).match(*stacked, jnp.asarray(LABELS), n_way=3)
    np.testing.assert_allclose(together[:1], expected, rtol=1e-5, atol=1e-5)


def test_a_clip_that_is_left_out_is_scored_by_the_others(small_networks, pixels):
    embedder = Embedder(small_networks("molo"))
    features = embedder.embed_pixels(pixels[:5])
    clips = [jax.tree.map(lambda x, i=i: x[i], features) for i in range(5)]
    scores = embedder.leave_one_out(clips, LABELS, 3)
    assert np.isnan(scores[4]).all()
    for i in range(4):
        others = [clips[j] for j in range(5) if j != i]
        expected = embedder.logits(others, np.delete(LABELS, i), [clips[i]], 3)
        np.testing.assert_allclose(scores[i], expected[0], rtol=1e-6, atol=1e-6)


def test_scores_that_are_not_finite_are_an_error(small_networks, pixels):
    network = small_networks("bi_mhm")
    broken = variables_of(network)
    path = next(p for p in broken if p[-1] == "kernel")
    broken[path] = np.full_like(broken[path], np.nan)
    embedder = Embedder(make_network("broken", network.settings, broken, rule=network.rule))
    features = embedder.embed_pixels(pixels[:2])
    clips = [jax.tree.map(lambda x, i=i: x[i], features) for i in range(2)]
    with pytest.raises(MoloError, match="the scores of broken are not finite"):
        embedder.logits(clips[:1], np.array([0]), clips[1:], 1)
