"""The map of the clips: its vectors, its places, its classes."""

import numpy as np
import pytest

from molo_jax.errors import MoloError
from molo_jax.methods.molo_outputs import Tokens
from molo_jax.reporting.embedding_map import SIZE, embedding_map, places, vectors_of


def groups(count, each, width=8):
    random = np.random.default_rng(0)
    centers = 20 * random.normal(size=(count, width))
    classes = np.repeat(np.arange(count), each)
    return centers[classes] + random.normal(size=(count * each, width)), classes


def test_a_vector_is_the_mean_over_frames_of_each_stream_brought_to_length_1():
    appearance = np.arange(24.0).reshape(2, 3, 4)
    tokens = Tokens(appearance=appearance, motion=np.ones((2, 2, 4)))
    found = vectors_of(tokens)
    assert found.shape == (2, 8)
    np.testing.assert_allclose(found[:, 4:], 0.5)
    mean = appearance[1].mean(axis=0)
    np.testing.assert_allclose(found[1, :4], mean / np.linalg.norm(mean))
    assert vectors_of(np.zeros((3, 4, 2, 5))).shape == (3, 10)
    assert vectors_of(np.ones((3, 4))).shape == (3, 4)


@pytest.mark.parametrize(("each", "method"), [(5, "PCA"), (30, "t-SNE")])
def test_groups_stay_together_and_the_places_are_the_same_each_time(each, method):
    vectors, classes = groups(4, each)
    flat, found = places(vectors)
    assert found == method
    np.testing.assert_array_equal(flat, places(vectors)[0])
    apart = np.linalg.norm(flat[:, None] - flat[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (classes[apart.argmin(axis=1)] == classes).mean() > 0.95


def test_few_clips_have_places_too():
    assert places(np.ones((3, 1)))[0].shape == (3, 2)


def test_clips_that_are_all_the_same_end_no_process_and_numbers_must_be_finite():
    for width in (1, 3):
        flat, method = places(np.ones((40, width)))
        assert method == "PCA"
        np.testing.assert_array_equal(flat, 0)
    # Two different clips, many times.
    flat, method = places(np.repeat(np.eye(2), 30, axis=0))
    assert method == "PCA"
    assert np.isfinite(flat).all()
    with pytest.raises(MoloError, match="not finite"):
        places(np.array([[1.0, np.nan], [1, 2], [3, 4]]))


def test_the_map_fills_its_square_and_tells_classes_apart():
    vectors, classes = groups(20, 4)
    texts = [f"clip {i}" for i in range(80)]
    found = embedding_map(vectors, classes, texts, [f"c{i}" for i in range(20)], 123)
    assert (found.clips, found.total, found.method) == (80, 123, "t-SNE")
    points = [point for each in found.classes for point in each.points]
    assert [point.text for point in points] == texts
    x, y = (np.array([getattr(point, axis) for point in points]) for axis in "xy")
    assert min(x.min(), y.min()) >= 23.9
    assert max(x.max(), y.max()) <= SIZE - 23.9
    assert max(np.ptp(x), np.ptp(y)) == pytest.approx(SIZE - 48)
    assert len({(each.color, each.shape) for each in found.classes}) == 20
    first = found.classes[0]
    assert (first.number, first.name) == (1, "c0")
    assert (first.x, first.y) in [(point.x, point.y) for point in first.points]
