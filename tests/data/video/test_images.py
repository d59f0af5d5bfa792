from pathlib import Path

import numpy as np
import pytest

from molo_jax.data.video.images import decode_jpegs, encode_jpeg, resize_frames
from molo_jax.errors import MoloError

GOLDEN = np.load(Path(__file__).parents[3] / "parity_tests" / "golden" / "augment.npz")


def picture(side: int = 64, seed: int = 0) -> np.ndarray:
    """Waves of all colors, (side, side, 3)."""
    y, x = np.mgrid[:side, :side] / side
    phases = np.random.default_rng(seed).uniform(0, 6, (3, 2))
    waves = [np.sin(5 * x + a) + np.cos(4 * y + b) for a, b in phases]
    return np.rint(127.5 + 60 * np.stack(waves, axis=-1)).astype(np.uint8)


def test_the_resize_equals_the_official_one_up_to_rounding():
    small = resize_frames(GOLDEN["clip"], 40)[:, 4:36, 4:36]
    expected = GOLDEN["resize40_centre32"] * 255
    assert small.dtype == np.uint8
    assert np.abs(small - expected).max() <= 0.5 + 1e-3
    large = resize_frames(GOLDEN["clip"], 256)[:, 16:240, 16:240]
    probe = GOLDEN["resize256_centre224_probe"]
    assert abs(np.linalg.norm(large / 255) - probe[0]) < 0.02
    assert abs((large / 255).mean() - probe[1]) < 1e-4
    pixels = [large[0, 0, 0, 0], large[1, 100, 77, 2]]
    assert pixels == np.rint(probe[2:] * 255).tolist()


def test_shrinking_picks_pixels_and_does_not_blur():
    # At a third of the height and a fifth of the width, half-pixel centers fall on every third
    # pixel from 1 and every fifth from 2; antialiasing would average their neighborhoods.
    frames = np.random.default_rng(0).integers(0, 256, (2, 21, 35, 3), np.uint8)
    np.testing.assert_array_equal(resize_frames(frames, 7), frames[:, 1::3, 2::5])


def test_frames_of_the_right_size_stay_as_they_are():
    frames = np.random.default_rng(0).integers(0, 256, (2, 7, 7, 3), np.uint8)
    np.testing.assert_array_equal(resize_frames(frames, 7), frames)


@pytest.mark.parametrize(
    ("quality", "chroma", "mean", "most"),
    [(95, "444", 0.8, 6), (95, "420", 0.95, 8), (75, "420", 1.7, 12)],
)
def test_a_picture_comes_back_from_jpeg_almost_as_it_was(quality, chroma, mean, most):
    frames = np.stack([picture(seed=seed) for seed in range(3)])
    images = [encode_jpeg(frame, quality, chroma) for frame in frames]
    error = np.abs(decode_jpegs(images, 64) - frames.astype(int))
    assert 0.8 * mean < error.mean() < mean
    assert error.max() <= most


def test_a_higher_quality_and_full_colors_cost_bytes():
    sizes = [
        len(encode_jpeg(picture(), quality, chroma))
        for quality, chroma in [(75, "420"), (95, "420"), (95, "444")]
    ]
    assert sizes == sorted(set(sizes))


def test_jpeg_bytes_and_the_pixels_from_them_are_the_same_each_time():
    images = {encode_jpeg(picture(), 95, "420") for _ in range(3)}
    assert len(images) == 1
    decoded = decode_jpegs([*images, *images], 64)
    np.testing.assert_array_equal(decoded[0], decoded[1])


def test_jpeg_takes_views_of_larger_frames():
    frame = picture(96)
    assert encode_jpeg(frame[16:80, 8:72], 95, "444") == encode_jpeg(
        frame[16:80, 8:72].copy(), 95, "444"
    )


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.9])
def test_a_damaged_jpeg_is_refused(kept):
    image = encode_jpeg(picture(), 95, "420")
    cut = image[: kept if kept > 1 else int(len(image) * kept)]
    with pytest.raises(MoloError, match="a stored image is damaged"):
        decode_jpegs([image, cut], 64)


def test_a_jpeg_of_another_size_is_refused_with_both_sizes():
    images = [encode_jpeg(picture(side), 95, "420") for side in (64, 48)]
    with pytest.raises(MoloError, match="a stored image is 48×48; expected 64×64"):
        decode_jpegs(images, 64)
