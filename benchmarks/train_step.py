"""Times one training step and one evaluation forward of MoLo, on random arrays.

    python benchmarks/train_step.py --backbone=resnet18 --crop=32 --query=1

prints seconds and episodes a second (median over the counted steps, after compilation) and the peak
memory of the process or of the accelerator. No video is read and TensorFlow is not imported.
"""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from molo_jax.model import Episode, LossWeights, MoLoConfig
from molo_jax.model.resnet import BACKBONES, STRIDE
from molo_jax.training.optimizer import make_optimizer
from molo_jax.training.state import count_parameters, create_model, create_state
from molo_jax.training.step import chunked, make_embed, make_mesh, make_train_step

CLASSES = 64


def main() -> None:
    """Runs both measurements and prints them."""
    options = _options()
    config = MoLoConfig(num_classes=CLASSES, backbone=options.backbone)
    graphdef, params, stats = create_model(config, seed=0)
    clips = options.way * (options.shot + options.query)
    print(
        f"{options.backbone}, {count_parameters(params) / 1e6:.1f} M parameters, "
        f"crop {options.crop}, {options.frames} frames, {options.way}-way {options.shot}-shot "
        f"{options.query} queries a class ({clips} clips an episode), "
        f"{options.episodes} episodes a step, "
        f"{options.microbatch} at once, on {len(jax.devices())} {jax.devices()[0].device_kind}"
    )
    _report("evaluation", options, _forward(options, graphdef, params, stats))
    _report("training", options, _training(options, graphdef, params, stats))
    print(f"peak memory {_peak_memory() / 2**20:.0f} MiB")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", choices=BACKBONES, default="resnet18")
    parser.add_argument("--crop", type=int, default=32, help="side of the square input, pixels")
    parser.add_argument("--frames", type=int, default=8, help="frames of a clip")
    parser.add_argument("--way", type=int, default=5, help="classes of an episode")
    parser.add_argument("--shot", type=int, default=1, help="support clips of a class")
    parser.add_argument("--query", type=int, default=1, help="query clips of a class")
    parser.add_argument("--episodes", type=int, default=1, help="episodes of an optimizer step")
    parser.add_argument("--microbatch", type=int, default=1, help="episodes computed at once")
    parser.add_argument("--steps", type=int, default=20, help="counted steps")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them, not counted")
    options = parser.parse_args()
    counts = ("frames", "way", "shot", "query", "episodes", "microbatch", "steps")
    for name in counts:
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}; expected at least 1")
    if options.crop < STRIDE or options.crop % STRIDE:
        parser.error(f"--crop is {options.crop}; expected a multiple of {STRIDE}")
    if not 2 <= options.frames <= 19:
        parser.error(f"--frames is {options.frames}; expected 2 to 19")
    if options.episodes % options.microbatch or options.microbatch % len(jax.devices()):
        parser.error(
            f"--microbatch is {options.microbatch}; expected a divisor of --episodes "
            f"({options.episodes}) and a multiple of the number of devices ({len(jax.devices())})"
        )
    return options


def _arrays(options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Random episodes, already normalized."""
    rng = np.random.default_rng(0)
    arrays = {"index": np.arange(options.episodes, dtype=np.int32)}
    for name, each in (("support", options.shot), ("query", options.query)):
        labels = np.repeat(np.arange(options.way, dtype=np.int32), each)
        size = (options.episodes, len(labels), options.frames, options.crop, options.crop, 3)
        arrays[name] = rng.standard_normal(size, np.float32)
        arrays[f"{name}_labels"] = np.broadcast_to(labels, size[:2])
        arrays[f"{name}_classes"] = arrays[f"{name}_labels"]
    return arrays


def _forward(options: argparse.Namespace, graphdef, params, stats) -> Callable[[], None]:
    embed = make_embed(graphdef, preprocess=lambda clips: clips, mesh=make_mesh())
    arrays = _arrays(options)
    clips = np.concatenate([arrays["support"][0], arrays["query"][0]])
    clips = jnp.asarray(np.concatenate([clips] * len(jax.devices())))

    def forward():
        for _ in range(max(1, options.episodes // len(jax.devices()))):
            jax.block_until_ready(embed(params, stats, clips))

    return forward


def _training(options: argparse.Namespace, graphdef, params, stats) -> Callable[[], None]:
    optimizer = make_optimizer(lambda step: 1e-4)
    step = make_train_step(
        graphdef,
        optimizer,
        preprocess=lambda arrays, key: Episode(**{k: v for k, v in arrays.items() if k != "index"}),
        episode_key=lambda index: jax.random.fold_in(jax.random.key(0), index),
        weights=LossWeights(classification=0.8, contrast=0.05, reconstruction=0.1),
        n_way=options.way,
        mesh=make_mesh(),
    )
    batch = jax.tree.map(jnp.asarray, chunked(_arrays(options), options.microbatch))
    current = create_state(params, stats, optimizer)

    def train():
        nonlocal current
        current, _ = step(current, batch)
        jax.block_until_ready(current)

    return train


def _report(what: str, options: argparse.Namespace, run: Callable[[], None]) -> None:
    for _ in range(options.warmup):
        run()
    seconds = []
    for _ in range(options.steps):
        start = time.perf_counter()
        run()
        seconds.append((time.perf_counter() - start) / options.episodes)
    median = statistics.median(seconds)
    print(
        f"{what}: {median:.4f} s an episode ({min(seconds):.4f} to {max(seconds):.4f}), "
        f"{1 / median:.2f} episodes/s"
    )


def _peak_memory() -> int:
    """Peak bytes of the accelerator, or of the process where the device does not say."""
    stats = jax.devices()[0].memory_stats()
    if stats:
        return stats["peak_bytes_in_use"]
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()
