import dataclasses
import itertools
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from xla_flags import RIGHT_COLORS

from molo_jax.config import base_config
from molo_jax.data import augment
from molo_jax.data.augment import AugmentConfig
from molo_jax.errors import UsageError

GOLDEN = np.load(Path(__file__).parents[2] / "parity_tests" / "golden" / "augment.npz")
# Both sides compute in float32 with other orders of the operations; the hue divides by the chroma.
ATOL = 3e-6
OFF = AugmentConfig(flip=0, gray=0, brightness=0, contrast=0, saturation=0, hue=0)
USUAL = AugmentConfig(**base_config().augment)
NORMALIZATION = 0.45, 0.225
train_views = partial(augment.train_views, normalization=NORMALIZATION)
eval_views = partial(augment.eval_views, normalization=NORMALIZATION)
NAMES = ("brightness", "contrast", "saturation", "hue")
OPERATIONS = (
    lambda clip, factor: augment.blend(clip, augment.BRIGHTNESS, factor),
    lambda clip, factor: augment.blend(clip, augment.CONTRAST, factor),
    lambda clip, factor: augment.blend(clip, augment.SATURATION, factor),
    augment.adjust_hue,
)


@pytest.fixture(scope="module")
def clip():
    return jnp.asarray(GOLDEN["clip"], jnp.float32) / 255


def place_coded(count: int, frames: int = 3, side: int = 13) -> np.ndarray:
    """Clips whose pixels tell their place: channel 0 the row, 1 the column, 2 clip and frame."""
    row, column = np.mgrid[:side, :side]
    clips = np.zeros((count, frames, side, side, 3), np.uint8)
    clips[..., 0], clips[..., 1] = row, column
    clips[..., 2] = (np.arange(count)[:, None] * frames + np.arange(frames))[:, :, None, None]
    return clips


def to_levels(views) -> np.ndarray:
    """Undoes the normalization: gray levels 0..255."""
    return np.rint((np.asarray(views) * 0.225 + 0.45) * 255).astype(int)


@pytest.mark.parametrize("name", [name for name in GOLDEN.files if name.split("/")[0] in NAMES])
def test_each_operation_equals_the_official_one(clip, name):
    operation, factor = name.split("/")
    result = OPERATIONS[NAMES.index(operation)](clip, float(factor))
    np.testing.assert_allclose(result, GOLDEN[name], rtol=0, atol=ATOL)


def test_gray_and_normalization_equal_the_official_ones(clip):
    np.testing.assert_allclose(augment.to_gray(clip), GOLDEN["gray"], rtol=0, atol=ATOL)
    np.testing.assert_allclose(
        augment.normalize(clip, *NORMALIZATION), GOLDEN["normalize"], rtol=0, atol=ATOL
    )


def test_a_chain_of_operations_equals_the_official_one(clip):
    result = augment.color_jitter(
        clip,
        factors=jnp.array([0.7, 1.2, 1.4]),
        hue_shift=jnp.float32(-0.2),
        order=jnp.array([2, 0, 1, 3]),
    )
    expected = GOLDEN["chain/saturation1.4,brightness0.7,contrast1.2,hue-0.2"]
    np.testing.assert_allclose(result, expected, rtol=0, atol=ATOL)


def test_color_jitter_applies_the_operations_in_any_of_the_24_orders(clip):
    factors, shift = jnp.array([1.4, 0.6, 1.3]), jnp.float32(0.17)
    amounts = [*factors, shift]
    orders = jnp.array(list(itertools.permutations(range(4))))
    function = jax.vmap(partial(augment.color_jitter, clip, factors, shift))
    jitter = jax.jit(function, compiler_options=RIGHT_COLORS)
    results = jitter(orders)
    for order, result in zip(orders.tolist(), results, strict=True):
        expected = clip
        for operation in order:
            expected = OPERATIONS[operation](expected, amounts[operation])
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5, err_msg=str(order))
    spread = np.abs(np.asarray(results)[:, None] - np.asarray(results)[None]).max(axis=(2, 3, 4, 5))
    assert (spread > 1e-3).mean() > 0.8  # few orders commute


def test_color_jitter_without_hue_skips_only_the_hue(clip):
    factors = jnp.array([1.4, 0.6, 1.3])
    for order in itertools.permutations(range(4)):
        expected = clip
        for operation in order:
            if operation < 3:
                expected = OPERATIONS[operation](expected, factors[operation])
        result = augment.color_jitter(clip, factors, None, jnp.array(order))
        np.testing.assert_allclose(result, expected, rtol=0, atol=ATOL)


@pytest.mark.parametrize("operation", OPERATIONS[:3])
def test_a_factor_of_one_is_exactly_the_identity(clip, operation):
    np.testing.assert_array_equal(operation(clip, 1.0), clip)


def test_contrast_uses_the_mean_of_each_frame_alone():
    frames = jnp.stack([jnp.full((2, 2, 3), 0.2), jnp.full((2, 2, 3), 0.8)])
    np.testing.assert_allclose(
        augment.blend(frames, augment.CONTRAST, 0.5), frames, rtol=0, atol=1e-6
    )


def test_hue_of_gray_pixels_stays():
    frames = jnp.broadcast_to(jnp.linspace(0, 1, 7)[:, None], (1, 5, 7, 3))
    np.testing.assert_array_equal(augment.adjust_hue(frames, 0.2), frames)


def test_a_third_of_a_turn_makes_red_green():
    red = jnp.array([0.9, 0.1, 0.1]).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(
        augment.adjust_hue(red, 1 / 3).ravel(), [0.1, 0.9, 0.1], rtol=0, atol=1e-6
    )


def test_the_center_crop_of_evaluation_starts_at_half_the_margin():
    views = eval_views(jnp.asarray(place_coded(2)), 7)
    assert views.shape == (2, 3, 7, 7, 3)
    levels = to_levels(views)
    assert (levels[1, 2, :, 0, 0].tolist(), levels[1, 2, 0, :, 1].tolist()) == (
        [3, 4, 5, 6, 7, 8, 9],
        [3, 4, 5, 6, 7, 8, 9],
    )
    assert levels[1, 2, 0, 0, 2] == 5
    odd = to_levels(eval_views(jnp.asarray(place_coded(1)), 10))
    assert odd[0, 0, 0, 0, :2].tolist() == [1, 1]
    official = eval_views(jnp.asarray(place_coded(1, 1, side=256)), 224)
    assert to_levels(official)[0, 0, 0, 0, :2].tolist() == [16, 16]


def test_support_clips_are_cropped_at_one_place_a_clip_and_nothing_else():
    support = place_coded(5)
    keys = jax.random.split(jax.random.key(1), 200)
    crop = jax.jit(jax.vmap(lambda k: train_views(k, support, support[:1], 10, USUAL)[0]))
    levels = to_levels(crop(keys))  # (200, s, t, 10, 10, c)
    tops, lefts = levels[..., 0, 0, 0], levels[..., 0, 0, 1]
    expected_rows = tops[..., None, None] + np.arange(10)[:, None]
    expected_columns = lefts[..., None, None] + np.arange(10)
    assert (levels[..., 0] == expected_rows).all()
    assert (levels[..., 1] == expected_columns).all()
    assert (levels[..., 2] == support[None, ..., :10, :10, 2]).all()
    assert (tops == tops[..., :1]).all()
    assert (lefts == lefts[..., :1]).all()
    # Offsets are 0, 1, 2 and never the 3 that would fit, equally often and independently.
    pairs = np.bincount((tops * 3 + lefts)[..., 0].ravel(), minlength=9)
    assert set(np.unique(tops)) == set(np.unique(lefts)) == {0, 1, 2}
    assert np.abs(pairs / 1000 - 1 / 9).max() < 0.04


def test_a_crop_as_large_as_the_frames_is_the_whole_frame():
    clips = place_coded(2)
    support, query = train_views(jax.random.key(0), clips, clips[1:], 13, OFF)
    assert (to_levels(support) == clips).all()
    assert (to_levels(query) == clips[1:]).all()


def test_query_clips_are_flipped_with_the_given_probability_before_the_crop():
    query = place_coded(5)
    config = AugmentConfig(flip=0.3, gray=0, brightness=0, contrast=0, saturation=0, hue=0)
    keys = jax.random.split(jax.random.key(2), 300)
    view = jax.jit(jax.vmap(lambda k: train_views(k, query[:1], query, 10, config)[1]))
    columns = to_levels(view(keys))[..., 0, :, 1]  # (300, q, t, 10)
    flipped = columns[..., 0] > columns[..., 1]
    assert (flipped == flipped[..., :1]).all()
    assert abs(flipped.mean() - 0.3) < 0.04
    # Flipped first, then cropped with an offset of 0, 1 or 2.
    assert set(np.unique(columns[flipped][:, 0])) == {12, 11, 10}
    assert set(np.unique(columns[~flipped][:, 0])) == {0, 1, 2}


def test_query_clips_turn_gray_with_the_given_probability():
    query = place_coded(4)
    config = AugmentConfig(flip=0, gray=0.3, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2)
    keys = jax.random.split(jax.random.key(3), 200)
    view = jax.jit(jax.vmap(lambda k: train_views(k, query[:1], query, 10, config)[1]))
    views = np.asarray(view(keys))
    gray = np.ptp(views, axis=-1).max(axis=(2, 3, 4)) < 1e-4
    assert abs(gray.mean() - 0.3) < 0.05


def test_brightness_factors_are_uniform_around_one():
    query = np.full((5, 1, 2, 2, 3), 100, np.uint8)
    config = AugmentConfig(flip=0, gray=0, brightness=0.5, contrast=0, saturation=0, hue=0)
    keys = jax.random.split(jax.random.key(4), 400)
    view = jax.jit(jax.vmap(lambda k: train_views(k, query[:1], query, 2, config)[1]))
    factors = (np.asarray(view(keys))[..., 0, 0, 0, 0] * 0.225 + 0.45) * 255 / 100
    assert factors.min() > 0.5 - 1e-5
    assert factors.max() < 1.5 + 1e-5
    assert np.abs(np.quantile(factors, [0.1, 0.5, 0.9]) - [0.6, 1.0, 1.4]).max() < 0.04


def test_hue_shifts_are_uniform_around_zero():
    pixel = np.array([200, 100, 100], np.uint8)
    query = np.broadcast_to(pixel, (5, 1, 2, 2, 3))
    config = AugmentConfig(flip=0, gray=0, brightness=0, contrast=0, saturation=0, hue=1 / 6)
    keys = jax.random.split(jax.random.key(5), 400)
    view = jax.jit(jax.vmap(lambda k: train_views(k, query[:1], query, 2, config)[1]))
    pixels = to_levels(view(keys))[:, :, 0, 0, 0]
    # Up to a sixth of a turn keeps red the largest channel; green and blue grow in turns.
    assert (pixels[..., 0] == 200).all()
    assert pixels[..., 1:].min() == 100
    shifts = (pixels[..., 1] - pixels[..., 2]) / 600
    assert np.abs(np.quantile(shifts, [0.1, 0.5, 0.9]) - [-0.8 / 6, 0, 0.8 / 6]).max() < 0.02


def test_the_24_orders_are_equally_frequent_and_drawn_for_each_clip(monkeypatch):
    def show_order(clip, factors, hue_shift, order):
        return jnp.full_like(clip, jnp.sum(order * jnp.array([64, 16, 4, 1])) / 255)

    monkeypatch.setattr(augment, "color_jitter", show_order)
    query = np.zeros((5, 1, 2, 2, 3), np.uint8)
    keys = jax.random.split(jax.random.key(6), 2000)
    config = USUAL
    view = jax.jit(jax.vmap(lambda k: train_views(k, query[:1], query, 2, config)[1]))
    codes = to_levels(view(keys))[:, :, 0, 0, 0, 0]
    orders, counts = np.unique(codes, return_counts=True)
    digits = (orders[:, None] // np.array([64, 16, 4, 1])) % 4
    assert sorted(digits.tolist()) == [list(p) for p in itertools.permutations(range(4))]
    assert np.abs(counts / 10000 * 24 - 1).max() < 0.2
    assert abs((codes[:, 0] == codes[:, 1]).mean() - 1 / 24) < 0.02


def test_the_choices_for_a_clip_are_independent(monkeypatch):
    def show_amounts(clip, factors, hue_shift, order):
        shown = [*factors, hue_shift + 1]
        return clip.at[:, :2, :2, 2].set(jnp.stack(shown).reshape(1, 2, 2))

    monkeypatch.setattr(augment, "color_jitter", show_amounts)
    query = place_coded(4, frames=1)
    keys = jax.random.split(jax.random.key(7), 1000)
    config = dataclasses.replace(USUAL, flip=0.5, gray=0.5)
    view = jax.jit(jax.vmap(lambda k: train_views(k, query[:1], query, 10, config)[1]))
    views = (np.asarray(view(keys)) * 0.225 + 0.45).reshape(-1, 10, 10, 3)
    gray = np.abs(views[..., 0] - views[..., 1]).max(axis=(1, 2)) < 1e-5
    flipped = views[:, 0, 0, 1] > views[:, 0, 1, 1]
    amounts = views[:, :2, :2, 2].reshape(-1, 4).T
    correlation = np.corrcoef([gray, flipped, *amounts])
    assert np.abs(correlation - np.eye(6)).max() < 0.07
    tops = np.where(gray, np.nan, views[:, 0, 0, 0])  # a gray pixel does not tell its row
    of_colored = np.corrcoef([values[~gray] for values in (tops, flipped, *amounts)])
    assert np.abs(of_colored - np.eye(6)).max() < 0.1


def test_everything_switched_off_leaves_the_crop_alone():
    clips = place_coded(3)
    _, query = train_views(jax.random.key(8), clips[:1], clips, 13, OFF)
    np.testing.assert_array_equal(query, eval_views(jnp.asarray(clips), 13))


def test_mapping_over_episodes_equals_single_episodes():
    episodes = np.random.default_rng(0).integers(0, 256, (3, 5, 2, 11, 11, 3), np.uint8)
    support, query = episodes[:, :2], episodes[:, 2:]
    indices = jnp.array([4, 0, 9], jnp.int32)
    views = partial(train_views, crop=7, config=USUAL)
    keys = jax.vmap(partial(augment.episode_key, 6, "train"))(indices)
    mapped = jax.jit(jax.vmap(views))(keys, support, query)
    views = jax.jit(views)
    for place, index in enumerate(indices.tolist()):
        single = views(augment.episode_key(6, "train", index), support[place], query[place])
        for one, other in zip(mapped, single, strict=True):
            np.testing.assert_allclose(one[place], other, rtol=0, atol=2e-5)


def test_keys_differ_between_seeds_splits_and_episodes():
    keys = [
        augment.episode_key(seed, split, index)
        for seed in (0, 1, 2**32 - 1)
        for split in ("train", "val")
        for index in (0, 1, 2**31 - 1)
    ]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 18


def test_a_crop_larger_than_the_frames_is_refused():
    clips = place_coded(1)
    with pytest.raises(UsageError, match=r"crop of 14 pixels is larger .* resized to 13"):
        train_views(jax.random.key(0), clips, clips, 14, OFF)
    with pytest.raises(UsageError, match="crop of 14 pixels"):
        eval_views(jnp.asarray(clips), 14)


def test_importing_it_does_not_import_tensorflow():
    code = "import molo_jax.data.augment, sys; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
