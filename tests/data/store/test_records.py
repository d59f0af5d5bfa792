"""What a preparation's settings may be."""

import pytest

from molo_jax.data.store.records import Settings


@pytest.mark.parametrize("num_frames", [{}, {"num_frames": 0}, {"num_frames": -8}])
def test_the_frames_of_a_window_are_not_kept_without_the_number_of_frames_of_a_clip(num_frames):
    with pytest.raises(ValueError, match=r'num_frames is (0|-8); keep="window" needs the number'):
        Settings("kinetics100", keep="window", **num_frames)


def test_a_window_with_its_number_of_frames_keeps_what_it_can_show():
    settings = Settings("kinetics100", keep="window", num_frames=2)
    # Twelve frames a second: a window of 70 frames, whose two points are 35 apart.
    # One frame more before them, for the rounding of the points.
    assert settings.frames_kept(72, 12.0).tolist() == [0, 1, 2, 3, 34, 35, 36, 37, 38]
    assert Settings.of("kinetics100", num_frames=2) == settings
