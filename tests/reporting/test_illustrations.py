"""Which episodes and queries are drawn; hardest queries whose videos are gone."""

from types import SimpleNamespace

import numpy as np
from made_results import made_outcome

from molo_jax.analysis.outcome import Outcome
from molo_jax.data.video.containers import BadVideoError
from molo_jax.reporting import illustrations
from molo_jax.reporting.strips import Strips


def outcome(*right):
    """Episodes of two classes; each is right or not."""
    predicted = np.array([[[0], [1 if each else 0]] for each in right])
    classes, videos = np.tile([0, 1], (len(right), 1)), np.zeros((len(right), 2, 2), int)
    return Outcome(classes, videos, 1, predicted, np.zeros(predicted.shape))


def test_the_first_episode_and_the_next_one_with_a_mistake_are_drawn():
    assert illustrations._chosen(None) == [0, 1]
    assert illustrations._chosen(outcome(True, True, True, False)) == [0, 3]
    assert illustrations._chosen(outcome(False, True, True)) == [0, 1]


def test_of_the_queries_a_wrong_one_and_a_right_one_are_drawn():
    pick = illustrations._Illustrator._worth_drawing
    apart = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 0.5]])
    # Query 0 is of class 0, query 1 of class 1, which is wrong, query 2 of class 2.
    assert pick(apart, [0, 1, 2], [0, 1, 2]) == {0, 1}
    assert pick(apart[[0, 2]], [0, 1], [0, 2]) == {0, 1}
    assert pick(apart, [1, 0, 2], [1, 2, 0]) == {0, 1}


def test_a_hard_query_whose_video_is_gone_is_named_without_frames(caplog):
    def read_clip(request, **_):
        if request.video[1] % 2:
            raise BadVideoError("5.mp4", "no frame")
        return np.zeros((4, 8, 8, 3), np.uint8)

    clip = lambda c, v, _: SimpleNamespace(video=(c, v), draws=np.array([c, v]))  # noqa: E731
    data = SimpleNamespace(
        samplers={1: SimpleNamespace(clip=clip)},
        reading={"sampling": "segments", "resize": 8},
        dataset=SimpleNamespace(read_clip=read_clip),
    )
    made = made_outcome(6)
    names = [f"class {i}" for i in range(6)]
    videos = [[f"{c}/{v}.mp4" for v in range(12)] for c in range(6)]
    strips = Strips(10**6)
    found = illustrations.hard_clips(made, names, videos, strips, SimpleNamespace(data=data))
    assert len(found) == 12
    for each in found:
        position = int(each.video.split("/")[1].removesuffix(".mp4"))
        assert (each.strip is None) == bool(position % 2)
        assert each.name == f"class {each.video.split('/')[0]}"
        assert each.right < each.asked
    assert "the frames of a query are not shown" in caplog.text
    shares = [each.right / each.asked for each in found]
    assert shares == sorted(shares)
