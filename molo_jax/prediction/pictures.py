"""The small pictures of a page: JPEG files inside of it, each once, as many as it may hold."""

import base64
from typing import Any

from molo_jax.data.video.images import encode_jpeg

_QUALITY, _CHROMA = 80, "420"


class Pictures:
    """Collects the frames of clips until a number of bytes is reached.

    Args:
        most_bytes: characters that all pictures together may have in the page.

    Attributes:
        encoded: the pictures, each a JPEG file in base64.
        left_out: names of the clips without pictures.
    """

    def __init__(self, most_bytes: int):
        self.encoded: list[str] = []
        self.left_out: list[str] = []
        self._room = most_bytes
        # Digest of the content -> positions of its pictures.
        self._places: dict[str, list[int]] = {}

    def add(self, clip: Any) -> list[int]:
        """Adds the frames of a clip, unless they are there.

        Returns:
            The positions of its frames in `encoded`; none where there is no room for all of them.
        """
        if clip.digest in self._places:
            return self._places[clip.digest]
        files = [
            base64.b64encode(encode_jpeg(frame, _QUALITY, _CHROMA)).decode("ascii")
            for frame in clip.thumbnails
        ]
        needed, first = sum(map(len, files)), len(self.encoded)
        if needed > self._room:
            self.left_out.append(clip.name)
            self._places[clip.digest] = []
            return []
        self._room -= needed
        self.encoded += files
        self._places[clip.digest] = list(range(first, len(self.encoded)))
        return self._places[clip.digest]
