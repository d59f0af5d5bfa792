"""Times an evaluation by a bank of features against the official way, on the same videos.

    python benchmarks/bank.py

The official way, written from its description: every clip of every episode is decoded (decord) and
embedded (PyTorch) anew. With a bank each video of the split is decoded and embedded once (JAX), and
episodes are matched by its features. Videos, frames, weights and episodes are the same, and so must
the predictions be.

Both are measured in turn, on generated videos like those of SSv2, and extrapolated to an evaluation
of 10,000 5-way 1-shot episodes on the 2,857 videos of a test split: the seconds of an episode times
the number of episodes; the seconds of compiling and of a video times the number of videos, and the
seconds that all episodes take on a bank of so many videos with random features, as measured.
"""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _workers import Worker, processor
from absl import flags

from molo_jax import cli
from molo_jax.backbones import BACKBONES
from molo_jax.files import write_json


def _whole(name: str, default: int, text: str, least: int = 1) -> flags.FlagHolder:
    return flags.DEFINE_integer(name, default, text, lower_bound=least)


_NUMBERS = {
    "episodes": _whole("episodes", 10_000, "Episodes of the evaluation.", least=2),
    "videos": _whole("videos", 2_857, "Videos of the split.", least=2),
    "measured_episodes": _whole("measured_episodes", 6, "Episodes measured of the official way."),
    "measured_videos": _whole("measured_videos", 48, "Videos that are generated and embedded.", 2),
    "classes": _whole("classes", 24, "Classes of the split.", least=2),
    "repeats": _whole("repeats", 2, "How often both are measured, in turn."),
    "way": _whole("way", 5, "Classes of an episode.", least=2),
    "shot": _whole("shot", 1, "Support clips of a class."),
    "query": _whole("query", 1, "Query clips of a class."),
    "seed": _whole("seed", 0, "Of videos, weights and episodes.", least=0),
}
_KIND = flags.DEFINE_enum("kind", "ssv2", ["ssv2", "ucf101"], "What the videos are like.")
_BACKBONE = flags.DEFINE_enum("backbone", "resnet50", list(BACKBONES), "The network of frames.")
_CLIPS = flags.DEFINE_string("clips", "runs/benchmark_bank", "Folder of the generated videos.")
_JSON = flags.DEFINE_string("json", None, "File for what was measured.")
_SCALE = flags.DEFINE_float("seconds_scale", 1.0, "Length of the videos, times that of the kind.")
_FRAMES = 8


def main(argv: Sequence[str]) -> None:
    """Runs the benchmark with the parsed flags."""
    del argv
    options = {name: flag.value for name, flag in _NUMBERS.items()}
    options |= {"backbone": _BACKBONE.value, "kind": _KIND.value, "frames": _FRAMES}
    options |= _data(options)
    found = _measured(options)
    found |= _extrapolated(found, options)
    for line in _lines(found, options):
        print(line)
    if _JSON.value:
        plain = {name: value for name, value in options.items() if isinstance(value, int | str)}
        write_json(Path(_JSON.value), {"options": plain, "found": found})


def _data(options: dict[str, Any]) -> dict[str, Any]:
    """Makes the videos and the episodes."""
    from _clips import KINDS, make_clips

    from molo_jax.config import base_config
    from molo_jax.data.clips.episodes import EpisodeSampler
    from molo_jax.data.lists.splits import read_split

    kind, folder = KINDS[options["kind"]], Path(_CLIPS.value) / options["kind"]
    each = max(options["shot"] + options["query"], options["measured_videos"] // options["classes"])
    make_clips(
        folder,
        options["kind"],
        classes=options["classes"],
        videos_per_class=each,
        seconds_scale=_SCALE.value,
        seed=options["seed"],
    )
    split = read_split(folder / "splits" / "train_few_shot.txt", "train")
    sampler = EpisodeSampler.from_split(
        split,
        seed=options["seed"],
        n_way=options["way"],
        n_shot=options["shot"],
        n_query=options["query"],
        num_frames=_FRAMES,
        frame_draw="video",
    )
    files = [
        [str(folder / "videos" / f"{video.name}{kind.extension}") for video in videos]
        for videos in split.videos
    ]
    defaults = base_config().eval
    return {
        "folder": str(folder),
        "sampling": kind.sampling,
        "sampler": sampler,
        "files": files,
        "batch": defaults.episode_batch,
        "cache_mib": defaults.cache_mib,
    }


def _measured(options: dict[str, Any]) -> dict[str, Any]:
    """Measures both ways in turn, and compares their predictions."""
    count = options["measured_episodes"]
    anew, embedded, equal = [], [], []
    with contextlib.ExitStack() as stack:
        banked = Worker("banked", options)
        stack.callback(banked.stop)
        official = Worker("anew", options)
        stack.callback(official.stop)
        official.call("load", banked.call("tensors"))
        compiling = banked.call("compile")
        official.call("run", 0, 1)
        for repeat in range(options["repeats"]):
            found = official.call("run", repeat * count, count)
            anew.append(found["seconds"] / count)
            bank = banked.call("embed", repeat)
            embedded.append(bank["seconds"] / bank["clips"])
            ours = banked.call("predicted", (repeat + 1) * count)[repeat * count :]
            equal.append(float((ours == found["predicted"]).mean()))
    matching = {
        **{"method": "molo", "videos": -(-options["videos"] // options["classes"])},
        **{"ways": [options["way"]], "shots": [options["shot"]], "direct_episodes": 2},
    }
    with contextlib.ExitStack() as stack:
        worker = Worker("sweep", options | matching)
        stack.callback(worker.stop)
        matched = worker.call("measure")
    return {
        "episode_anew": min(anew),
        "video_embedded": min(embedded),
        "compile": compiling,
        "matched": matched["total"],
        "match_peak": matched["peak"],
        "bank": matched["features"],
        "equal": sum(equal) / len(equal),
        "load": os.getloadavg()[0],
    }


def _extrapolated(found: dict[str, Any], options: dict[str, Any]) -> dict[str, float]:
    anew = found["episode_anew"] * options["episodes"]
    embedding = found["video_embedded"] * options["videos"]
    banked = found["compile"] + embedding + found["matched"]
    return {"anew": anew, "embedding": embedding, "banked": banked, "ratio": anew / banked}


def _lines(found: dict[str, Any], options: dict[str, Any]) -> list[str]:
    clips = options["way"] * (options["shot"] + options["query"])
    return [
        f"{options['episodes']:,} {options['way']}-way {options['shot']}-shot episodes of"
        f" {options['videos']:,} videos, {options['backbone']}, {options['kind']};"
        f" {processor()}, load {found['load']:.1f}",
        f"official way: {found['episode_anew']:.2f} s an episode ({clips} clips), all"
        f" {found['anew'] / 3600:.2f} h",
        f"bank: {found['video_embedded']:.3f} s a video, all {found['embedding'] / 60:.1f} min;"
        f" compiling {found['compile']:.1f} s; episodes {found['matched']:.1f} s (peak"
        f" {found['match_peak'] / 2**20:.0f} MiB, bank {found['bank'] / 2**20:.0f} MiB); together"
        f" {found['banked'] / 60:.1f} min",
        f"the same prediction for {100 * found['equal']:.1f} % of the queries",
        f"ratio official way / bank: {found['ratio']:.1f}",
    ]


if __name__ == "__main__":
    cli.run(main)
