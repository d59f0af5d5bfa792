"""Estimates of the variance on values whose variance is known."""

import numpy as np
import pytest

from molo_jax.analysis.design import Design
from molo_jax.analysis.variance import (
    class_mean_variances,
    class_variance,
    means_of_classes,
    video_variance,
)

CLASSES, VIDEOS, WAY = 8, 12, 4


def design(shot, query=1, episodes=6000, classes=CLASSES, seed=0):
    random = np.random.default_rng(seed)
    drawn = random.random((episodes, classes)).argsort(axis=1)[:, :WAY]
    videos = random.random((episodes, WAY, VIDEOS)).argsort(axis=2)[..., : shot + query]
    return Design(drawn, videos, shot, np.full(classes, VIDEOS))


def effects(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize(("shot", "query"), [(1, 1), (3, 1), (2, 3)])
def test_effects_of_single_videos_in_both_roles_add_up(shot, query):
    made = design(shot, query)
    asked, shown = effects(1, CLASSES, VIDEOS), effects(2, CLASSES, VIDEOS)
    values = asked[made.classes[..., None], made.videos[..., shot:]]
    values = values + shown[made.classes[..., None], made.videos[..., :shot]].mean(-1)[..., None]
    # The mean over all episodes is the mean of both effects over all videos.
    expected = (asked + shown).var(axis=1, ddof=1).sum() / VIDEOS / CLASSES**2
    found = video_variance(values, made)
    assert found.shared == pytest.approx(expected, rel=0.1)
    assert found.noise == pytest.approx(values.mean(axis=(1, 2)).var(ddof=1) / 6000)
    assert found.error < 0.1 * found.shared
    each = class_mean_variances(values, made)
    assert len(each) == CLASSES
    drawn_together = sum(one.shared for one in each) / CLASSES**2
    assert drawn_together == pytest.approx(expected, rel=0.15)


def test_an_effect_on_the_queries_of_other_classes_counts():
    made, shown = design(1), effects(1, CLASSES, VIDEOS)
    own = shown[made.classes, made.videos[..., 0]]
    # A support video takes from every other label what it gives to its own.
    values = own - (own.sum(axis=1, keepdims=True) - own) / (WAY - 1)
    found = video_variance(values[..., None], made)
    alone = shown.var(axis=1, ddof=1).sum() / VIDEOS / CLASSES**2
    assert abs(found.shared) < 0.05 * alone
    each = class_mean_variances(values[..., None], made)
    # Its own effect, and those of three of seven other classes with a ninth of the variance.
    expected = (1 + 7 * (3 / 7) ** 2 / 9) * shown.var(axis=1, ddof=1).mean() / VIDEOS
    assert np.mean([one.shared for one in each]) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("shot", [1, 3])
def test_the_joint_effect_of_two_videos_is_counted_once(shot):
    made, joint = design(shot, episodes=20_000), effects(1, CLASSES, VIDEOS, VIDEOS)
    query, support = made.videos[..., shot:], made.videos[..., :shot]
    values = joint[made.classes[..., None], query, support].mean(axis=-1)[..., None]
    # The mean over all ordered pairs of different videos, of which each is an independent draw.
    expected = 1 / (VIDEOS * (VIDEOS - 1)) / CLASSES
    found = video_variance(values, made)
    assert found.shared == pytest.approx(expected, rel=0.35)
    # Counted twice it would be outside.
    assert found.shared < 1.5 * expected


def test_the_joint_effect_of_two_support_videos_is_counted_once():
    made, joint = design(2, episodes=20_000), effects(1, CLASSES, VIDEOS, VIDEOS)
    joint = joint + joint.transpose(0, 2, 1)
    values = joint[made.classes, made.videos[..., 0], made.videos[..., 1]][..., None]
    expected = 2 / (VIDEOS * (VIDEOS - 1) / 2) / CLASSES
    found = video_variance(values, made).shared
    assert 0.6 * expected < found < 1.5 * expected


def test_the_joint_effect_of_videos_of_two_classes_is_counted_once():
    made = design(1, episodes=8000)
    classes, (support, query) = made.classes, np.moveaxis(made.videos, -1, 0)
    first = np.roll(np.arange(WAY), 1)
    found = []
    for seed in range(12):
        joint = effects(seed, CLASSES, VIDEOS, CLASSES, VIDEOS)
        values = joint[classes, query, classes[:, first], support[:, first]][..., None]
        found.append(video_variance(values, made).shared)
    # Every ordered pair of classes is as frequent, and each of its pairs of videos.
    expected = 1 / VIDEOS**2 / (CLASSES * (CLASSES - 1))
    assert 0.7 * expected < np.mean(found) < 1.5 * expected


def test_pure_noise_leaves_nothing_that_is_shared():
    made = design(2, episodes=1000)
    estimates = [video_variance(effects(s, 1000, WAY, 1), made) for s in range(40)]
    shared = np.array([one.shared for one in estimates])
    # The mean is 0, and the claimed error is that of the estimates.
    assert abs(shared.mean()) < 3 * shared.std() / np.sqrt(40)
    assert shared.std() == pytest.approx(np.mean([one.error for one in estimates]), rel=0.4)


def test_effects_of_classes_add_up_and_pairs_are_counted_once():
    classes = design(1, episodes=20_000, classes=20).classes
    alone = effects(1, 20)
    values = alone[classes].mean(axis=1)
    assert class_variance(values, classes, 20).shared == pytest.approx(
        alone.var(ddof=1) / 20, rel=0.05
    )
    one, other = np.triu_indices(WAY, 1)
    found = []
    for seed in range(20):
        joint = effects(seed, 20, 20)
        joint = joint + joint.T
        values = joint[classes[:, one], classes[:, other]].mean(axis=1)
        found.append(class_variance(values, classes, 20).shared)
    expected = 2 / (20 * 19 / 2)
    assert 0.7 * expected < np.mean(found) < 1.5 * expected


def test_the_order_of_labels_and_the_sign_do_not_matter():
    made = design(2, episodes=300)
    values = effects(3, 300, WAY, 1)
    order = np.random.default_rng(5).permutation(WAY)
    other = Design(made.classes[:, order], made.videos[:, order], 2, made.sizes)
    one, two = video_variance(values, made), video_variance(-values[:, order], other)
    assert two.shared == pytest.approx(one.shared)
    assert two.error == pytest.approx(one.error)


def test_classes_of_other_sizes_and_videos_that_no_episode_took():
    random = np.random.default_rng(0)
    sizes = np.array([6, 30, 9, 14, 40, 7])
    classes = random.random((5000, 6)).argsort(axis=1)[:, :WAY]
    videos = np.array([[random.permutation(sizes[c])[:2] for c in row] for row in classes])
    asked = effects(1, 6, 40)
    values = asked[classes, videos[..., 1]][..., None]
    expected = sum(asked[c, :n].var(ddof=1) / n for c, n in enumerate(sizes)) / 36
    made = Design(classes, videos, 1, sizes)
    assert video_variance(values, made).shared == pytest.approx(expected, rel=0.15)
    few = Design(classes[:60], videos[:60], 1, sizes)
    assert np.isfinite(video_variance(values[:60], few).shared)
    means, noises = means_of_classes(values, made)
    for c in range(6):
        own = values[..., 0][classes == c]
        assert means[c] == pytest.approx(own.mean())
        assert noises[c] == pytest.approx(own.var(ddof=1) / len(own))
