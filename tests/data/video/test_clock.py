"""When frames are shown, where time stamps are missing or wrong; files are read in test_timed."""

from fractions import Fraction
from types import SimpleNamespace

import pytest

from molo_jax.data.video.clock import FrameClock


class FakeFrame:
    def __init__(self, pts, duration=0):
        self.pts, self.dts, self.duration, self.time_base = pts, None, duration, None


class FakeStream:
    def __init__(self, rate=None):
        self.container = SimpleNamespace(format=SimpleNamespace(name="mov,mp4"))
        self.time_base = Fraction(1, 100)
        self.average_rate, self.guessed_rate = rate and Fraction(rate), None


def clocked(stamps, rate=25):
    clock = FrameClock(FakeStream(rate))
    return [float(clock.read(FakeFrame(stamp))[0]) for stamp in stamps]


@pytest.mark.parametrize(
    ("stamps", "times"),
    [
        ([700, 704, 712], [0, 0.04, 0.12]),
        ([None, None, None], [0, 0.04, 0.08]),
        ([700, None, 712, None], [0, 0.04, 0.12, 0.16]),
        ([None, 704, 712], [0, 0.04, 0.12]),
        # Two frames out of order, and two for the same moment.
        ([700, 712, 708, 716, 716], [0, 0.12, 0.12, 0.16, 0.16]),
        # A recording that was joined to another one.
        ([700, 900, 100, 108], [0, 2, 2.04, 2.12]),
        ([700, 704, 9_000_000, 9_000_004], [0, 0.04, 89_993, 89_993.04]),
    ],
)
def test_time_stamps_count_from_the_first_frame_and_never_go_back(stamps, times):
    assert clocked(stamps) == pytest.approx(times)


def test_without_times_and_a_rate_only_the_first_frame_has_a_time():
    clock = FrameClock(FakeStream())
    assert [clock.read(FakeFrame(stamp))[0] for stamp in (700, None, 704)] == [
        0,
        None,
        Fraction(4, 100),
    ]
    assert FrameClock(FakeStream()).read(FakeFrame(700)) == (0, 0)
