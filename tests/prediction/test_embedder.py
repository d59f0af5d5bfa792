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


def test_a_clip_that_is_left_out_is_scored_by_as_many_clips_of_every_class(small_networks, pixels):
    embedder = Embedder(small_networks("molo"))
    features = embedder.embed_pixels(pixels[:5])
    clips = [jax.tree.map(lambda x, i=i: x[i], features) for i in range(5)]
    scores = embedder.leave_one_out(clips, LABELS, 3)
    assert np.isnan(scores[4]).all()
    for i in range(4):
        # Clips 0 and 2 are of one class, 1 and 3 of another: one of each is left, and clip 4.
        possible = []
        for other in np.flatnonzero(1 - LABELS[i] == LABELS):
            left = [j for j in range(5) if j not in (i, other)]
            expected = embedder.logits([clips[j] for j in left], LABELS[left], [clips[i]], 3)[0]
            possible.append(np.allclose(scores[i], expected, rtol=1e-6, atol=1e-6))
        assert any(possible)
    again = embedder.leave_one_out(clips, LABELS, 3)
    np.testing.assert_array_equal(scores, again)


def test_leaving_out_does_not_favor_or_hinder_the_class_of_a_clip():
    # All clips are of one kind: whatever the classes are called, one in five is right.
    rng, embedder = np.random.default_rng(0), Embedder.__new__(Embedder)
    right = []

    def scores(support, episodes, n_way):
        rows = []
        for shots, query, labels in episodes:
            means = np.stack(
                [np.mean([support[j] for j in shots[labels == k]], 0) for k in range(5)]
            )
            rows.append(-np.linalg.norm(means - support[query], axis=1))
        return np.float32(rows)

    embedder._scores = scores
    for _ in range(60):
        clips = list(rng.standard_normal((10, 20)))
        labels = rng.permutation(np.repeat(np.arange(5), 2))
        right.append(embedder.leave_one_out(clips, labels, 5).argmax(axis=1) == labels)
    assert 0.15 < np.mean(right) < 0.26


def test_many_queries_keep_their_own_scores(small_networks, pixels, monkeypatch):
    embedder = Embedder(small_networks("bi_mhm"))
    features = embedder.embed_pixels(pixels)
    clips = [jax.tree.map(lambda x, i=i: x[i], features) for i in range(7)]
    queries = [clips[2 + i % 5] for i in range(70)]
    found = embedder.logits(clips[:2], np.array([0, 1]), queries, 2)
    expected = embedder.logits(clips[:2], np.array([0, 1]), clips[2:], 2)
    np.testing.assert_allclose(found, np.tile(expected, (14, 1)), rtol=1e-6, atol=1e-6)
    monkeypatch.setattr(embedders, "_MATCHED_BYTES", 4 * clips[0].nbytes)
    few = embedder.logits(clips[:2], np.array([0, 1]), queries[:9], 2)
    np.testing.assert_allclose(few, found[:9], rtol=1e-6, atol=1e-6)


def test_no_distance_of_mean_cosines_is_below_0(small_networks, pixels):
    embedder = Embedder(small_networks("protonet"))
    features = embedder.embed_pixels(pixels[:3])
    clips = [jax.tree.map(lambda x, i=i: x[i], features) for i in range(3)]
    found = -embedder.logits(clips[:2], np.array([0, 1]), [clips[0], clips[2]], 2)
    assert 0 <= found.min() < 0.01
    a, b = (np.float64(clips[i]) for i in (0, 2))
    cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 0.01)
    assert found[1, 0] == pytest.approx(1 - cosine, abs=1e-5)


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
