"""A network for tests of the page: features are colors, so answers are known and come at once."""

import types
from pathlib import Path

import av
import jax
import numpy as np

from molo_jax.methods.settings import METHODS
from molo_jax.prediction.clips import ClipRule
from molo_jax.prediction.embedder import EmbeddedClip

COLORS = {"red": (200, 30, 30), "green": (30, 160, 40), "blue": (30, 40, 200), "gray": (90, 90, 90)}
RULE = ClipRule(num_frames=4, resize=36, crop=32)


class ColorEmbedder:
    """Stands in for an `Embedder`: a clip is the mean color of each frame.

    The distance of two clips is the mean absolute difference, in tenths of a gray level, and that
    of a class is the mean over its clips.
    """

    clips_at_once = 4

    def __init__(self, digest="c" * 64):
        self.network = types.SimpleNamespace(
            source="colors <of> tests",
            origin="knows colors & nothing else",
            digest=digest,
            rule=RULE,
            settings=METHODS["otam"](num_classes=1, backbone="resnet18"),
            precision=types.SimpleNamespace(name="tf32"),
        )
        self.structure = jax.ShapeDtypeStruct((4, 3), np.float32)
        self.embedded = 0

    def embed(self, clips):
        self.embedded += len(clips)
        return [
            EmbeddedClip(
                name=clip.name,
                digest=clip.digest,
                features=clip.pixels.mean(axis=(1, 2)).astype(np.float32),
                thumbnails=clip.thumbnails,
                numbers=clip.numbers,
                seconds=clip.seconds,
            )
            for clip in clips
        ]

    def logits(self, support, labels, query, n_way):
        distances = np.array([[np.abs(s - q).mean() / 10 for s in support] for q in query])
        members = np.eye(n_way)[np.asarray(labels)]
        return np.float32(-(distances @ members) / members.sum(axis=0))

    def leave_one_out(self, support, labels, n_way):
        labels, rows = np.asarray(labels), []
        for i in range(len(support)):
            others = np.arange(len(support)) != i
            if (labels[others] == labels[i]).any():
                left = [s for s, kept in zip(support, others, strict=True) if kept]
                rows.append(self.logits(left, labels[others], [support[i]], n_way)[0])
            else:
                rows.append(np.full(n_way, np.nan))
        return np.float32(rows)


def write_color(path: Path, color: str, shade: int = 0, frames: int = 12, rate: int = 12) -> Path:
    """Writes a video of one color, a little darker in each frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = "libvpx" if path.suffix == ".webm" else "libx264"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(frames):
            picture = np.empty((64, 96, 3), np.uint8)
            picture[:] = np.clip(np.array(COLORS[color]) + shade - number, 0, 255)
            picture[20:44, 8 + 4 * (number % 12) : 32 + 4 * (number % 12)] = 235
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return path


def write_page(classifier, prediction, path):
    """Stands in for the page that explains a prediction."""
    path.write_text(
        "<!doctype html><title>x</title><style>body{background:#eef}</style>"
        f"<p id='said'>nearest is {prediction.nearest}</p>"
        "<script>document.body.dataset.ran = 'yes'; try { parent.document.title = 'broken' }"
        " catch (e) { document.body.dataset.parent = 'closed' }</script>",
        encoding="utf-8",
    )
