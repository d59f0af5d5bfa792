import numpy as np
import pytest

from molo_jax.data.clips.episodes import EpisodeSampler
from molo_jax.data.clips.table import draw_table
from molo_jax.errors import MoloError

SIZES = (5, 7, 6, 9)


def sampler(shots, queries=2, way=3):
    return EpisodeSampler(SIZES, 7, "test", way, shots, queries, 8, "video")


@pytest.mark.parametrize("bad", [set(), {(0, 1), (1, 3), (1, 4), (3, 0)}])
def test_it_holds_what_the_sampler_draws_one_by_one_for_all_numbers_of_shots(bad):
    def is_bad(*place):
        return place in bad

    table = draw_table(sampler(2), 30, is_bad)
    for shots in (1, 2):
        one = sampler(shots)
        videos = table.of_shots(shots, 2)
        assert videos.shape == (30, 3, shots + 2)
        for index in range(30):
            episode = one.resolve(one(index), is_bad)
            taken = [episode.support[i] for i in episode.support_order]
            asked = [episode.query[i] for i in episode.query_order]
            for label in range(3):
                own = taken[label * shots : (label + 1) * shots] + asked[2 * label : 2 * label + 2]
                assert {clip.class_position for clip in own} == {table.classes[index, label]}
                assert [c.video_position for c in own] == videos[index, label].tolist()


def test_a_class_with_too_few_usable_videos_is_refused_with_both_numbers():
    with pytest.raises(MoloError, match=r"class 0 of split test has 3 usable videos .* needs 4"):
        draw_table(sampler(2), 30, lambda c, v: c == 0 and v < 2)


def test_the_orders_of_an_episode_undo_its_shuffles():
    one = sampler(2)
    episode = one.resolve(one(4))
    assert np.array_equal(episode.support_labels[episode.support_order], [0, 0, 1, 1, 2, 2])
    assert np.array_equal(episode.query_labels[episode.query_order], [0, 0, 1, 1, 2, 2])
