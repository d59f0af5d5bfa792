"""The clips and the network of the benchmark of predictions."""

from pathlib import Path

import av
import cv2
import numpy as np
from flax import nnx

from molo_jax.engine.state import create_model
from molo_jax.methods.settings import METHODS
from molo_jax.weights import torch_files
from molo_jax.weights.networks import fixed_buffers
from molo_jax.weights.torch_map import export_tensors

WIDTH, HEIGHT, RATE, SECONDS = 320, 240, 25, 4
TRAINING_CLASSES = 64


def write_clips(root: Path, classes: int, clips: int, queries: int) -> None:
    """Writes `support/<class>/<clip>.mp4` and `queries/<query>.mp4` below a folder."""
    rng = np.random.default_rng(0)
    for number in range(classes):
        for clip in range(clips):
            write_clip(root / f"support/class{number}/{clip}.mp4", rng)
    for query in range(queries):
        write_clip(root / f"queries/{query}.mp4", rng)


def write_clip(path: Path, rng: np.random.Generator) -> None:
    """Writes a textured ground that moves, with noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ground = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 4, 3), np.uint8)
    ground = cv2.resize(ground, (2 * WIDTH, HEIGHT), None, 0, 0, cv2.INTER_CUBIC)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(RATE * SECONDS):
            frame = ground[:, 2 * number : 2 * number + WIDTH].astype(np.int16)
            frame = np.clip(frame + rng.integers(-6, 7, frame.shape), 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())


def write_weights(path: Path, backbone: str) -> Path:
    """Writes a MoLo with random weights as the official code does."""
    settings = METHODS["molo"](num_classes=TRAINING_CLASSES, backbone=backbone)
    states = create_model(settings, seed=0)[1:]
    leaves = [pair for state in states for pair in nnx.to_flat_state(state)]
    variables = {name: np.asarray(leaf[...]) for name, leaf in leaves}
    torch_files.write(path, export_tensors(variables, fixed_buffers(settings)))
    return path
