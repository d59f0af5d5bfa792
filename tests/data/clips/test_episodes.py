import numpy as np
import pytest

from molo_jax.data.clips.episodes import EpisodeSampler
from molo_jax.data.lists.splits import Split, Video
from molo_jax.errors import MoloError, UsageError

SIZES = (7, 5, 11, 6, 13)


def make_sampler(**changes) -> EpisodeSampler:
    arguments = {
        "class_sizes": SIZES,
        "seed": 3,
        "split_name": "train",
        "n_way": 3,
        "n_shot": 2,
        "n_query": 3,
        "num_frames": 4,
    }
    return EpisodeSampler(**{**arguments, **changes})


def as_lists(episode) -> list:
    clips = [(*clip.video, *clip.draws) for clip in (*episode.support, *episode.query)]
    return [clips, episode.support_labels.tolist(), episode.query_labels.tolist()]


def draw(sampler, index, **changes):
    return sampler.resolve(sampler(index), **changes)


def test_an_episode_depends_on_seed_split_and_index_alone():
    first, second = make_sampler(), make_sampler()
    forward = [as_lists(draw(first, i)) for i in range(5)]
    backward = [as_lists(draw(second, i)) for i in reversed(range(5))][::-1]
    assert forward == backward
    assert all(forward[0] != other for other in forward[1:])
    for changes in ({"seed": 4}, {"split_name": "val"}):
        assert as_lists(draw(make_sampler(**changes), 0)) != forward[0]


def test_the_episodes_of_a_seed_stay_what_they_were():
    episode = draw(make_sampler(), 5)
    assert [clip.video for clip in episode.support] == [
        (3, 2),
        (2, 5),
        (2, 0),
        (3, 1),
        (1, 1),
        (1, 2),
    ]
    assert episode.query_labels.tolist() == [2, 0, 1, 0, 2, 1, 0, 2, 1]
    expected = [0.9365576746683333, 0.3057893148327988, 0.15421196442189367, 0.25418970387531226]
    assert episode.query[0].draws.tolist() == expected


def test_labels_classes_and_clips_agree():
    sampler = make_sampler()
    for index in range(20):
        spec = sampler(index)
        episode = sampler.resolve(spec)
        assert len(set(spec.classes.tolist())) == 3
        for clips, labels, classes, count in (
            (episode.support, episode.support_labels, episode.support_classes, 2),
            (episode.query, episode.query_labels, episode.query_classes, 3),
        ):
            assert sorted(labels.tolist()) == sorted([0, 1, 2] * count)
            assert classes.tolist() == [clip.class_position for clip in clips]
            assert classes.tolist() == spec.classes[labels].tolist()
            assert (labels.dtype, classes.dtype) == (np.int32, np.int32)


def test_no_video_occurs_twice_in_an_episode():
    sampler = make_sampler(n_way=5)
    for index in range(20):
        episode = draw(sampler, index)
        videos = [clip.video for clip in (*episode.support, *episode.query)]
        assert len(set(videos)) == 25
        assert all(0 <= video < SIZES[c] for c, video in videos)


def test_classes_videos_and_labels_are_drawn_uniformly():
    sampler = make_sampler()
    episodes = [draw(sampler, index) for index in range(3000)]
    classes = np.concatenate([e.support_classes for e in episodes])
    # A class is in 3 of 5 episodes with two support clips: 3600 each.
    assert np.abs(np.bincount(classes) / 3600 - 1).max() < 0.05
    videos = [
        clip.video_position for e in episodes for clip in e.support if clip.class_position == 1
    ]
    # Two of five videos in 1800 episodes: 720 each.
    assert np.abs(np.bincount(videos) / 720 - 1).max() < 0.12
    labels = np.stack([e.query_labels for e in episodes])
    assert np.abs(labels.mean(axis=0) - 1).max() < 0.08  # shuffled: every place sees every label
    assert np.abs(np.stack([e.support_labels for e in episodes]).mean(axis=0) - 1).max() < 0.08


def test_frame_draws_are_uniform_and_differ_between_clips_and_episodes():
    sampler = make_sampler()
    draws = np.stack([c.draws for i in range(800) for c in draw(sampler, i).query])
    assert draws.shape == (7200, 4)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert np.abs(draws.mean(axis=0) - 0.5).max() < 0.015
    assert len(np.unique(draws)) == draws.size


def test_a_video_shows_other_frames_in_another_episode_by_default():
    sampler = make_sampler()
    assert sampler.clip(1, 2, index=0).draws.tolist() != sampler.clip(1, 2, index=1).draws.tolist()
    episode = draw(sampler, 9)
    clip = episode.query[4]
    assert clip.draws.tolist() == sampler.clip(*clip.video, index=9).draws.tolist()
    with pytest.raises(ValueError, match="needs the episode's index"):
        sampler.clip(1, 2)


def test_a_video_shows_the_same_frames_in_every_episode_if_asked_to():
    sampler = make_sampler(frame_draw="video")
    seen = {}
    for index in range(60):
        episode = draw(sampler, index)
        for clip in (*episode.support, *episode.query):
            assert seen.setdefault(clip.video, clip.draws.tolist()) == clip.draws.tolist()
    assert len(seen) == sum(SIZES)
    assert len({tuple(draws) for draws in seen.values()}) == sum(SIZES)
    assert sampler.clip(2, 3).draws.tolist() == seen[2, 3]
    # Drawn once, which an evaluation of thousands of episodes would otherwise wait for.
    assert sampler.clip(2, 3) is sampler.clip(2, 3)
    # Which videos are drawn does not depend on how their frames are.
    same = draw(make_sampler(), 7)
    assert [c.video for c in same.query] == [c.video for c in draw(sampler, 7).query]


def test_a_bad_video_is_replaced_by_the_next_of_its_class_and_nothing_else_changes():
    sampler = make_sampler()
    spec = sampler(0)
    before = sampler.resolve(spec)
    label = int(np.argmax([len(order) for order in spec.orders]))
    position = int(spec.classes[label])
    order = spec.orders[label].tolist()
    bad = order[1]
    after = sampler.resolve(spec, lambda c, v: (c, v) == (position, bad))

    def of_class(clips):
        return {clip.video_position for clip in clips if clip.class_position == position}

    assert of_class(before.support) == set(order[:2])
    assert of_class(before.query) == set(order[2:5])
    assert of_class(after.support) == {order[0], order[2]}
    assert of_class(after.query) == set(order[3:6])
    for clips, others in ((before.support, after.support), (before.query, after.query)):
        for old, new in zip(clips, others, strict=True):
            assert old.class_position == new.class_position
            if old.class_position != position:
                assert old.video == new.video
                assert old.draws.tolist() == new.draws.tolist()
    assert before.query_labels.tolist() == after.query_labels.tolist()


def test_a_bad_video_that_was_not_drawn_changes_nothing():
    sampler = make_sampler()
    spec = sampler(0)
    label = int(np.argmax([len(order) for order in spec.orders]))
    last = (int(spec.classes[label]), int(spec.orders[label][-1]))
    plain, with_bad = sampler.resolve(spec), sampler.resolve(spec, lambda c, v: (c, v) == last)
    assert as_lists(plain) == as_lists(with_bad)


def test_a_class_left_with_too_few_videos_is_named_with_both_numbers():
    sampler = make_sampler(class_ids=(2, 17, 20, 21, 40), n_way=5)
    with pytest.raises(
        MoloError,
        match=r"class 17 of split train has 4 usable videos \(5 listed, 1 left out as bad\); "
        r"2-shot with 3 queries needs 5",
    ):
        draw(sampler, 0, is_bad=lambda c, v: (c, v) == (1, 3))
    with pytest.raises(MoloError, match=r"class 20 of split train has 0 usable videos \(11 listed"):
        sampler.check_usable(lambda c, v: c == 2)


def test_a_class_with_too_few_videos_is_refused_at_once():
    with pytest.raises(
        MoloError,
        match=r"class 1 of split train has 5 usable videos; 5-shot with 1 query needs 6",
    ):
        make_sampler(n_shot=5, n_query=1)


def test_fewer_classes_than_ways_are_refused():
    with pytest.raises(MoloError, match="split train has 5 classes; a 6-way episode needs 6"):
        make_sampler(n_way=6)


@pytest.mark.parametrize("seed", [-1, 2**32, 10**30, 1.5, "3", True, None])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(UsageError, match="the seed is"):
        make_sampler(seed=seed)


def test_the_largest_seed_and_a_numpy_seed_work():
    assert len(draw(make_sampler(seed=2**32 - 1), 0).query) == 9
    assert as_lists(draw(make_sampler(seed=np.int64(3)), 0)) == as_lists(draw(make_sampler(), 0))


@pytest.mark.parametrize("field", ["n_way", "n_shot", "n_query", "num_frames"])
def test_a_count_below_one_is_refused(field):
    with pytest.raises(UsageError, match=f"{field} is 0; expected at least 1"):
        make_sampler(**{field: 0})


def test_an_unknown_frame_draw_is_refused():
    with pytest.raises(UsageError, match="frame_draw is 'clip'"):
        make_sampler(frame_draw="clip")


@pytest.mark.parametrize("index", [-1, 2**31])
def test_an_episode_index_out_of_range_is_refused(index):
    with pytest.raises(ValueError, match=f"episode index {index} is outside"):
        make_sampler()(index)


def test_the_sampler_of_a_split_takes_its_classes_and_name():
    videos = tuple(tuple(Video(f"{c}_{v}", c, 1) for v in range(3)) for c in (4, 9))
    split = Split("val", "val.txt", (4, 9), videos)
    arguments = {"seed": 1, "n_way": 2, "n_shot": 1, "num_frames": 2}
    sampler = EpisodeSampler.from_split(split, n_query=2, **arguments)
    assert (sampler.class_sizes, sampler.split_name) == ((3, 3), "val")
    with pytest.raises(MoloError, match="class 4 of split val has 3 usable"):
        EpisodeSampler.from_split(split, n_query=3, **arguments)
