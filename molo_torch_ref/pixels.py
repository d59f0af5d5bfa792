"""Which frames make a clip, and what becomes of their pixels, as functions of given parameters.

Nothing is drawn here: the caller gives every random choice. Clips are ``(t, 3, h, w)``, RGB, uint8
or a floating type in [0, 1]; the computation runs in the type that comes in, float32 for uint8.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

MEAN, STD = 0.45, 0.225
# Side of the square that frames are resized to before the crop, where nothing else is said.
RESIZE = 256
# Spacing of the window's frames, at WINDOW_FPS frames a second.
WINDOW_RATE, WINDOW_FPS = 35, 12
_LUMA = (0.299, 0.587, 0.114)


def segment_frames(length: int, draws: Tensor) -> Tensor:
    """Frame k is uniform in ``[k n, k n + n - 1]`` with ``n = length // t``.

    Args:
        length: number of frames of the video.
        draws: ``(t,)`` uniform in [0, 1).

    Returns:
        ``(t,)`` frame numbers; a video of fewer than t frames repeats them evenly.
    """
    count = len(draws)
    if length < count:
        return torch.tensor([k * length // count for k in range(count)])
    size = length // count
    return torch.arange(count) * size + (draws * size).long().clamp(max=size - 1)


def window_frames(length: int, fps: float, start: float | None, count: int = 8) -> Tensor:
    """Evenly spaced frames of a window whose length is given in seconds.

    Args:
        length: number of frames of the video.
        fps: frames a second of the video.
        start: where the window begins in the interval that is open to it, in [0, 1); None for the
            rule of tests, its middle.
        count: frames of the clip.

    Returns:
        ``(count,)`` frame numbers.
    """
    clip = count * WINDOW_RATE * fps / WINDOW_FPS
    if clip > length:
        clip = length // count * count
    begin = max(length - clip + 1, 0) * (0.5 if start is None else start)
    # Quirk kept: the rate is subtracted in frames, whatever the video's frames a second are.
    points = torch.linspace(begin, begin + clip - WINDOW_RATE, count)
    return points.clamp(0, length - 1).long()


def to_unit(clip: Tensor) -> Tensor:
    """Pixels in [0, 1]; floating pixels are taken to be so already."""
    return clip if clip.is_floating_point() else clip.float() / 255


def resize(clip: Tensor, side: int) -> Tensor:
    """Resizes to a square, ignoring the aspect ratio: bilinear, half-pixel, no antialiasing."""
    return F.interpolate(clip, (side, side), mode="bilinear", align_corners=False, antialias=False)


def crop(clip: Tensor, top: int, left: int, side: int) -> Tensor:
    """Cuts a square out of every frame, at one place."""
    return clip[..., top : top + side, left : left + side]


def center_crop(clip: Tensor, side: int) -> Tensor:
    """Cuts the square in the middle out of every frame."""
    return crop(clip, (clip.shape[-2] - side) // 2, (clip.shape[-1] - side) // 2, side)


def flip(clip: Tensor) -> Tensor:
    """Mirrors every frame horizontally."""
    return clip.flip(-1)


def normalize(clip: Tensor) -> Tensor:
    """``(pixels - 0.45) / 0.225``."""
    return (clip - MEAN) / STD


def gray(clip: Tensor) -> Tensor:
    """The luma in all three channels."""
    return _luma(clip).expand_as(clip)


def brightness(clip: Tensor, factor: float) -> Tensor:
    """Blends with black."""
    return _blend(clip, torch.zeros_like(clip), factor)


def contrast(clip: Tensor, factor: float) -> Tensor:
    """Blends each frame with the mean of its own luma."""
    return _blend(clip, _luma(clip).mean((-3, -2, -1), keepdim=True), factor)


def saturation(clip: Tensor, factor: float) -> Tensor:
    """Blends with the luma."""
    return _blend(clip, _luma(clip), factor)


def hue(clip: Tensor, shift: float) -> Tensor:
    """Turns the HSV hue by a share of the circle."""
    h, s, v = rgb_to_hsv(clip)
    return hsv_to_rgb((h + shift) % 1.0, s, v)


def rgb_to_hsv(clip: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue in [0, 1), saturation and value, each ``(t, h, w)``; the hue of a gray pixel is 0."""
    red, green, blue = clip.unbind(-3)
    value, largest = clip.max(-3)
    chroma = value - clip.amin(-3)
    divisor = torch.where(chroma > 0, chroma, 1)
    sectors = torch.stack(
        [(green - blue) / divisor % 6, (blue - red) / divisor + 2, (red - green) / divisor + 4]
    )
    sector = sectors.gather(0, largest[None])[0]
    saturated = torch.where(value > 0, chroma / torch.where(value > 0, value, 1), 0)
    return torch.where(chroma > 0, sector / 6 % 1.0, 0), saturated, value


def hsv_to_rgb(h: Tensor, s: Tensor, v: Tensor) -> Tensor:
    """The pixels ``(t, 3, h, w)`` of hue, saturation and value, by the six sectors of hue."""
    sector = (6 * h).floor()
    rest = 6 * h - sector
    low, falling, rising = v * (1 - s), v * (1 - s * rest), v * (1 - s * (1 - rest))
    table = (
        (v, rising, low),
        (falling, v, low),
        (low, v, rising),
        (low, falling, v),
        (rising, low, v),
        (v, low, falling),
    )
    of_sector = torch.stack([torch.stack(channels, -3) for channels in table])
    place = (sector.long() % 6)[None, ..., None, :, :].expand(1, *of_sector.shape[1:])
    return of_sector.gather(0, place)[0]


_OPERATIONS = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
}


@dataclasses.dataclass(frozen=True)
class QueryChoices:
    """Every random choice for a query clip in training.

    Attributes:
        flip: whether to mirror it.
        top, left: place of the crop.
        gray: whether to make it gray, in front of the jitter.
        jitter: ``brightness``, ``contrast``, ``saturation`` and ``hue`` with their amounts, in the
            order of their application.
    """

    flip: bool
    top: int
    left: int
    gray: bool
    jitter: Sequence[tuple[str, float]]


def support_view(clip: Tensor, top: int, left: int, side: int, resized: int = RESIZE) -> Tensor:
    """A support clip in training, from frames of any size: resize, crop, normalize."""
    return normalize(crop(resize(to_unit(clip), resized), top, left, side))


def query_view(clip: Tensor, choices: QueryChoices, side: int, resized: int = RESIZE) -> Tensor:
    """A query clip in training: flip, resize, crop, gray, color jitter, normalize."""
    pixels = to_unit(flip(clip) if choices.flip else clip)
    pixels = crop(resize(pixels, resized), choices.top, choices.left, side)
    if choices.gray:
        pixels = gray(pixels)
    for name, amount in choices.jitter:
        pixels = _OPERATIONS[name](pixels, amount)
    return normalize(pixels)


def evaluation_view(clip: Tensor, side: int, resized: int = RESIZE) -> Tensor:
    """A clip in evaluation: resize, center crop, normalize."""
    return normalize(center_crop(resize(to_unit(clip), resized), side))


def _luma(clip: Tensor) -> Tensor:
    red, green, blue = clip.split(1, -3)
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def _blend(clip: Tensor, other: Tensor, factor: float) -> Tensor:
    return (factor * clip + (1 - factor) * other).clamp(0, 1)
