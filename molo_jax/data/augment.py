"""Crop, flip, color jitter and normalization of clips, on the device.

Everything is a pure function of a key that comes from (seed, split, episode index), works on one
episode and can be mapped over episodes with `jax.vmap`. Spec: support clips are cropped; query
clips are flipped, cropped and jittered; both are normalized.
"""

import dataclasses
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from molo_jax.data.clips.episodes import check_seed
from molo_jax.errors import UsageError

_GRAY_WEIGHTS = (0.299, 0.587, 0.114)

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
_QUERY_DRAWS = 12  # flip, gray, place (2), factors (3), hue, order (4)


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """What happens to query clips in training. A value of 0 switches its step off.

    Attributes:
        flip: probability of a horizontal flip.
        gray: probability of a conversion to gray in front of the color jitter.
        brightness: the factor is uniform in [1 - brightness, 1 + brightness], not below 0.
        contrast: the same for contrast.
        saturation: the same for saturation.
        hue: the shift is uniform in [-hue, hue]; 1 is a whole turn of the hue circle.
    """

    flip: float
    gray: float
    brightness: float
    contrast: float
    saturation: float
    hue: float


def episode_key(seed: int, split_name: str, index: Int[Array, ""] | int) -> Key[Array, ""]:
    """The random key of an episode; `index` may be traced and mapped over.

    Raises:
        UsageError: the seed is not in 0..2³²-1.
    """
    key = jax.random.key(np.uint32(check_seed(seed)))
    split_key = jax.random.fold_in(key, np.uint32(zlib.crc32(split_name.encode())))
    return jax.random.fold_in(split_key, index)


def train_views(
    key: Key[Array, ""],
    support: UInt8[Array | np.ndarray, "s t r r c"],
    query: UInt8[Array | np.ndarray, "q t r r c"],
    crop: int,
    config: AugmentConfig,
    normalization: tuple[float, float],
) -> tuple[Float[Array, "s t {crop} {crop} c"], Float[Array, "q t {crop} {crop} c"]]:
    """The clips of one training episode as the model gets them.

    Args:
        key: the episode's key.
        support: decoded support clips.
        query: decoded query clips.
        crop: side of the random crop, one place for all frames of a clip.
        config: what happens to the query clips in addition.
        normalization: mean and deviation, see :func:`normalize`.

    Raises:
        UsageError: the crop is larger than the frames.
    """
    _check_crop(crop, support.shape[-2])
    support_key, query_key = jax.random.split(key)
    support_draws = jax.random.uniform(support_key, (support.shape[0], 2))
    query_draws = jax.random.uniform(query_key, (query.shape[0], _QUERY_DRAWS))
    support = jax.vmap(lambda draws, clip: _crop(clip, draws, crop))(support_draws, support)
    query = jax.vmap(lambda draws, clip: _query_view(clip, draws, crop, config))(query_draws, query)
    return normalize(_to_unit(support), *normalization), normalize(query, *normalization)


def eval_views(
    clips: UInt8[Array | np.ndarray, "... r r c"],
    crop: int,
    normalization: tuple[float, float],
) -> Float[Array, "... {crop} {crop} c"]:
    """Center crop and normalization: clips as the model gets them in evaluation.

    Args:
        clips: decoded clips.
        crop: side of the crop.
        normalization: mean and deviation, see :func:`normalize`.

    Raises:
        UsageError: the crop is larger than the frames.
    """
    _check_crop(crop, clips.shape[-2])
    first = (clips.shape[-2] - crop) // 2
    window = slice(first, first + crop)
    return normalize(_to_unit(clips[..., window, window, :]), *normalization)


def normalize(pixels: Float[Array, "*axes"], mean: float, std: float) -> Float[Array, "*axes"]:
    """(pixels - mean) / std, for pixels in [0, 1]."""
    return (pixels - mean) / std


def to_gray(clip: Float[Array, "t h w c"]) -> Float[Array, "t h w c"]:
    """Luma in all three channels: .299 red + .587 green + .114 blue."""
    return jnp.broadcast_to(_luma(clip), clip.shape)


def adjust_hue(
    clip: Float[Array, "t h w c"], shift: Float[Array, ""] | float
) -> Float[Array, "t h w c"]:
    """Turns the HSV hue by `shift` of the circle; value and saturation stay.

    With V the largest channel, C = V - the smallest, and H in [0, 6) the hue:
        channel = V - C · clamp(min(k, 4 - k), 0, 1),  k = (5, 3, 1) + H + 6 shift  (mod 6)
    """
    value = jnp.max(clip, axis=-1, keepdims=True)
    chroma = value - jnp.min(clip, axis=-1, keepdims=True)
    red, green, blue = jnp.split(clip / jnp.where(chroma == 0, 1, chroma), 3, axis=-1)
    hue = jnp.where(
        clip[..., :1] == value,
        green - blue,
        jnp.where(clip[..., 1:2] == value, 2 + blue - red, 4 + red - green),
    )
    k = jnp.mod(jnp.array([5.0, 3.0, 1.0], clip.dtype) + hue + 6 * shift, 6)
    return value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)


def color_jitter(
    clip: Float[Array, "t h w c"],
    factors: Float[Array, "3"],
    hue_shift: Float[Array, ""] | None,
    order: Int[Array, "4"],
) -> Float[Array, "t h w c"]:
    """Brightness, contrast, saturation and hue, in any order.

    The first three are one formula, so mapping over clips with different orders costs six cheap
    blends, three of which do nothing, around one hue shift. A `lax.switch` over the four
    operations would compute all four of them four times.

    Args:
        clip: pixels in [0, 1].
        factors: of brightness, contrast and saturation; 1 changes nothing.
        hue_shift: in turns; None leaves the operation out.
        order: BRIGHTNESS, CONTRAST, SATURATION and HUE in the order of their application.
    """
    hue_place = jnp.argmax(order == HUE)
    places = jnp.arange(3)
    blends = order[places + (places >= hue_place)]  # the order without the hue
    amounts = factors[blends]
    if hue_shift is None:
        return _blend_all(clip, blends, amounts)
    clip = _blend_all(clip, blends, jnp.where(places < hue_place, amounts, 1.0))
    clip = adjust_hue(clip, hue_shift)
    return _blend_all(clip, blends, jnp.where(places < hue_place, 1.0, amounts))


def _crop(
    clip: UInt8[Array | np.ndarray, "t r r c"], draws: Float[Array, "2"], crop: int
) -> UInt8[Array | np.ndarray, "t {crop} {crop} c"]:
    """Cuts a square out of all frames at the place that two draws in [0, 1) name.

    Quirk kept: the offsets are below `r - crop`, never equal to it.
    """
    frames, side, _, channels = clip.shape
    if side == crop:
        return clip
    top, left = jnp.floor(draws * (side - crop)).astype(jnp.int32)
    return jax.lax.dynamic_slice(clip, (0, top, left, 0), (frames, crop, crop, channels))


def _query_view(
    clip: UInt8[Array | np.ndarray, "t r r c"],
    draws: Float[Array, "12"],
    crop: int,
    config: AugmentConfig,
) -> Float[Array, "t {crop} {crop} c"]:
    """Flip, crop, gray and jitter, with one choice of each for the whole clip."""
    flip, gray, place, jitter = draws[0], draws[1], draws[2:4], draws[4:]
    if config.flip:
        clip = jnp.where(flip < config.flip, clip[:, :, ::-1], clip)
    pixels = _to_unit(_crop(clip, place, crop))
    if config.gray:
        pixels = jnp.where(gray < config.gray, to_gray(pixels), pixels)
    return _jitter(pixels, jitter, config)


def _jitter(
    clip: Float[Array, "t h w c"], draws: Float[Array, "8"], config: AugmentConfig
) -> Float[Array, "t h w c"]:
    """Color jitter from draws in [0, 1): three factors, the hue shift, four for the order."""
    strengths = np.array([config.brightness, config.contrast, config.saturation], np.float32)
    if not strengths.any() and not config.hue:
        return clip
    lowest, highest = np.maximum(1 - strengths, 0), 1 + strengths
    factors = lowest + draws[:3] * (highest - lowest)
    hue_shift = (2 * draws[3] - 1) * config.hue if config.hue else None
    if not strengths.any():
        return adjust_hue(clip, hue_shift)
    return color_jitter(clip, factors, hue_shift, jnp.argsort(draws[4:]))


def _blend_all(
    clip: Float[Array, "t h w c"], operations: Int[Array, "n"], factors: Float[Array, "n"]
) -> Float[Array, "t h w c"]:
    for operation, factor in zip(operations, factors, strict=True):
        clip = blend(clip, operation, factor)
    return clip


def blend(
    clip: Float[Array, "t h w c"],
    operation: Int[Array, ""] | int,
    factor: Float[Array, ""] | float,
) -> Float[Array, "t h w c"]:
    """clamp(factor · clip + (1 - factor) · base); factor 1 gives back the clip exactly.

    Args:
        clip: pixels in [0, 1].
        operation: BRIGHTNESS, whose base is black; CONTRAST, each frame's mean luma; or SATURATION,
            the luma.
        factor: of the operation.
    """
    luma = _luma(clip)
    mean = jnp.mean(luma, axis=(1, 2), keepdims=True)
    base = jnp.where(operation == SATURATION, luma, jnp.where(operation == CONTRAST, mean, 0))
    return jnp.clip(factor * clip + (1 - factor) * base, 0, 1)


def _luma(clip: Float[Array, "t h w c"]) -> Float[Array, "t h w 1"]:
    return jnp.sum(clip * jnp.array(_GRAY_WEIGHTS, clip.dtype), axis=-1, keepdims=True)


def _to_unit(clips: UInt8[Array | np.ndarray, "*axes"]) -> Float[Array, "*axes"]:
    return jnp.asarray(clips, jnp.float32) / 255


def _check_crop(crop: int, side: int) -> None:
    if crop > side:
        raise UsageError(
            f"the crop of {crop} pixels is larger than the frames, which were resized to {side}; "
            "lower data.crop or raise data.resize"
        )
