"""A generated few-shot video dataset whose classes are motions and nothing else.

A class is a way of moving: a trajectory (a direction, a circle, an oscillation or none), a rotation
and a change of size. Everything else is drawn anew for every video, independently of the class:
shape, colors, texture, background, speed, duration and the state in which the motion starts. The
states lie on circles (position wraps around, the angle does, growth restarts), start uniformly on
them and move along them, so at every instant the state has the same distribution whatever the
class: one frame says nothing about the class.
"""

import concurrent.futures
import dataclasses
import functools
import itertools
import json
import math
import multiprocessing
import os
import pathlib
from collections.abc import Iterator, Mapping

import av
import numpy as np
from jaxtyping import Float, UInt8

from molo_jax.console import Progress
from molo_jax.data.lists.division import DEFAULT_RATIO
from molo_jax.data.lists.splits import SPLIT_FILE, STANDARD_SPLITS
from molo_jax.data.store.processes import cores, follow_parent, undisturbed
from molo_jax.errors import MoloError, shortened
from molo_jax.files import parse_json, replacing, write_text

# Directions of straight motion, counter-clockwise, as multiples of 45 degrees from the right.
_DIRECTIONS = {
    "right": 0,
    "up_right": 1,
    "up": 2,
    "up_left": 3,
    "left": 4,
    "down_left": 5,
    "down": 6,
    "down_right": 7,
}
# Axes of oscillation, in degrees from the horizontal.
_SWINGS = {
    "swing_horizontal": 0.0,
    "swing_rising": 45.0,
    "swing_vertical": 90.0,
    "swing_falling": 135.0,
}
_CIRCLES = {"circle_left": 1.0, "circle_right": -1.0}
TRAJECTORIES = ("still", *_DIRECTIONS, *_SWINGS, *_CIRCLES)
ROTATIONS = {"": 0.0, "spin_left": 1.0, "spin_right": -1.0}
GROWTHS = ("", "grow", "shrink", "pulse")

# Number of classes of each split.
SPLIT_CLASSES = dict(zip(STANDARD_SPLITS, DEFAULT_RATIO, strict=True))
VIDEOS_PER_CLASS = {"train": 30, "val": 20, "test": 20}
# Fixes which motions are the classes of which split; the same for every dataset.
_CLASS_SEED = 2023

FRAME_RATE = 8
_WIDTH, _HEIGHT = 64, 48
_SECONDS = (2.0, 3.0)
# Speeds, in frame widths, circles or turns a second.
_TRAVEL_SPEED = 0.5
_CIRCLE_SPEED = 0.5
_CIRCLE_RADIUS = 0.22
_SWING_SPEED = 0.8
_SWING_REACH = 0.28
_SPIN_SPEED = 0.45
_GROWTH_SPEED = 0.45
_PULSE_SPEED = 0.8
_SPEED_JITTER = 0.15
# Smallest and largest radius of an object, in frame widths.
_RADII = (0.09, 0.26)


@dataclasses.dataclass(frozen=True)
class Motion:
    """A class: how the object travels, turns and changes its size."""

    trajectory: str
    rotation: str
    growth: str

    @property
    def name(self) -> str:
        """The parts that differ from rest, joined by ``+``."""
        return "+".join(part for part in (self.trajectory, self.rotation, self.growth) if part)


@functools.cache
def classes() -> dict[str, tuple[Motion, ...]]:
    """The motions of each split; no motion is in two splits."""
    motions = [Motion(*parts) for parts in itertools.product(TRAJECTORIES, ROTATIONS, GROWTHS)]
    motions.remove(Motion("still", "", ""))
    order = iter(np.random.default_rng(_CLASS_SEED).permutation(len(motions)))
    return {
        split: tuple(motions[i] for i in itertools.islice(order, count))
        for split, count in SPLIT_CLASSES.items()
    }


def _triangle_wave(phase: Float[np.ndarray, "t"]) -> Float[np.ndarray, "t"]:
    """Goes from 0 to 1 and back within one period; a uniform phase gives a uniform value."""
    return 1.0 - np.abs(2.0 * (phase % 1.0) - 1.0)


def _path(trajectory: str, seconds: Float[np.ndarray, "t"], rng, speed: float):
    """Center of the object at each time, in frame widths on a torus of circumference one."""
    start = rng.uniform(size=2)[:, None]
    phase = rng.uniform()
    if trajectory in _DIRECTIONS:
        angle = math.radians(45.0 * _DIRECTIONS[trajectory])
        distance = _TRAVEL_SPEED * speed * seconds
        offset = np.stack([math.cos(angle) * distance, -math.sin(angle) * distance])
    elif trajectory in _CIRCLES:
        turn = 2 * np.pi * (_CIRCLES[trajectory] * _CIRCLE_SPEED * speed * seconds + phase)
        offset = _CIRCLE_RADIUS * np.stack([np.cos(turn), -np.sin(turn)])
    elif trajectory in _SWINGS:
        angle = math.radians(_SWINGS[trajectory])
        reach = _SWING_REACH * (2 * _triangle_wave(_SWING_SPEED * speed * seconds + phase) - 1)
        offset = np.stack([math.cos(angle) * reach, -math.sin(angle) * reach])
    else:
        offset = np.zeros((2, len(seconds)))
    return (start + offset) % 1.0


def _radius(growth: str, seconds: Float[np.ndarray, "t"], rng, speed: float):
    """Radius of the object at each time, in frame widths; its logarithm is uniform at each time."""
    phase = rng.uniform()
    if growth == "pulse":
        level = _triangle_wave(phase + _PULSE_SPEED * speed * seconds)
    else:
        direction = {"": 0.0, "grow": 1.0, "shrink": -1.0}[growth]
        level = (phase + direction * _GROWTH_SPEED * speed * seconds) % 1.0
    low, high = np.log(_RADII)
    return np.exp(low + (high - low) * level)


def _outline(rng: np.random.Generator) -> Float[np.ndarray, "720"]:
    """Relative radius of a random shape in 720 directions: a polygon, an ellipse or a star."""
    angle = np.arange(720) * (2 * np.pi / 720)
    kind = rng.integers(3)
    if kind == 0:
        corners = int(rng.integers(3, 6))
        sector = 2 * np.pi / corners
        profile = math.cos(sector / 2) / np.cos(angle % sector - sector / 2)
    elif kind == 1:
        ratio = rng.uniform(0.5, 0.8)
        profile = ratio / np.hypot(ratio * np.cos(angle), np.sin(angle))
    else:
        profile = 1.0 - rng.uniform(0.2, 0.35) * (1 - np.cos(int(rng.integers(3, 6)) * angle))
    return profile


def _texture(rng: np.random.Generator, u, v):
    """A random pattern of plane waves in the given coordinates, in [-1, 1]."""
    kind = rng.integers(3)
    frequency, angle, phase = rng.uniform(2, 5), rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
    along = np.sin(2 * np.pi * frequency * (math.cos(angle) * u + math.sin(angle) * v) + phase)
    if kind == 0:
        return np.zeros_like(along)
    across = np.sin(2 * np.pi * frequency * (math.cos(angle) * v - math.sin(angle) * u))
    return along if kind == 1 else along * across


def render(motion: Motion, rng: np.random.Generator) -> UInt8[np.ndarray, "t h w 3"]:
    """Draws one video of a class.

    Args:
        motion: the class.
        rng: source of everything that the class leaves open.

    Returns:
        The frames, at :data:`FRAME_RATE` a second.
    """
    seconds = np.arange(round(rng.uniform(*_SECONDS) * FRAME_RATE)) / FRAME_RATE
    speeds = rng.uniform(1 - _SPEED_JITTER, 1 + _SPEED_JITTER, 3)
    center = _path(motion.trajectory, seconds, rng, speeds[0])
    turn = rng.uniform() + ROTATIONS[motion.rotation] * _SPIN_SPEED * speeds[1] * seconds
    radius = _radius(motion.growth, seconds, rng, speeds[2])

    y, x = np.meshgrid(
        (np.arange(_HEIGHT) + 0.5) / _HEIGHT, (np.arange(_WIDTH) + 0.5) / _WIDTH, indexing="ij"
    )
    dx, dy = (
        (grid[None] - position[:, None, None] + 0.5) % 1.0 - 0.5
        for grid, position in ((x, center[0]), (y, center[1]))
    )
    cos, sin = (f(2 * np.pi * turn)[:, None, None] for f in (np.cos, np.sin))
    size = radius[:, None, None]
    u, v = (dx * cos - dy * sin) / size, (dx * sin + dy * cos) / size
    bearing = (np.arctan2(v, u) * (720 / (2 * np.pi))).astype(np.int64) % 720
    edge = (_outline(rng)[bearing] - np.hypot(u, v)) * size * _WIDTH
    cover = np.clip(edge + 0.5, 0.0, 1.0)[..., None]

    front, back, ground = (
        rng.uniform(0.55, 1.0, 3),
        rng.uniform(0.3, 0.7, 3),
        rng.uniform(0, 0.3, 3),
    )
    half = np.clip(u * size * _WIDTH + 0.5, 0.0, 1.0)[..., None]
    pattern = 1 + rng.uniform(0, 0.25) * _texture(rng, u / 2, v / 2)[..., None]
    inside = (half * front + (1 - half) * back) * pattern
    outside = ground + rng.uniform(0, 0.08) * _texture(rng, x, y)[None, ..., None]
    picture = cover * inside + (1 - cover) * outside
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def write_video(path: pathlib.Path, frames: UInt8[np.ndarray, "t h w 3"]) -> None:
    """Encodes frames as H.264 in MP4; the file appears whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with (
        replacing(path, part) as temporary,
        av.open(str(temporary), "w", format="mp4") as container,
    ):
        stream = container.add_stream("libx264", rate=FRAME_RATE)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # A constant quantizer: with rate control, x264 does not give the same bits each time.
        stream.options = {"qp": "18", "preset": "veryfast", "threads": "1"}
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            # The same holds for this conversion where it is left to the encoder.
            container.mux(stream.encode(picture.reformat(format="yuv420p")))
        container.mux(stream.encode())


@dataclasses.dataclass(frozen=True)
class _Job:
    """One video to make; its content depends on nothing but these fields."""

    split: str
    class_index: int
    number: int
    seed: int

    @property
    def motion(self) -> Motion:
        return classes()[self.split][self.class_index]

    @property
    def name(self) -> str:
        return f"{self.motion.name}/{self.split}_{self.class_index:02d}_{self.number:04d}.mp4"

    def rng(self) -> np.random.Generator:
        split = list(SPLIT_CLASSES).index(self.split)
        return np.random.default_rng([self.seed, split, self.class_index, self.number])


def _make(videos: pathlib.Path, job: _Job) -> None:
    write_video(videos / job.name, render(job.motion, job.rng()))


def generate(
    out: pathlib.Path,
    *,
    seed: int = 0,
    videos_per_class: Mapping[str, int] | None = None,
    workers: int = 0,
) -> None:
    """Writes the dataset: ``out/videos/<class>/*.mp4`` and ``out/splits/<split>_few_shot.txt``.

    Every video is a pure function of the seed, its class and its number. An interrupted call is
    resumed by calling again: whole videos are kept, and the split lists are written last.

    Args:
        out: folder of the dataset; created if need be.
        seed: fixes every pixel.
        videos_per_class: number of videos of each class, by split; of the others as in
            :data:`VIDEOS_PER_CLASS`.
        workers: number of processes; 0 for one per CPU core.

    Raises:
        MoloError: if the folder holds a dataset made with other settings, or cannot be written.
    """
    counts = {**VIDEOS_PER_CLASS, **(videos_per_class or {})}
    try:
        _keep_settings(out, {"seed": seed, "videos_per_class": counts})
        videos = out / "videos"
        jobs = list(_jobs(seed, counts))
        for folder in sorted({(videos / job.name).parent for job in jobs}):
            folder.mkdir(parents=True, exist_ok=True)
        for leftover in videos.glob("*/.*.part"):
            leftover.unlink()
        _run(videos, [job for job in jobs if not (videos / job.name).exists()], workers)
        _write_splits(out / "splits", jobs)
    except OSError as error:
        raise MoloError(f"cannot write the dataset in {out}: {error}") from error


def _keep_settings(out: pathlib.Path, settings: dict) -> None:
    """Notes the settings in the folder, or checks that they are those noted there."""
    note = out / "dataset.json"
    out.mkdir(parents=True, exist_ok=True)
    if note.exists():
        try:
            found = parse_json(note.read_bytes())
            said = shortened(str(found))
        except ValueError:
            found, said = None, "unknown settings"
        if found != settings:
            raise MoloError(
                f"{out} holds a dataset made with {said}, asked for is {settings};"
                " delete the folder or choose another"
            )
        return
    write_text(note, json.dumps(settings, indent=1))


def _jobs(seed: int, counts: Mapping[str, int]) -> Iterator[_Job]:
    for split, motions in classes().items():
        for index in range(len(motions)):
            for number in range(counts[split]):
                yield _Job(split, index, number, seed)


def _run(videos: pathlib.Path, jobs: list[_Job], workers: int) -> None:
    # A forked child of a process with threads (JAX has some) can deadlock.
    spawn = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(
        workers or cores(),
        mp_context=spawn,
        initializer=follow_parent,
    )
    with Progress("generate", "videos", len(jobs)) as progress, pool:
        try:
            make = functools.partial(_make, videos)
            # Hands over all jobs, which starts the processes.
            for _ in undisturbed(lambda: pool.map(make, jobs, chunksize=8)):
                progress.update(1)
        finally:
            pool.shutdown(cancel_futures=True)


def _write_splits(folder: pathlib.Path, jobs: list[_Job]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLIT_CLASSES:
        lines = [f"{split}{j.class_index}//{j.name}\n" for j in jobs if j.split == split]
        write_text(folder / SPLIT_FILE.format(split=split), "".join(lines))
