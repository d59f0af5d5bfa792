"""Features of the shown clips: those of the bank, and the others computed once."""

from types import SimpleNamespace

import numpy as np
import pytest

from molo_jax.reporting import features
from molo_jax.reporting.features import ClipFeatures


class Bank:
    """Holds the clips of class 0; a clip's features are 100 · class + video, and a half."""

    def __init__(self):
        self.taken = []

    def rows(self, classes, videos):
        return 10 * np.asarray(classes) + np.asarray(videos)

    def present(self, draws):
        assert draws == 1
        return np.arange(50) < 10

    def take(self, rows):
        self.taken += rows.tolist()
        return {"x": rows[:, None] + 0.5}


class Embeds:
    """Takes the place of the network; video 9 turns out bad."""

    def __init__(self, *_):
        self.asked = []

    def embed(self, params, batch_stats, clips):
        assert (params, batch_stats) == ("params", "stats")
        self.asked += [clip.video for clip in clips]
        good = np.array([i for i, clip in enumerate(clips) if clip.video[1] != 9], int)
        values = np.array([100.0 * clips[i].video[0] + clips[i].video[1] for i in good])
        yield good, {"x": values[:, None]}


def clip(position, video):
    return SimpleNamespace(
        class_position=position,
        video_position=video,
        video=(position, video),
        draws=np.array([0.5]),
    )


@pytest.fixture
def made(monkeypatch):
    bank, embeds = Bank(), Embeds()
    monkeypatch.setattr(features, "_bank_of", lambda *_: bank)
    monkeypatch.setattr(features, "Evaluator", lambda *_: embeds)
    network = SimpleNamespace(params="params", batch_stats="stats", graphdef=None)
    return ClipFeatures(SimpleNamespace(data=None), network, None), bank, embeds


def test_what_is_in_the_bank_is_not_embedded_and_nothing_twice(made):
    found, bank, embeds = made
    clips = [clip(0, 3), clip(2, 1), clip(0, 1), clip(3, 4)]
    assert found.ensure(clips)
    assert bank.taken == [3, 1]
    assert embeds.asked == [(2, 1), (3, 4)]
    np.testing.assert_array_equal(found.of(clips)["x"][:, 0], [3.5, 201, 1.5, 304])
    assert found.ensure(clips[:2])
    assert (len(bank.taken), len(embeds.asked), found.embedded) == (2, 2, 2)


def test_a_clip_that_turns_out_bad_is_said_to_be_missing(made):
    found, _, _ = made
    assert not found.ensure([clip(0, 3), clip(2, 9)])
    assert found.ensure([clip(0, 3)])
