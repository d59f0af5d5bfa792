import threading
import time

import jax.numpy as jnp
import pytest
from colors import ColorEmbedder, clip

from molo_jax.errors import MoloError
from molo_jax.prediction.reader import ClipReader


class Kept:
    def __init__(self):
        self.clips = {}

    def get(self, digest):
        return self.clips.get(digest)

    def put(self, clip):
        self.clips[clip.digest] = clip


def reader(embedder, cache=None):
    return ClipReader(embedder, cache, 10)


def test_clips_come_in_their_order_and_are_embedded_several_at_once():
    embedder = ColorEmbedder(clips_at_once=3)
    sources = [clip(n) for n in range(7)]
    found = list(reader(embedder).embedded(sources))
    assert [round(float(each.features[0])) for each in found] == list(range(7))
    assert [len(part) for part in embedder.seen] == [3, 3, 1]


def test_bad_clips_keep_their_place():
    found = list(reader(ColorEmbedder()).embedded([clip(1), "/absent.mp4", clip(2)]))
    assert [isinstance(each, MoloError) for each in found] == [False, True, False]


def test_what_was_embedded_once_is_not_embedded_again():
    embedder, kept = ColorEmbedder(), Kept()
    first = list(reader(embedder, kept).embedded([clip(1), clip(2)]))
    again = list(reader(embedder, kept).embedded([clip(2), clip(3), clip(1)]))
    assert embedder.embedded == 3
    assert again[0].features is first[1].features
    assert again[2].features is first[0].features


def test_what_is_embedded_already_is_let_through():
    embedder = ColorEmbedder()
    (done,) = reader(embedder).embedded([clip(5)])
    assert list(reader(embedder).embedded([done])) == [done]
    assert embedder.embedded == 1


def test_reading_ahead_is_bounded_and_ends_with_the_one_who_reads():
    taken = []

    def sources():
        for number in range(1000):
            taken.append(number)
            yield clip(number % 256)

    found = reader(ColorEmbedder(clips_at_once=1)).embedded(sources())
    next(found)
    assert len(taken) < 20
    found.close()
    assert len(taken) < 20
    for thread in threading.enumerate():
        if "ThreadPool" in thread.name:
            thread.join(10)
            assert not thread.is_alive()


def test_what_is_neither_a_path_nor_an_array_is_said_in_its_place():
    found = list(
        reader(ColorEmbedder()).embedded([clip(1), 5, None, b"a.mp4", jnp.asarray(clip(2))])
    )
    assert [isinstance(each, MoloError) for each in found] == [False, True, True, True, False]
    assert str(found[1]) == "'5' is no clip; expected a path, or an array (t, h, w, 3) of uint8"
    assert float(found[4].features[0]) == 2


def test_an_interrupted_reading_does_not_wait_for_the_decoders(monkeypatch):
    released = threading.Event()

    def slow(self, source):
        released.wait(20)
        return MoloError("late")

    monkeypatch.setattr(ClipReader, "_read", slow)

    def sources():
        yield from [clip(1)] * 3
        raise KeyboardInterrupt

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(reader(ColorEmbedder()).embedded(sources()))
    assert time.monotonic() - begin < 10
    released.set()
