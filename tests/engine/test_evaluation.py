import math
from dataclasses import dataclass

import numpy as np
import pytest

from molo_jax.engine.evaluation import FeatureStore, clip_key, evaluate_episodes, score
from molo_jax.errors import MoloError

FRAMES, WIDTH = 3, 5


@dataclass(frozen=True, eq=False)
class Clip:
    class_position: int
    video_position: int
    draws: np.ndarray


@dataclass(frozen=True)
class Episode:
    support: tuple
    query: tuple
    support_labels: np.ndarray
    query_labels: np.ndarray
    query_classes: np.ndarray
    support_order: np.ndarray
    query_order: np.ndarray


def clip(video, draw=0.0):
    return Clip(0, video, np.full(FRAMES, draw))


class Embedder:
    """Tokens are full of the video's number; notes which videos it was asked for, in batches."""

    def __init__(self, bad=(), batch=2):
        self.bad, self.batch, self.asked = set(bad), batch, []

    def __call__(self, clips):
        for start in range(0, len(clips), self.batch):
            part = clips[start : start + self.batch]
            self.asked += [c.video_position for c in part]
            good = [i for i, c in enumerate(part) if c.video_position not in self.bad]
            numbers = np.float32([part[i].video_position for i in good])[:, None, None]
            appearance = np.broadcast_to(numbers, (len(good), FRAMES + 1, WIDTH))
            motion = np.broadcast_to(-numbers, (len(good), FRAMES, WIDTH))
            yield np.int32([start + i for i in good]), {"first": appearance, "second": motion}


def numbers(store, clips):
    return [store.table()["first"][row, 0, 0] for row in store.rows(clips)]


def test_accuracy_is_the_mean_over_episodes_and_the_interval_has_e_minus_1_degrees_of_freedom():
    correct = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1.0]])
    result = score(correct, np.array([[0, 1, 0, 1], [4, 4, 4, 4], [0, 1, 0, 1]]))
    assert result.accuracy == pytest.approx((0.5 + 1 + 0.25) / 3)
    deviation = math.sqrt(((0.5 - 7 / 12) ** 2 + (1 - 7 / 12) ** 2 + (0.25 - 7 / 12) ** 2) / 2)
    assert result.ci95 == pytest.approx(1.96 * deviation / math.sqrt(3))
    assert result.episodes == 3
    assert result.per_class == {0: 0.25, 1: 0.5, 4: 1.0}


def test_clips_are_the_same_only_with_equal_video_and_equal_draws():
    assert clip_key(clip(1, 0.5)) == clip_key(clip(1, 0.5))
    assert clip_key(clip(1, 0.5)) != clip_key(clip(1, 0.6))
    assert clip_key(clip(1)) != clip_key(Clip(1, 1, np.zeros(FRAMES)))


def test_the_store_embeds_each_distinct_clip_once_and_finds_its_tokens():
    embed = Embedder()
    store = FeatureStore(embed, capacity=100)
    assert store.ensure([clip(7), clip(3), clip(7), clip(2)])
    assert store.ensure([clip(3), clip(11)])
    assert embed.asked == [7, 3, 2, 11]
    assert numbers(store, [clip(2), clip(11), clip(7), clip(3)]) == [2, 11, 7, 3]
    assert store.table()["second"][store.rows([clip(11)])[0], 2, 4] == -11


def test_the_table_has_a_power_of_two_of_rows_and_zeros_behind_the_last_clip():
    store = FeatureStore(Embedder(), capacity=100)
    store.ensure([clip(v) for v in (1, 2, 3, 4, 5)])
    assert store.table()["first"].shape == (8, FRAMES + 1, WIDTH)
    assert store.table()["second"].shape == (8, FRAMES, WIDTH)
    assert not store.table()["first"][5:].any()


def test_a_full_store_drops_what_is_not_wanted_and_keeps_what_is():
    embed = Embedder()
    store = FeatureStore(embed, capacity=4)
    store.ensure([clip(v) for v in (1, 2, 3, 4)])
    store.ensure([clip(3), clip(5)])
    assert embed.asked == [1, 2, 3, 4, 5]
    assert numbers(store, [clip(3), clip(5)]) == [3, 5]
    store.ensure([clip(1)])
    assert embed.asked == [1, 2, 3, 4, 5, 1]


def test_the_store_reports_clips_that_turned_out_bad():
    store = FeatureStore(Embedder(bad={2}), capacity=9)
    assert not store.ensure([clip(1), clip(2), clip(3)])
    assert store.ensure([clip(1), clip(3)])
    assert numbers(store, [clip(3), clip(1)]) == [3, 1]


def episode(index, bad=()):
    """A 2-way episode of classes 10 and 11; the query of class 10 is a video whose number is even.

    The first good one of the videos 20 + index and 40 + index is the support of class 11.
    """
    spare = next(v for v in (20 + index, 40 + index) if v not in bad)
    return Episode(
        support=(clip(0), clip(spare)),
        query=(clip(2 * index), clip(2 * index + 1)),
        support_labels=np.int32([0, 1]),
        query_labels=np.int32([0, 1]),
        query_classes=np.int32([10, 11]),
        support_order=np.int32([0, 1]),
        query_order=np.int32([0, 1]),
    )


def match_by_parity(tokens, support, query, support_labels):
    """Calls every even video class 0; the shapes must be those of the batch."""
    assert support.shape == query.shape == support_labels.shape == (4, 2)
    odd = np.asarray(tokens["first"])[query][:, :, 0, 0] % 2
    return np.stack([1 - odd, odd], axis=-1)


def test_evaluation_gives_the_hand_worked_accuracy_whatever_the_batches_and_the_room():
    for capacity in (4, 7, 1000):
        store = FeatureStore(Embedder(), capacity=capacity)
        finished = []
        result = evaluate_episodes(
            episode, 6, store=store, match=match_by_parity, batch=4, advance=finished.append
        )
        assert result.accuracy == 1.0
        assert result.ci95 == 0.0
        assert result.per_class == {10: 1.0, 11: 1.0}
        assert sum(finished) == result.episodes == 6


def test_scores_that_are_not_finite_are_an_error_and_no_prediction():
    def match(*arrays):
        scores = match_by_parity(*arrays)
        scores[1, 0, 1] = np.nan
        return scores

    store = FeatureStore(Embedder(), capacity=10)
    with pytest.raises(MoloError, match="the scores of the network are not finite"):
        evaluate_episodes(episode, 6, store=store, match=match, batch=4)


def test_evaluation_counts_wrong_predictions_for_their_class():
    def always_first(tokens, support, query, support_labels):
        return np.broadcast_to([1.0, 0.0], (*query.shape, 2))

    store = FeatureStore(Embedder(), capacity=100)
    result = evaluate_episodes(episode, 5, store=store, match=always_first, batch=4)
    assert result.accuracy == 0.5
    assert result.per_class == {10: 1.0, 11: 0.0}


def test_a_small_store_is_filled_and_emptied_episode_by_episode():
    embed = Embedder()
    store = FeatureStore(embed, capacity=4)
    evaluate_episodes(episode, 3, store=store, match=match_by_parity, batch=4)
    # The clip 0 is in every episode and stays.
    assert embed.asked == [0, 20, 1, 21, 2, 3, 22, 4, 5]


def test_an_episode_with_a_video_that_turns_out_bad_is_resolved_anew():
    embed = Embedder(bad={21})
    known_bad = set()

    def resolve(index):
        return episode(index, bad=known_bad)

    class Noting(Embedder):
        def __call__(self, clips):
            yield from super().__call__(clips)
            known_bad.update(self.bad & set(self.asked))

    embed = Noting(bad={21})
    store = FeatureStore(embed, capacity=100)
    result = evaluate_episodes(resolve, 3, store=store, match=match_by_parity, batch=4)
    assert result.episodes == 3
    assert embed.asked[-1] == 41
