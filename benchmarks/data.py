"""Times the loading of episodes: the official way, and this project's from videos and prepared.

    python benchmarks/data.py

For files like those of SSv2, Kinetics-100 and UCF101, which are generated the first time, it
measures clips and episodes a second and peak memory of

    (a) the official way: for every clip of an episode a decord VideoReader with its defaults, eight
        frames, float32 resize and crop with torch, in a DataLoader whose item is an episode;
    (b) molo_jax directly from the videos;
    (c) molo_jax from frames prepared as by `python -m molo_jax.prepare`;
    (d) the same from raw frames in place of JPEG, which are mapped into memory;
    (e) the decoding of the JPEG images of (c), and nothing else.

All load the same episodes of the same files with the same number of workers, from the page cache.
First it is checked that (a), (b) and (c) deliver the same frames. Then they take turns, each in a
process of its own ((d) and (e) share one); printed are medians over the rounds, and the smallest
and largest ratio to (a) of any round.

(a) delivers cropped, normalized float32 clips, (b) to (d) whole uint8 frames, 256×256: in molo_jax
crop, normalization and augmentation run on the accelerator. What they cost on the host is measured
apart. (a) has the crop and the normalization, and is spared the flip and the color jitter.
"""

import concurrent.futures
import contextlib
import dataclasses
import importlib.util
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Processes that this one starts import this file too: what takes memory is imported below.
from _memory import OtherLoad, PeakMemory, touch
from _workers import Worker, processor
from absl import flags

from molo_jax import cli
from molo_jax.errors import MoloError, UsageError
from molo_jax.files import write_json

PATHS = {
    "official": "(a) official way",
    "direct": "(b) molo_jax, videos",
    "prepared": "(c) molo_jax, prepared",
    "raw": "(d) the same, raw frames",
    "jpeg": "(e) JPEG decoding alone",
}
# The process of each path, and the method that loads episodes.
_TURNS = {
    "official": ("official", "run"),
    "direct": ("direct", "run"),
    "prepared": ("prepared", "run"),
    "raw": ("limits", "raw"),
    "jpeg": ("limits", "jpeg"),
}
_KINDS = ("ssv2", "kinetics", "ucf101")
_FRAMES = 8
# Largest mean difference to the official way, in gray levels, that counts as the same frames.
_SAME = {"direct": 0.6, "prepared": 4.0}
_CROPS = 64
# Cores in use by other programs from which on the numbers are not to be trusted.
_BUSY = 0.2


def _whole(name: str, default: int, text: str, least: int = 1) -> flags.FlagHolder:
    return flags.DEFINE_integer(name, default, text, lower_bound=least)


_NUMBERS = {
    "workers": _whole("workers", 2, "Episodes that are loaded at the same time."),
    "way": _whole("way", 5, "Classes of an episode."),
    "shot": _whole("shot", 1, "Support clips of a class."),
    "query": _whole("query", 6, "Query clips of a class."),
    "rounds": _whole("rounds", 3, "Turns of each path."),
    "episodes": _whole("episodes", 0, "Episodes of a turn; 0: as --seconds says.", least=0),
    "classes": _whole("classes", 6, "Classes of the generated files."),
    "videos_per_class": _whole("videos_per_class", 7, "Files of a class."),
    "quality": _whole("quality", 95, "Of the JPEG images."),
    "seed": _whole("seed", 0, "Of files and episodes.", least=0),
    "seconds": flags.DEFINE_float("seconds", 4.0, "About how long a turn takes.", lower_bound=0.0),
    "seconds_scale": flags.DEFINE_float(
        "seconds_scale", 1.0, "Makes the videos shorter.", lower_bound=0.01, upper_bound=1.0
    ),
}
_KINDS_FLAG = flags.DEFINE_list("kinds", list(_KINDS), "Kinds of files.")
_CLIPS = flags.DEFINE_string("clips", "runs/benchmark_clips", "Folder to keep the files in.")
_JSON = flags.DEFINE_string("json", None, "File for what was measured.")


def main(argv: Sequence[str]) -> None:
    """Runs the benchmark with the parsed flags."""
    del argv
    options = _options()
    clips = options["clips_per_episode"]
    print(
        f"{options['way']}-way {options['shot']}-shot, {options['query']} queries a class:"
        f" {clips} clips of {_FRAMES} frames an episode; {options['workers']} workers;"
        f" {processor()}"
    )
    result: dict[str, Any] = {"options": options, "processor": processor(), "kinds": {}}
    for kind in options["kinds"]:
        result["kinds"][kind] = measured = _measure(kind, options)
        _print_table(measured, options)
    _print_summary(result["kinds"])
    if options["json"]:
        write_json(Path(options["json"]), result)


def _options() -> dict[str, Any]:
    options = {name: flag.value for name, flag in _NUMBERS.items()}
    options |= {"kinds": _KINDS_FLAG.value, "clips": _CLIPS.value, "json": _JSON.value}
    wrong = [kind for kind in options["kinds"] if kind not in _KINDS]
    if wrong or not options["kinds"] or len(set(options["kinds"])) < len(options["kinds"]):
        raise UsageError(
            f"--kinds is {','.join(options['kinds'])}; expected some of {','.join(_KINDS)}"
        )
    need = options["shot"] + options["query"]
    for name, least in (("classes", options["way"]), ("videos_per_class", need)):
        if options[name] < least:
            raise UsageError(f"--{name} is {options[name]}; such episodes need at least {least}")
    if options["json"] and not Path(options["json"]).absolute().parent.is_dir():
        raise UsageError(f"--json is {options['json']}; expected a file in a folder that exists")
    for module in ("torch", "molo_torch_ref"):
        if importlib.util.find_spec(module) is None:
            raise UsageError(
                f"{module} is not installed; install PyTorch and this project with"
                " pip install --editable '.[torch]'"
            )
    return options | {"clips_per_episode": options["way"] * need}


def _measure(kind: str, options: dict[str, Any]) -> dict[str, Any]:
    """Everything about one kind of file."""
    job, measured = _make_ready(kind, options)
    with contextlib.ExitStack() as stack:
        workers = _start(job, stack)
        measured["difference"] = _check_same_clips(workers)
        first = workers["direct"].call("first_reading")
        measured["first_reading"] = first["clips"] / first["seconds"]
        memory = {name: PeakMemory(worker.pid) for name, worker in workers.items()}
        measured |= _take_turns(workers, memory, options)
        measured["raw_bytes"] = workers["limits"].call("raw_bytes")
        crops = [workers["limits"].call("crop", _CROPS) for _ in range(options["rounds"])]
        measured["crop_seconds"] = statistics.median(crops)
    return measured


def _start(job: dict[str, Any], stack: contextlib.ExitStack) -> dict[str, Worker]:
    """Starts the processes, which import their libraries at the same time."""
    names = list(dict.fromkeys(worker for worker, _ in _TURNS.values()))

    def start(name: str) -> Worker:
        # A DataLoader has processes of its own.
        worker = Worker(name, job | {"path": name}, daemon=name != "official")
        stack.callback(worker.stop)
        return worker

    with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
        return dict(zip(names, pool.map(start, names), strict=True))


def _make_ready(kind: str, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Generates and prepares the files; returns what the processes need, and what there is."""
    from _clips import KINDS, make_clips

    from molo_jax.data.clips.episodes import EpisodeSampler
    from molo_jax.data.lists.splits import read_split
    from molo_jax.data.store.records import Settings, prepared_folder

    what, folder = KINDS[kind], Path(options["clips"]) / kind
    made = ("classes", "videos_per_class", "seconds_scale", "seed")
    make_clips(folder, kind, **{name: options[name] for name in made})
    split = read_split(folder / "splits" / "train_few_shot.txt", "train")
    settings = Settings.of(what.dataset, quality=options["quality"], num_frames=_FRAMES)
    out = folder / f"prepared_quality{options['quality']}"
    known = prepared_folder(out, what.dataset).exists()
    seconds = _prepare(split, settings, folder / "videos", out, options)
    files = [[folder / "videos" / f"{v.name}{what.extension}" for v in vs] for vs in split.videos]
    records = sorted(prepared_folder(out, what.dataset).glob("*.array_record*[0-9]"))
    touch([file for group in files for file in group] + records)
    sampler = EpisodeSampler.from_split(
        split,
        seed=options["seed"],
        n_way=options["way"],
        n_shot=options["shot"],
        n_query=options["query"],
        num_frames=_FRAMES,
    )
    job = options | {
        "folder": str(folder),
        "prepared": str(out),
        "dataset": what.dataset,
        "sampling": what.sampling,
        "split": split,
        "settings": settings,
        "sampler": sampler,
        "files": [[str(file) for file in group] for group in files],
    }
    videos = sum(split.class_sizes)
    frames = what.frames(options["seconds_scale"])
    metadata = {
        "files": f"{what.title}, {frames} frames at {what.fps} a second",
        "videos": videos,
        "file_bytes": sum(file.stat().st_size for group in files for file in group) / videos,
        "jpeg_bytes": sum(record.stat().st_size for record in records) / videos,
        "settings": dataclasses.asdict(settings),
        "preparation_seconds": None if known else seconds,
    }
    return job, metadata


def _prepare(split: Any, settings: Any, videos: Path, out: Path, options: dict[str, Any]) -> float:
    """Prepares the videos if that has not been done; returns the seconds it took."""
    from molo_jax.data.store import preparation
    from molo_jax.data.store.report import Need

    plan = preparation.Plan(
        settings=settings,
        lists=preparation.find_videos({"train": split}, videos),
        needs={"train": Need(options["way"], options["shot"], options["query"])},
        num_frames=_FRAMES,
        workers=options["workers"],
        seconds=600,
    )
    start = time.perf_counter()
    report = preparation.prepare(plan, out)
    if report.too_few():
        raise MoloError("; ".join(report.too_few()))
    return time.perf_counter() - start


def _check_same_clips(workers: dict[str, Worker]) -> dict[str, float]:
    """Mean difference of clips to the official way's, in gray levels.

    Raises:
        MoloError: it is so large that the frames must be others.
    """
    import numpy as np

    expected = workers["official"].call("clips", 0)
    differences = {}
    for name, most in _SAME.items():
        clips = workers[name].call("clips", 0)
        # Of each frame, so that a single wrong one is seen.
        difference = np.abs(clips - expected).mean((-3, -2, -1))
        differences[name] = float(difference.mean())
        if not difference.max() <= most:
            raise MoloError(
                f"{PATHS[name]} and {PATHS['official']} do not deliver the same frames: they differ"
                f" by {difference.max():.1f} gray levels, expected at most {most}"
            )
    return differences


def _take_turns(
    workers: dict[str, Worker], memory: dict[str, PeakMemory], options: dict[str, Any]
) -> dict[str, Any]:
    """Clips a second of each path in each round, after a warm-up; who begins changes."""

    def load(path: str, first: int, count: int) -> dict[str, Any]:
        name, method = _TURNS[path]
        with memory[name].watching():
            return workers[name].call(method, first, count)

    counts = {path: _warm_up(load, path, options) for path in PATHS}
    rates: dict[str, list[float]] = {path: [] for path in PATHS}
    failures, order, others = 0, list(PATHS), OtherLoad()
    for number in range(options["rounds"]):
        for path in order:
            # The same episodes, as far as each gets.
            loaded = load(path, 1000 * number, counts[path])
            rates[path].append(counts[path] * options["clips_per_episode"] / loaded["seconds"])
            failures += loaded.get("failures", 0)
        order.reverse()
    read = counts["official"] * options["rounds"] * options["clips_per_episode"]
    return {
        "clips_per_second": rates,
        "episodes": counts,
        # Mapped files would count as memory of (d) and (e).
        "peak_memory": {n: m.bytes for n, m in memory.items() if n != "limits"},
        "decord_failures": [failures, read],
        "other_load": others.cores(),
    }


def _warm_up(load: Any, path: str, options: dict[str, Any]) -> int:
    """Loads episodes until the speed is known; returns the number of a turn."""
    workers = options["workers"]
    count = options["episodes"] or workers
    for _ in range(3):
        seconds = load(path, 0, count)["seconds"]
        if options["episodes"]:
            break
        whole = math.ceil(count * options["seconds"] / seconds / workers) * workers
        if whole <= 2 * count:
            return whole
        count = whole
    return count


def _print_table(measured: dict[str, Any], options: dict[str, Any]) -> None:
    sizes = {name: measured[f"{name}_bytes"] / 1000 for name in ("file", "jpeg", "raw")}
    kept = "" if measured["settings"]["keep"] == "all" else " (of the frames that can be chosen)"
    seconds = measured["preparation_seconds"]
    print(
        f"\n{measured['files']}; {measured['videos']} files of {sizes['file']:.0f} kB;"
        f" as JPEG {sizes['jpeg']:.0f} kB, raw {sizes['raw']:.0f} kB{kept}\n"
        f"prepared {'before' if seconds is None else f'in {seconds:.1f} s'};"
        f" mean difference to (a) in gray levels: (b) {measured['difference']['direct']:.2f},"
        f" (c) {measured['difference']['prepared']:.2f}"
    )
    print(f"{'':26}{'clips/s':>9}{'episodes/s':>12}{'ratio to (a)':>24}{'peak memory':>14}")
    rates = measured["clips_per_second"]
    for path, title in PATHS.items():
        rate = statistics.median(rates[path])
        ratio, low, high = _ratio(rates, path, "official")
        memory = measured["peak_memory"].get(path)
        print(
            f"{title:26}{rate:9.1f}{rate / options['clips_per_episode']:12.2f}"
            f"{f'{ratio:.2f} ({low:.2f} to {high:.2f})':>24}"
            f"{f'{memory / 2**20:.0f} MiB' if memory else '':>14}"
        )
    _print_notes(measured, options)


def _print_notes(measured: dict[str, Any], options: dict[str, Any]) -> None:
    rates = {path: statistics.median(r) for path, r in measured["clips_per_second"].items()}
    print(
        f"(c) reaches {rates['prepared'] / rates['jpeg']:.0%} of (e);"
        f" (b) reads {measured['first_reading']:.1f} clips/s while it meets each file for the first"
        " time"
    )
    crop = measured["crop_seconds"]
    both = [1 / (1 / rates[p] + crop / options["workers"]) for p in ("direct", "prepared")]
    print(
        f"crop, float32 and normalization of a clip on this CPU: {1e3 * crop:.1f} ms; with it, by"
        f" calculation, (b) {both[0]:.1f} clips/s ({both[0] / rates['official']:.2f} times (a)),"
        f" (c) {both[1]:.1f} ({both[1] / rates['official']:.2f} times)"
    )
    failures, read = measured["decord_failures"]
    print(
        f"decord's default threads failed on {failures} of {read} readings of (a)"
        f"{', repeated with one thread' if failures else ''}"
    )
    busy = measured["other_load"]
    print(
        f"other programs kept {busy:.2f} cores busy"
        f"{'; repeat this when the machine is idle' if busy > _BUSY else ''}"
    )


def _ratio(rates: dict[str, list[float]], path: str, to: str) -> tuple[float, float, float]:
    """Quotient of the medians, with the smallest and the largest of any round."""
    pairs = [a / b for a, b in zip(rates[path], rates[to], strict=True)]
    return statistics.median(rates[path]) / statistics.median(rates[to]), min(pairs), max(pairs)


def _print_summary(kinds: dict[str, dict[str, Any]]) -> None:
    columns = {
        "(b)/(a)": ("direct", "official"),
        "(c)/(a)": ("prepared", "official"),
        "(d)/(c)": ("raw", "prepared"),
        "(c)/(e)": ("prepared", "jpeg"),
    }
    print(f"\n{'':26}" + "".join(f"{title:>10}" for title in columns))
    for kind, measured in kinds.items():
        measured["ratios"] = {
            title: _ratio(measured["clips_per_second"], *pair)[0] for title, pair in columns.items()
        }
        print(f"{kind:26}" + "".join(f"{ratio:10.2f}" for ratio in measured["ratios"].values()))


if __name__ == "__main__":
    cli.run(main)
