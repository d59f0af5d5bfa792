"""A label with a bar for its probability, drawn onto a frame."""

import dataclasses
import functools
import logging
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import UInt8
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

_LOG = logging.getLogger(__name__)

# Height of the letters as a part of the shorter side of the frame, and in pixels at least.
_LETTER_SHARE, _SMALLEST_LETTER = 1 / 20, 8
# Red, green, blue and opacity. White on this dark ground is readable whatever is behind it.
_GROUND, _TEXT, _RAIL, _BAR = (
    (0, 0, 0, 180),
    (255, 255, 255, 255),
    (140, 140, 140, 255),
    (64, 196, 99),
)
# A panel is at least as wide as so many letters are high, so that bars can be compared.
_NARROWEST = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Panel:
    """A picture that is laid over the lower left corner of frames of one size.

    Attributes:
        colors: RGB, multiplied by the opacity.
        rest: what is left of the frame below, from 0 to 1.
        margin: distance from the left and the lower edge of the frame in pixels.
    """

    colors: np.ndarray
    rest: np.ndarray
    margin: int

    def lay_over(self, frame: UInt8[np.ndarray, "h w 3"]) -> None:
        """Draws the panel onto a frame, in place."""
        height, width = self.rest.shape[:2]
        bottom = frame.shape[0] - self.margin
        below = frame[bottom - height : bottom, self.margin : self.margin + width]
        np.copyto(below, np.rint(below * self.rest + self.colors), casting="unsafe")


def draw_panel(
    text: str, probability: float, frame_size: tuple[int, int], font: str | None = None
) -> Panel:
    """Draws a text with a bar below it.

    Args:
        text: one line; its end is left out where the frame is too narrow for it.
        probability: the part of the bar that is filled, from 0 to 1.
        frame_size: height and width of the frames in pixels.
        font: a font file; by default `font_for` chooses.

    Returns:
        The panel; it lies within the frame.
    """
    height, width = frame_size
    letter = max(_SMALLEST_LETTER, round(min(frame_size) * _LETTER_SHARE))
    letters = ImageFont.truetype(font or font_for(text), letter)
    pad, bar = max(1, letter // 3), max(2, letter // 5)
    margin = min(letter, *frame_size) // 4
    widest = max(width - 2 * margin, 1)
    text = _shortened(text, letters, widest - 2 * pad)
    line = sum(letters.getmetrics())
    size = (
        min(widest, max(round(letters.getlength(text)), _NARROWEST * letter) + 2 * pad),
        min(max(height - 2 * margin, 1), line + bar + 3 * pad),
    )
    image = Image.new("RGBA", size, _GROUND)
    draw = ImageDraw.Draw(image)
    draw.text((pad, pad), text, font=letters, fill=_TEXT)
    left, right = pad, size[0] - pad
    top, bottom = size[1] - pad - bar, size[1] - pad
    if right > left and bottom > top > 0:
        image.paste(_RAIL, (left, top, right, bottom))
        filled = left + round((right - left) * min(max(probability, 0.0), 1.0))
        image.paste(_BAR, (left, top, filled, bottom))
    pixels = np.asarray(image, np.float32)
    opacity = pixels[..., 3:] / 255
    return Panel(pixels[..., :3] * opacity, 1 - opacity, margin)


def _shortened(text: str, letters: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, or as much of its beginning as fits, with a sign that something is left out."""
    if letters.getlength(text) <= width:
        return text
    kept = len(text) - 1
    while kept > 0 and letters.getlength(text[:kept] + "…") > width:
        kept -= 1
    return text[:kept] + "…"


@functools.lru_cache(maxsize=64)
def font_for(text: str) -> str:
    """Finds a font file that has all letters of a text.

    DejaVu Sans, which comes with matplotlib, has the Latin, Greek, Cyrillic, Armenian and Georgian
    letters. Of Hebrew and Arabic it has the letters, but they are neither joined nor written from
    right to left. It has no Chinese, Japanese, Korean, Thai or Indian signs: for these the fonts of
    the system are searched. Where none has all letters, boxes stand for the missing ones, and a
    warning says so.
    """
    usual = str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
    if _has_letters(usual, text):
        return usual
    for path in _fonts_of_the_system():
        if _has_letters(path, text):
            return path
    _LOG.warning(
        "no font of this machine has all letters of %r; install one (for Chinese, Japanese and"
        " Korean, Noto Sans CJK), or give a font file",
        text,
    )
    return usual


def _fonts_of_the_system() -> list[str]:
    # Only where it is needed: the first import on a machine looks at all its fonts.
    from matplotlib import font_manager

    entries = sorted(
        font_manager.fontManager.ttflist,
        key=lambda entry: (entry.style != "normal", abs(_weight(entry.weight) - 400), entry.fname),
    )
    # The font of last resort has a box for everything.
    return [entry.fname for entry in entries if "lastresort" not in entry.fname.lower()]


def _weight(weight: int | str) -> int:
    return weight if isinstance(weight, int) else 400


def _has_letters(path: str, text: str) -> bool:
    try:
        known = FT2Font(path).get_charmap()
    except (OSError, RuntimeError):
        return False
    return all(ord(letter) in known for letter in text if not letter.isspace())
