"""Video files like those of the benchmarks: codec, container, size, length and bit rate.

A picture is a textured ground seen by a hand-held camera, textured objects that move across it,
and the noise of a sensor, so that an encoder has about as much to do as with filmed scenes. Every
video is a function of the seed, its kind, class and number.
"""

import concurrent.futures
import dataclasses
import functools
import math
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import tqdm

from molo_jax.data.store.processes import cores, follow_parent, undisturbed
from molo_jax.errors import MoloError, shortened
from molo_jax.files import parse_json, write_json

# Goes up when what is drawn changes, so that older files are not taken for the same.
_GENERATOR = 1
_NOTE = "clips.json"
# Pixels of ground around the picture, for the camera to move over.
_MARGIN = 96


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        title: what it is, for the output.
        dataset: the data set that it is like, by its name in molo_jax.
        sampling: the rule that chooses frames of it, one of `molo_jax.data.video.frames.SAMPLINGS`.
        height, width: pixels of a frame.
        fps: frames a second.
        seconds: duration.
        codec: encoder.
        options: its options.
        tag: its codec tag, where it is not the usual one.
        line: a line of the split list.
        extension: of the file, where the list does not name it.
    """

    title: str
    dataset: str
    sampling: str
    height: int
    width: int
    fps: int
    seconds: float
    codec: str
    options: Mapping[str, str]
    line: str
    tag: str = ""
    extension: str = ""

    def frames(self, seconds_scale: float) -> int:
        """Number of frames of a video; no less than a clip has."""
        return max(8, round(self.seconds * self.fps * seconds_scale))

    def list_line(self, class_id: int, number: int) -> str:
        """The line of the split list for a video."""
        return self.line.format(c=class_id, n=number, id=1000 * class_id + number)

    def path(self, class_id: int, number: int) -> str:
        """The file of a video below the video folder."""
        return self.list_line(class_id, number).partition("/")[2].lstrip("/") + self.extension


KINDS = {
    "ssv2": Kind(
        title="240×427 VP9 webm",
        dataset="ssv2",
        sampling="segments",
        height=240,
        width=427,
        fps=12,
        seconds=4,
        codec="libvpx-vp9",
        options={"crf": "33", "b": "0", "deadline": "good", "cpu-used": "5"},
        line="train{c}/{id}",
        extension=".webm",
    ),
    "kinetics": Kind(
        title="340×256 H.264 mp4",
        dataset="kinetics100",
        sampling="window",
        height=256,
        width=340,
        fps=30,
        seconds=10,
        codec="libx264",
        options={"crf": "23", "preset": "medium"},
        line="train{c}//train_256/class_{c}/v{id:010d}_000012_000022.mp4",
    ),
    "ucf101": Kind(
        title="320×240 XviD avi",
        dataset="ucf101",
        sampling="segments",
        height=240,
        width=320,
        fps=25,
        seconds=7,
        codec="mpeg4",
        options={"b": "600k", "bf": "0", "g": "300"},
        tag="XVID",
        line="train{c}//videos/Class{c}/v_Class{c}_g{n:02d}_c01.avi",
    ),
}


def make_clips(
    folder: Path, kind: str, *, classes: int, videos_per_class: int, seconds_scale: float, seed: int
) -> None:
    """Writes `videos/` and `splits/train_few_shot.txt`; videos that are there are kept.

    Raises:
        MoloError: the folder holds videos of other settings, or cannot be written.
    """
    made = {"generator": _GENERATOR, "kind": kind, "seconds_scale": seconds_scale, "seed": seed}
    places = [(c, n) for c in range(classes) for n in range(videos_per_class)]
    try:
        _claim(folder, made)
        todo = [p for p in places if not (folder / "videos" / KINDS[kind].path(*p)).exists()]
        if todo:
            _write_all(functools.partial(_write_video, folder, kind, seconds_scale, seed), todo)
        lines = "".join(f"{KINDS[kind].list_line(*place)}\n" for place in places)
        (folder / "splits").mkdir(exist_ok=True)
        (folder / "splits" / "train_few_shot.txt").write_text(lines)
    except OSError as error:
        raise MoloError(f"cannot write the videos in {folder}: {error}") from error


def _claim(folder: Path, made: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / _NOTE
    if not note.exists():
        write_json(note, made)
        return
    try:
        found = parse_json(note.read_bytes())
        said = shortened(str(found))
    except ValueError:
        found, said = None, "unknown settings"
    if found != made:
        raise MoloError(
            f"{folder} holds videos made with {said}, asked for is {made}; remove the folder, or"
            " choose another with --clips"
        )


def _write_all(write: Any, places: list[tuple[int, int]]) -> None:
    # A forked child of a process with threads can deadlock.
    spawn = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(
        cores(), mp_context=spawn, initializer=follow_parent
    )
    with pool, tqdm.tqdm(total=len(places), unit="video", desc="generate", disable=None) as bar:
        try:
            for _ in undisturbed(lambda: pool.map(write, places)):
                bar.update()
        finally:
            pool.shutdown(cancel_futures=True)


def _write_video(
    folder: Path, kind: str, seconds_scale: float, seed: int, place: tuple[int, int]
) -> None:
    """Writes one file; it appears whole or not at all."""
    cv2.setNumThreads(0)
    rng = np.random.default_rng([seed, list(KINDS).index(kind), *place])
    path = folder / "videos" / KINDS[kind].path(*place)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        encode(partial, KINDS[kind], pictures(rng, KINDS[kind], KINDS[kind].frames(seconds_scale)))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def encode(path: Path, kind: Kind, frames: Iterator[np.ndarray]) -> None:
    """Encodes frames, (h, w, 3) uint8 each, as files of the kind are."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(kind.codec, rate=kind.fps, options=dict(kind.options))
        stream.height, stream.width, stream.pix_fmt = kind.height, kind.width, "yuv420p"
        # With several threads an encoder need not give the same bits each time.
        stream.codec_context.thread_count = 1
        if kind.tag:
            stream.codec_context.codec_tag = kind.tag
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, "rgb24")
            container.mux(stream.encode(picture.reformat(format="yuv420p")))
        container.mux(stream.encode())


def pictures(rng: np.random.Generator, kind: Kind, count: int) -> Iterator[np.ndarray]:
    """Yields the frames of one scene, (h, w, 3) uint8."""
    height, width = kind.height, kind.width
    ground = _texture(rng, height + 2 * _MARGIN, width + 2 * _MARGIN)
    objects = [_Object(rng, height, width) for _ in range(rng.integers(2, 6))]
    pan, shake = _Path(rng, 0.7 * _MARGIN, 0.1), _Path(rng, 1.5, 1.5)
    zoom, noise = rng.uniform(0, 0.1), rng.uniform(0.006, 0.012)
    for seconds in np.arange(count) / kind.fps:
        x, y = pan(seconds) + shake(seconds) + _MARGIN
        scale = 1 + zoom * math.sin(seconds)
        view = np.float32([[scale, 0, x], [0, scale, y]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        picture = cv2.warpAffine(ground, view, (width, height), None, flags, cv2.BORDER_REFLECT)
        for thing in objects:
            thing.draw(picture, seconds)
        picture += noise * rng.standard_normal((height, width, 1), np.float32)
        yield (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A pattern with the edges and the detail of natural scenes, (h, w, 3) float32.

    "Dead leaves": ellipses that cover each other, of sizes with a power law, under a fine grain.
    """
    color = rng.uniform(0.3, 0.6, 3)
    pattern = np.full((height, width, 3), color, np.float32)
    for _ in range(height * width // 60):
        radius = min(3 / rng.uniform() ** 0.5, height / 4)
        axes = radius * np.array([1, rng.uniform(0.3, 1)])
        leaf = color + rng.normal(0, 0.16) + rng.normal(0, 0.05, 3)
        center = rng.uniform(0, (width, height))
        shape = (tuple(map(float, center)), tuple(map(float, 2 * axes)), rng.uniform(0, 180))
        cv2.ellipse(pattern, shape, tuple(map(float, leaf)), cv2.FILLED)
    pattern = cv2.GaussianBlur(pattern, (0, 0), 0.7)
    return pattern + _grain(rng, height, width)


def _grain(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    grain = np.zeros((height, width), np.float32)
    for size in (32, 8, 3):
        grid = rng.standard_normal((height // size + 2, width // size + 2), np.float32)
        grain += 0.02 * cv2.resize(grid, (width, height), None, 0, 0, cv2.INTER_CUBIC)
    return grain[..., None]


class _Path:
    """A smooth wandering of a point: sums of three waves in x and in y."""

    def __init__(self, rng: np.random.Generator, reach: float, rate: float):
        self._reach = reach * rng.dirichlet(np.ones(3), 2)
        self._rates = 2 * math.pi * rate * rng.uniform(0.4, 1.6, (2, 3))
        self._phases = rng.uniform(0, 2 * math.pi, (2, 3))

    def __call__(self, seconds: float) -> np.ndarray:
        return (self._reach * np.sin(self._rates * seconds + self._phases)).sum(1)


class _Object:
    """A textured ellipse that wanders over the picture and turns."""

    def __init__(self, rng: np.random.Generator, height: int, width: int):
        side = int(rng.uniform(0.15, 0.45) * height)
        self._size = (width, height)
        self._pattern = _texture(rng, side, side)
        y, x = (np.mgrid[:side, :side] + 0.5) / side * 2 - 1
        edge = 1 - np.hypot(x, y * rng.uniform(1, 2))
        self._cover = np.clip(edge * side / 4, 0, 1).astype(np.float32)
        self._center = rng.uniform(0.2, 0.8, 2) * (width, height)
        self._path = _Path(rng, 0.4 * height, 0.25)
        self._turn, self._side = rng.uniform(-2, 2), side

    def draw(self, picture: np.ndarray, seconds: float) -> None:
        """Puts the object into the picture as it is at a time."""
        middle = self._side / 2
        place = cv2.getRotationMatrix2D((middle, middle), math.degrees(self._turn * seconds), 1.0)
        place[:, 2] += self._center + self._path(seconds) - middle
        pattern = cv2.warpAffine(self._pattern, place, self._size)
        cover = cv2.warpAffine(self._cover, place, self._size)[..., None]
        picture *= 1 - cover
        picture += cover * pattern
