"""Frame choice and pixels: molo_jax against PyTorch, with the same drawn parameters."""

import itertools
import json
from pathlib import Path

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from xla_flags import RIGHT_COLORS

from molo_jax.config import base_config
from molo_jax.data import augment
from molo_jax.data.video import frames
from molo_jax.data.video.decode import decode_clip
from molo_jax.data.video.frames import frame_chooser, segment_frames
from molo_jax.data.video.images import resize_frames
from molo_torch_ref import pixels
from parity_tests import tolerances

# PyTorch runs in float64 here.
PIXELS, VIEWS = tolerances.PIXELS.bound, tolerances.VIEWS.bound
RECORDED, RECORDED_PROBE = tolerances.RECORDED.bound, tolerances.RECORDED_PROBE.bound
TIE = tolerances.TIE.bound
# Frames are kept as whole gray levels between resize and crop: half a level, normalized, and the
# rounding of float32.
ROUNDED_VIEWS = 0.5 / 255 / pixels.STD + 1e-4

GOLDEN = Path(__file__).parent / "golden"
RECORDS = np.load(GOLDEN / "augment.npz")
WINDOWS = json.loads((GOLDEN / "frame_index_rate35.json").read_text())
NAMES = ("brightness", "contrast", "saturation", "hue")
IN_JAX = {
    "brightness": lambda clip, factor: augment.blend(clip, augment.BRIGHTNESS, factor),
    "contrast": lambda clip, factor: augment.blend(clip, augment.CONTRAST, factor),
    "saturation": lambda clip, factor: augment.blend(clip, augment.SATURATION, factor),
    "hue": augment.adjust_hue,
}
NORMALIZATION = pixels.MEAN, pixels.STD
IN_TORCH = {name: getattr(pixels, name) for name in NAMES}
FACTORS = (0.0, 0.5, 0.83, 1.0, 1.21, 1.5)
SHIFTS = (-0.5, -0.25, -1 / 6, -0.07, 0.0, 0.11, 1 / 3, 0.25, 0.5)


def to_torch(clips, dtype=torch.float64):
    """Channels-last pixels, uint8 or in [0, 1], to (..., 3, h, w) in [0, 1]."""
    array = np.asarray(clips)
    scale = 255 if array.dtype == np.uint8 else 1
    return torch.from_numpy(np.moveaxis(array, -1, -3).copy()).to(dtype) / scale


def to_numpy(clips):
    return np.moveaxis(clips.numpy(), -3, -1)


def every_color():
    """A frame with all colors of nine levels: grays, black, white and ties of every kind."""
    levels = np.array([0, 1, 31, 64, 127, 128, 200, 254, 255], np.uint8)
    colors = np.array(list(itertools.product(levels, repeat=3)), np.uint8)
    return colors.reshape(1, 27, 27, 3)


def noise(*size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def assert_close(ours, theirs, atol):
    """Compares channels-last arrays of JAX with clips of PyTorch."""
    np.testing.assert_allclose(np.asarray(ours), to_numpy(theirs), rtol=0, atol=atol)


# Frame choice


@pytest.mark.parametrize("count", [2, 5, 8, 19])
def test_segments_choose_the_same_frames_for_every_length(count):
    rng = np.random.default_rng(count)
    for length in range(1, 400):
        draws = rng.random(count)
        ours = segment_frames(length, draws)
        theirs = pixels.segment_frames(length, torch.from_numpy(draws))
        assert ours.tolist() == theirs.tolist(), (length, draws)
        if length < count:
            assert set(ours) == set(range(length))  # every frame is shown


@pytest.mark.parametrize("case", WINDOWS, ids=lambda c: f"{c['length']}-{c['fps']}-{c['start']}")
def test_windows_in_torch_are_the_recorded_ones(case):
    start = None if case["start"] == "test" else case["start"]
    assert pixels.window_frames(case["length"], case["fps"], start).tolist() == case["index"]


@pytest.mark.parametrize("fps", [10.0, 12.0, 15.0, 24.0, 25.0, 30.0, 29.97, 50.0, 60.0])
def test_windows_choose_the_same_frames_for_every_length(fps):
    rng = np.random.default_rng(int(fps))
    for length in range(1, 420):
        for start in (None, 0.0, float(rng.random())):
            draws = np.full(8, 0.7 if start is None else start)
            rule = "window_middle" if start is None else "window"
            ours = frame_chooser(rule, draws)(length, fps)
            theirs = pixels.window_frames(length, fps, start).numpy()
            np.testing.assert_array_equal(ours, theirs, err_msg=f"{length} {start}")


@pytest.mark.parametrize("count", [2, 5, 8, 19])
def test_points_of_a_window_are_those_of_torch_to_the_last_bit(count):
    rng = np.random.default_rng(count)
    for begin, width in zip(rng.uniform(0, 900, 2000), rng.uniform(-40, 900, 2000), strict=True):
        expected = torch.linspace(begin, begin + width, count).numpy()
        np.testing.assert_array_equal(frames._linspace(begin, begin + width, count), expected)


# Operations


@pytest.mark.parametrize("name", [n for n in RECORDS.files if n.split("/")[0] in NAMES])
def test_each_operation_in_torch_gives_the_recorded_values(name):
    operation, amount = name.split("/")
    result = IN_TORCH[operation](to_torch(RECORDS["clip"]), float(amount))
    assert_close(RECORDS[name], result, RECORDED)


def test_gray_normalization_resize_and_a_chain_in_torch_give_the_recorded_values():
    clip = to_torch(RECORDS["clip"])
    assert_close(RECORDS["gray"], pixels.gray(clip), RECORDED)
    assert_close(RECORDS["normalize"], pixels.normalize(clip), RECORDED)
    resized = pixels.center_crop(pixels.resize(clip, 40), 32)
    assert_close(RECORDS["resize40_centre32"], resized, RECORDED)
    (name,) = (n for n in RECORDS.files if n.startswith("chain/"))
    for step in name.removeprefix("chain/").split(","):
        operation = next(n for n in NAMES if step.startswith(n))
        clip = IN_TORCH[operation](clip, float(step.removeprefix(operation)))
    assert_close(RECORDS[name], clip, RECORDED)


def test_the_full_resize_and_center_crop_in_torch_give_the_recorded_probe():
    full = to_numpy(pixels.center_crop(pixels.resize(to_torch(RECORDS["clip"]), 256), 224))
    probe = [np.linalg.norm(full), full.mean(), full[0, 0, 0, 0], full[1, 100, 77, 2]]
    np.testing.assert_allclose(probe, RECORDS["resize256_centre224_probe"], rtol=RECORDED_PROBE)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("clip", [every_color(), noise(3, 17, 19)], ids=["colors", "noise"])
def test_each_operation_equals_that_of_torch(name, clip):
    amounts = SHIFTS if name == "hue" else FACTORS
    # Compiled, as in training.
    apply = jax.jit(jax.vmap(IN_JAX[name], in_axes=(None, 0)))
    results = apply(jnp.asarray(clip, jnp.float32) / 255, jnp.array(amounts))
    for amount, ours in zip(amounts, results, strict=True):
        assert_close(ours, IN_TORCH[name](to_torch(clip), amount), PIXELS)


def test_gray_and_normalization_equal_those_of_torch():
    clip = every_color()
    ours = jnp.asarray(clip, jnp.float32) / 255
    assert_close(augment.to_gray(ours), pixels.gray(to_torch(clip)), PIXELS)
    assert_close(augment.normalize(ours, *NORMALIZATION), pixels.normalize(to_torch(clip)), PIXELS)


def test_converting_to_hsv_and_back_keeps_every_color():
    clip = to_torch(every_color())
    h, s, v = pixels.rgb_to_hsv(clip)
    assert float(h.min()) >= 0 > float(h.max()) - 1
    np.testing.assert_allclose(pixels.hsv_to_rgb(h, s, v), clip, rtol=0, atol=1e-14)


# Views


def drawn_choices(key, clips, sides, config):
    """What the choices for an episode's clips must be, from the draws of :mod:`augment`.

    Args:
        key: the episode's key.
        clips: number of support and of query clips.
        sides: of the frames and of the crop.

    Returns:
        The places of the support crops, and the choices for the query clips.
    """
    room = sides[0] - sides[1]
    support_key, query_key = jax.random.split(key)
    places = np.asarray(jax.random.uniform(support_key, (clips[0], 2)))
    places = [(int(top * room), int(left * room)) for top, left in places]
    return places, [
        choices_of(draws, room, config)
        for draws in np.asarray(jax.random.uniform(query_key, (clips[1], 12)))
    ]


def choices_of(draws, room, config):
    """Twelve draws: flip, gray, place, three factors, hue shift, and the order's four."""
    strengths = (config.brightness, config.contrast, config.saturation)
    amounts = [1 - s + float(draw) * 2 * s for s, draw in zip(strengths, draws[4:7], strict=True)]
    amounts.append((2 * float(draws[7]) - 1) * config.hue)
    return pixels.QueryChoices(
        flip=draws[0] < config.flip,
        gray=draws[1] < config.gray,
        top=int(draws[2] * room),
        left=int(draws[3] * room),
        jitter=[(NAMES[i], amounts[i]) for i in np.argsort(draws[8:])],
    )


def assert_train_views(key, support, query, crop, config=None):
    """Compares both sets of an episode; returns the choices for its query clips."""
    config = config or augment.AugmentConfig(**base_config().augment)
    side = support.shape[-2]
    clips = len(support), len(query)
    places, choices = drawn_choices(key, clips, (side, crop), config)
    ours = jax.jit(augment.train_views, static_argnums=(3, 4, 5), compiler_options=RIGHT_COLORS)(
        key, support, query, crop, config, NORMALIZATION
    )
    for clip, view, place in zip(support, ours[0], places, strict=True):
        assert_close(view, pixels.support_view(to_torch(clip), *place, crop, side), VIEWS)
    for clip, view, choice in zip(query, ours[1], choices, strict=True):
        assert_close(view, pixels.query_view(to_torch(clip), choice, crop, side), VIEWS)
    return choices


def test_training_views_equal_those_of_torch_with_every_choice_and_order():
    seen = []
    for index in range(40):
        clips = noise(8, 2, 21, 21, seed=index)
        clips[3] = clips[3, ..., :1]  # a gray video
        clips[4, :, :, 7:] = 255  # a large plain part
        key = augment.episode_key(3, "train", index)
        seen += assert_train_views(key, clips[:2], clips[2:], 13)
    assert {(c.flip, c.gray) for c in seen} == set(itertools.product((True, False), repeat=2))
    assert {tuple(n for n, _ in c.jitter) for c in seen} == set(itertools.permutations(NAMES))
    assert {c.top for c in seen} == {c.left for c in seen} == set(range(8))


def test_training_views_of_official_size_equal_those_of_torch():
    coarse = torch.from_numpy(noise(3, 3, 9, 9, seed=5)).movedim(-1, 2).flatten(0, 1).float()
    clips = pixels.resize(coarse, 256).round().to(torch.uint8).unflatten(0, (3, 3)).movedim(2, -1)
    clips = clips.numpy()
    assert_train_views(augment.episode_key(8, "train", 17), clips[:1], clips[1:], 224)


@pytest.mark.parametrize(("side", "crop"), [(21, 13), (20, 13), (13, 13), (256, 224)])
def test_evaluation_views_equal_those_of_torch(side, crop):
    clips = noise(2, 2, side, side)
    ours = augment.eval_views(jnp.asarray(clips), crop, NORMALIZATION)
    for clip, view in zip(clips, ours, strict=True):
        assert_close(view, pixels.evaluation_view(to_torch(clip), crop, side), PIXELS)


# Resize


@pytest.mark.parametrize(
    ("height", "width", "side"),
    [
        (240, 428, 256),
        (256, 256, 224),
        (24, 32, 40),
        (37, 53, 36),
        (64, 48, 32),
        (9, 7, 64),
        (1, 5, 8),
    ],
)
def test_frames_are_resized_to_the_gray_levels_of_torch(height, width, side):
    frames = noise(2, height, width)
    ours = resize_frames(frames, side)
    levels = to_numpy(pixels.resize(to_torch(frames), side)) * 255
    np.testing.assert_allclose(ours, levels, rtol=0, atol=0.5 + TIE)
    decided = np.abs(levels % 1 - 0.5) > TIE
    assert decided.mean() > 0.7  # halving makes quarters of gray levels, and with them halves
    np.testing.assert_array_equal(ours[decided], np.rint(levels[decided]))


def test_resized_and_cropped_recorded_frames_are_the_recorded_pixels_to_half_a_gray_level():
    frames = resize_frames(RECORDS["clip"], 40)
    expected = (RECORDS["resize40_centre32"] - pixels.MEAN) / pixels.STD
    ours = np.asarray(augment.eval_views(frames, 32, NORMALIZATION))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=ROUNDED_VIEWS)


def write_video(path, frames):
    """Writes frames, which lossless coding keeps up to the conversion of colors."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12, options={"qp": "0"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv444p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize("rule", ["segments", "window", "window_middle"])
def test_a_video_becomes_the_same_input_as_in_torch(tmp_path, rule):
    blocks = noise(70, 6, 8, seed=2)
    write_video(tmp_path / "clip.mp4", blocks.repeat(8, axis=1).repeat(8, axis=2))
    with av.open(str(tmp_path / "clip.mp4")) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    draws = np.random.default_rng(1).random(8)
    ours, _ = decode_clip(str(tmp_path / "clip.mp4"), frame_chooser(rule, draws), 40)
    if rule == "segments":
        chosen = pixels.segment_frames(70, torch.from_numpy(draws))
    else:
        chosen = pixels.window_frames(70, 12.0, draws[0] if rule == "window" else None)
    theirs = to_torch(np.stack([decoded[k] for k in chosen]))
    view = pixels.evaluation_view(theirs, 32, 40)
    assert_close(augment.eval_views(jnp.asarray(ours), 32, NORMALIZATION), view, ROUNDED_VIEWS)
