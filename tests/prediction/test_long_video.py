import dataclasses
import gc
import math
import weakref

import numpy as np
import pytest
from videos import read_codes, read_packets, write_packets, write_video

from molo_jax.data.video.containers import BadVideoError
from molo_jax.prediction.long_video import label_video
from molo_jax.prediction.timeline import Segment

SETTINGS = {"num_frames": 4, "resize": 40, "window": 0.8, "stride": 0.4}


@dataclasses.dataclass
class Score:
    label: str
    known: bool
    probability: float
    margin: float
    distances: dict
    probabilities: dict


class ByNumber:
    """Says "early" of windows before frame 60 and "late" of later ones, by the pixels alone."""

    def __init__(self, strange=()):
        self.batches, self.strange = [], strange

    def __call__(self, pixels):
        assert (pixels.shape[1:], pixels.dtype) == ((4, 40, 40, 3), np.uint8)
        self.batches.append(len(pixels))
        return [self.score(read_codes(clip)[0]) for clip in pixels]

    def score(self, codes):
        early = 0.9 if np.mean(codes) < 60 else 0.2
        probabilities = {"early": early, "late": 1 - early}
        label = max(probabilities, key=probabilities.get)
        known = not any(code in self.strange for code in codes)
        return Score(
            label if known else "none of these",
            known,
            probabilities[label],
            0.5,
            {"early": 1 - early, "late": early},
            probabilities,
        )


def test_a_video_becomes_segments_with_the_labels_of_its_windows(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=120)  # 4.8 s
    classify, done = ByNumber(), []
    found = label_video(classify, str(path), **SETTINGS, batch=4, progress=done.append)
    assert (found.path, found.error) == (str(path), None)
    assert [round(score.start, 6) for score in found.windows] == [
        round(0.4 * k, 6) for k in range(11)
    ]
    assert [score.label for score in found.windows] == ["early"] * 6 + ["late"] * 5
    # The stretch from 2.4 to 2.8 s is covered by one window of each; (0.9 + 0.2) / 2 is above 0.5.
    first, second = found.segments
    assert (first.start, first.label, second.label) == (0.0, "early", "late")
    assert (first.end, second.end) == (pytest.approx(2.8), pytest.approx(4.8))
    assert first.probability == pytest.approx((6 * 0.9 + 0.55) / 7)
    assert found.seconds == pytest.approx(4.8)
    assert classify.batches == [4, 4, 3]
    assert done == pytest.approx([2.0, 3.6, 4.8])


def test_the_batches_do_not_change_the_labels(tmp_path):
    path = str(write_video(tmp_path / "a.mp4", frames=120))
    one, many = (label_video(ByNumber(), path, **SETTINGS, batch=b) for b in (1, 100))
    assert one == many
    full = ByNumber()
    assert label_video(full, path, **SETTINGS, batch=11) == one
    assert full.batches == [11]


def test_windows_that_are_no_class_make_a_segment_of_their_own(tmp_path):
    path = str(write_video(tmp_path / "a.mp4", frames=120))
    found = label_video(ByNumber(strange=range(20, 25)), path, **SETTINGS)
    none = "none of these"
    assert [segment.label for segment in found.segments] == ["early", none, "early", "late"]
    assert (found.segments[1].start, found.segments[1].end) == pytest.approx((0.4, 1.6))
    assert math.isnan(found.segments[1].probability)
    joined = label_video(ByNumber(strange=range(20, 25)), path, **SETTINGS, shortest=0.5)
    assert [segment.label for segment in joined.segments] == [none, "early", "late"]


def test_a_video_shorter_than_the_window_gets_one_label(tmp_path):
    path = str(write_video(tmp_path / "a.mp4", frames=5))
    found = label_video(ByNumber(), path, **SETTINGS)
    assert found.segments == [Segment(0.0, pytest.approx(0.2), "early", True, 0.9)]


def test_the_labels_of_a_damaged_video_reach_to_the_damage_which_is_said(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", frames=120, stream_options={"g": "10", "bf": "0"})
    packets = read_packets(whole)
    packets[77].data = packets[77].data[:4] + b"\xff" * (len(packets[77].data) - 4)
    write_packets(tmp_path / "a.mp4", whole, packets)
    path = str(tmp_path / "a.mp4")
    right = label_video(ByNumber(), str(whole), **SETTINGS)
    for batch in (1, 2, 7, 50):
        found = label_video(ByNumber(), path, **SETTINGS, batch=batch)
        assert found.seconds == pytest.approx(77 / 25)
        assert found.windows[:6] == right.windows[:6]
        assert "cannot be decoded to the end" in found.error.reason
        assert found.segments[-1].end == pytest.approx(77 / 25)


def test_a_video_of_which_nothing_can_be_read_is_bad(tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(BadVideoError, match="not a video file"):
        label_video(ByNumber(), str(tmp_path / "a.mp4"), **SETTINGS)


def test_a_classifier_that_forgets_a_window_is_an_error(tmp_path):
    path = str(write_video(tmp_path / "a.mp4", frames=60))
    with pytest.raises(ValueError, match="shorter"):
        label_video(lambda pixels: ByNumber()(pixels)[1:], path, **SETTINGS)


def test_no_pixels_are_kept_beyond_their_batch(tmp_path):
    path = str(write_video(tmp_path / "a.mp4", frames=250))
    alive, most = [], []

    def classify(pixels):
        alive.append(True)
        weakref.finalize(pixels, alive.pop)
        gc.collect()
        most.append(len(alive))
        return ByNumber()(pixels)

    label_video(classify, path, **SETTINGS, batch=2)
    assert most == [1] * 12
