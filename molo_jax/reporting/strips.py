"""The frames of clips side by side, as small pictures of a page; each clip is in the page once."""

import base64
import dataclasses
from collections.abc import Hashable

import cv2
import numpy as np
from jaxtyping import UInt8

from molo_jax.data.video.images import encode_jpeg

# Side of a frame in pixels, and frames of a clip that are shown.
SIDE, MOST_FRAMES = 72, 16
# White on both sides of a frame, in pixels.
_GAP = 1
_QUALITY, _CHROMA = 80, "420"


@dataclasses.dataclass(frozen=True)
class Strip:
    """The frames of a clip in one picture.

    Attributes:
        name: by which the page refers to the picture; empty where there was no room for it.
        frames: how many there are.
    """

    name: str
    frames: int

    @property
    def width(self) -> int:
        """Of the picture, in pixels."""
        return SIDE * self.frames


class Strips:
    """Collects the pictures of clips, until a number of bytes is reached.

    Args:
        most_bytes: characters that all pictures together may have in the page.

    Attributes:
        pictures: name -> the JPEG file in base64, and its width.
        left_out: how many clips have no picture.
    """

    def __init__(self, most_bytes: int):
        self.pictures: dict[str, tuple[str, int]] = {}
        self.left_out = 0
        self._room = most_bytes
        self._known: dict[Hashable, Strip] = {}

    def add(self, key: Hashable, clip: UInt8[np.ndarray, "t h w 3"]) -> Strip:
        """Adds a clip, unless it is there.

        Args:
            key: what tells this clip from others.
            clip: its frames; of more than 16 every n-th is shown.
        """
        if key not in self._known:
            self._known[key] = self._added(clip)
        return self._known[key]

    def _added(self, clip: UInt8[np.ndarray, "t h w 3"]) -> Strip:
        chosen = clip[:: -(-len(clip) // MOST_FRAMES)]
        picture = np.full((SIDE, SIDE * len(chosen), 3), 255, np.uint8)
        for place, frame in enumerate(chosen):
            how = cv2.INTER_AREA if max(frame.shape[:2]) > SIDE else cv2.INTER_NEAREST
            left = SIDE * place + _GAP
            right = left + SIDE - 2 * _GAP
            picture[:, left:right] = cv2.resize(frame, (right - left, SIDE), interpolation=how)
        file = encode_jpeg(picture, _QUALITY, _CHROMA)
        encoded = base64.b64encode(file).decode("ascii")
        if len(encoded) > self._room:
            self.left_out += 1
            return Strip("", len(chosen))
        self._room -= len(encoded)
        strip = Strip(f"clip-{len(self.pictures) + 1}", len(chosen))
        self.pictures[strip.name] = encoded, strip.width
        return strip
