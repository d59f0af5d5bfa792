import numpy as np
import pytest

from molo_jax.data.clips.draw_numbers import draw_numbers
from molo_jax.data.clips.episodes import EpisodeSampler, clip_of_draw
from molo_jax.errors import UsageError


def sampler(draws: int, **changes) -> EpisodeSampler:
    arguments = {"class_sizes": (7, 5, 6), "seed": 3, "split_name": "test", "n_way": 2}
    arguments |= {"n_shot": 2, "n_query": 1, "num_frames": 4, "frame_draw": "video"}
    return EpisodeSampler(**{**arguments, **changes}, draws=draws)


def test_the_numbers_stay_what_they_were():
    assert draw_numbers(0, "test", np.arange(6), 0, 0, 5).tolist() == [0, 1, 1, 1, 1, 0]
    assert draw_numbers(2**32 - 1, "val", 2**31 - 1, 99, 10**6, 1000) == 960


def test_they_are_splitmix64_of_the_words_one_after_another():
    def mixed(state: int) -> int:
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        return state ^ (state >> 31)

    # The first number of the generator with the seed 0, as its authors publish it.
    assert mixed(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF
    state = 0
    # 3632233996 is the CRC-32 of "test".
    for word in (7, 3632233996, 11, 2, 5):
        state = mixed((state + word + 0x9E3779B97F4A7C15) % 2**64)
    assert draw_numbers(7, "test", 11, 2, 5, 1000) == state % 1000


def test_they_are_uniform_and_independent_of_each_word():
    draws = 5
    grid = np.ogrid[:200, :24, :20]
    numbers = draw_numbers(0, "test", *grid, draws)
    assert numbers.shape == (200, 24, 20)
    assert numbers.dtype == np.int64
    counts = np.bincount(numbers.reshape(-1), minlength=draws)
    assert len(counts) == draws
    expected = numbers.size / draws
    # Chi squared with 4 degrees of freedom is above 18.5 once in a thousand.
    assert ((counts - expected) ** 2 / expected).sum() < 18.5
    # Neighbors along each axis are equal as often as chance has it: 1/5, 5 standard errors.
    for axis in range(3):
        same = (np.diff(numbers, axis=axis) == 0).mean()
        assert abs(same - 1 / draws) < 5 * np.sqrt(0.16 / numbers.size)
    for other in (draw_numbers(1, "test", *grid, draws), draw_numbers(0, "val", *grid, draws)):
        assert abs((numbers == other).mean() - 1 / draws) < 5 * np.sqrt(0.16 / numbers.size)


def test_an_episode_shows_the_draws_of_the_table():
    episodes = sampler(draws=3)
    for index in range(40):
        episode = episodes.resolve(episodes(index))
        clips = [*episode.support, *episode.query]
        classes, videos = np.array([clip.video for clip in clips]).T
        numbers = draw_numbers(3, "test", index, classes, videos, 3)
        for clip, number in zip(clips, numbers, strict=True):
            wanted = clip_of_draw(3, "test", 4, *clip.video, int(number))
            assert wanted.video == clip.video
            assert wanted.draws.tolist() == clip.draws.tolist()
    assert {episodes.draw_number(0, 0, index) for index in range(40)} == {0, 1, 2}


def test_one_draw_is_what_it_was_and_the_others_are_new():
    one, several = sampler(draws=1), sampler(draws=2)
    old = one.clip(1, 2).draws
    assert old.tolist() == one.clip_of_draw(1, 2, 0).draws.tolist()
    # Recorded before there were several draws.
    expected = [0.3999935383843656, 0.9439858064106296, 0.20261543545991578, 0.0009534371354532611]
    assert old.tolist() == expected
    assert several.clip_of_draw(1, 2, 0).draws.tolist() == old.tolist()
    assert not set(several.clip_of_draw(1, 2, 1).draws) & set(old)


def test_draws_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match="draws is 0; expected at least 1"):
        sampler(draws=0)
    with pytest.raises(UsageError, match="draws is 2 with frame_draw='episode'"):
        sampler(draws=2, frame_draw="episode")
    with pytest.raises(ValueError, match="2 draws of a video need the episode's index"):
        sampler(draws=2).clip(0, 0)
