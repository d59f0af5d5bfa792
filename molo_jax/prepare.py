"""The command that prepares a dataset: decodes every video once and stores its frames.

python -m molo_jax.prepare --dataset=ssv2 --videos=DIR --out=DIR [--check] [--report=FILE]
"""

import contextlib
import sys
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from molo_jax import cli, prepare_help, stopping
from molo_jax.benchmarks import BENCHMARKS, dataset_names
from molo_jax.config import base_config
from molo_jax.console import show_text
from molo_jax.data.lists.division import DEFAULT_RATIO, joined
from molo_jax.data.lists.splits import STANDARD_SPLITS
from molo_jax.errors import MoloError, UsageError
from molo_jax.files import write_json

if TYPE_CHECKING:
    from molo_jax.data.lists.division import Division
    from molo_jax.data.lists.enough import Need
    from molo_jax.data.store.beam import Beam
    from molo_jax.data.store.inputs import Inputs
    from molo_jax.data.store.records import Settings
    from molo_jax.data.store.report import Report

# Episodes and clips are those of the configurations, unless something else is asked for.
_USUAL = base_config()

_DATASET = flags.DEFINE_string("dataset", None, f"Which dataset: {', '.join(dataset_names())}.")
_VIDEOS = flags.DEFINE_string(
    "videos", None, "Folder of the videos: in any layout; for folder one of those below."
)
_OUT = flags.DEFINE_string("out", None, "Folder to write the prepared frames into.")
_CHECK = flags.DEFINE_bool(
    "check", False, "Only read the headers and report; quick, but blind to damage inside a file."
)
_REPORT = flags.DEFINE_string(
    "report", None, "File for the report as JSON; by default report_<dataset>.json in --out."
)
_LISTS = flags.DEFINE_string(
    "splits_dir",
    None,
    "Folder of three split lists, train_few_shot.txt and so on; for a benchmark the official ones"
    " are fetched by default.",
)
_SPLIT_FILE = flags.DEFINE_string(
    "split_file", None, "folder: CSV with the columns class,split or video,class,split."
)
_RATIO = flags.DEFINE_list(
    "ratio",
    None,
    f"folder: shares of train, val and test classes; default {joined(DEFAULT_RATIO)}, or what is"
    " nearest to it and leaves the classes of an episode in each.",
)
_SEED = flags.DEFINE_integer(
    "seed",
    0,
    "folder: of the division by --ratio; synthetic: of every pixel.",
    lower_bound=0,
    upper_bound=2**32 - 1,
)
_RESIZE = flags.DEFINE_integer(
    "resize",
    None,
    f"Side of the stored frames in pixels; default {_USUAL.data.resize}, synthetic 32.",
    lower_bound=1,
    upper_bound=4096,
)
_QUALITY = flags.DEFINE_integer(
    "quality", 95, "Of the stored JPEG images, 1 to 100.", lower_bound=1, upper_bound=100
)
_CHROMA = flags.DEFINE_enum(
    "chroma",
    None,
    ["420", "444"],
    "Colors at half or at full resolution; default 420, synthetic 444.",
)
_KEEP = flags.DEFINE_enum(
    "keep",
    None,
    ["all", "window"],
    "All frames, or those that clips of data.sampling=window can show; default all, kinetics100"
    " window.",
)
_NUM_FRAMES = flags.DEFINE_integer(
    "num_frames",
    _USUAL.data.num_frames,
    "Frames of a clip: for --keep=window, and to say which videos are too short.",
    lower_bound=2,
)
_MAX_FRAMES = flags.DEFINE_integer(
    "max_frames", 0, "At most so many frames of a video, evenly spaced; 0: no limit.", lower_bound=0
)
_EPISODE = {
    name: flags.DEFINE_integer(name, usual, meaning, lower_bound=least)
    for name, usual, meaning, least in (
        ("n_way", _USUAL.train.n_way, "Classes of an episode.", 2),
        ("n_shot", max(_USUAL.eval.shots), "Shots of a test episode.", 1),
        ("n_query", _USUAL.eval.n_query, "Queries of a test or validation episode.", 1),
        ("train_n_shot", _USUAL.train.n_shot, "Shots of a training or validation episode.", 1),
        ("train_n_query", _USUAL.train.n_query, "Queries of a training episode.", 1),
    )
}
_COUNTS = {
    split: flags.DEFINE_integer(
        f"{split}_videos", None, f"synthetic: videos of each {split} class.", lower_bound=1
    )
    for split in STANDARD_SPLITS
}
_WORKERS = flags.DEFINE_integer(
    "workers",
    0,
    "Processes that decode; 0: one for each core, with --beam_runner one for each record file that"
    " is made at a time.",
    lower_bound=0,
)
_TIMEOUT = flags.DEFINE_float(
    "timeout",
    _USUAL.data.timeout,
    "Seconds after which a video counts as unreadable.",
    lower_bound=0.1,
)
_FORCE = flags.DEFINE_bool("force", False, "Begin even if the disk looks too small.")
_BEAM_RUNNER = flags.DEFINE_string(
    "beam_runner",
    None,
    "Apache Beam runner that does the work, such as DaskRunner (needs the extra dask), FlinkRunner,"
    " SparkRunner or DirectRunner (the extra beam).",
)
_BEAM_OPTIONS = flags.DEFINE_list(
    "beam_pipeline_options",
    [],
    "Its options, as name=value, separated by commas; DaskRunner needs"
    " dask_client_address=tcp://HOST:8786.",
)


# Flags that other data sets would ignore.
_ONLY_FOR = {
    "ratio": "folder",
    **{f"{split}_videos": "synthetic" for split in STANDARD_SPLITS},
}


# What becomes of the work where a signal ends it.
_KEPT = "record files that are whole are kept, and the same command goes on from there"
_NOTHING_KEPT = "a check keeps nothing"


def main(argv: Sequence[str]) -> None:
    """Runs the command with the parsed flags."""
    del argv
    _check_flags()
    kept = _NOTHING_KEPT if _CHECK.value else _KEPT
    signals = stopping.StopSignals(
        lambda: f"ending the worker processes; {kept}",
        without=lambda: f"stopped at once; {kept}",
        raises=True,
    )
    try:
        with signals:
            _run()
    except stopping.Stopped as stopped:
        error = MoloError(f"{stopped}; {kept}")
        error.exit_code = stopped.exit_code
        raise error from None


def _run() -> None:
    # These import OpenCV and more, for which a mistake in the flags should not have to wait.
    from molo_jax.data.store import preparation

    with contextlib.ExitStack() as stack:
        if _DATASET.value == "synthetic":
            # Before the videos are generated: a second preparation would remove unfinished ones.
            stack.enter_context(preparation.lock(Path(_OUT.value)))
        _find_and_prepare()


def _find_and_prepare() -> None:
    from molo_jax.data.store import inputs, preparation

    # Before a million files are looked for.
    beam = _beam()
    found = _find(_DATASET.value)

    def keep_lists() -> None:
        if _DATASET.value == "folder":
            inputs.keep_lists(found.lists, Path(_OUT.value) / "splits" / "folder")

    plan = preparation.Plan(
        settings=_settings(),
        lists=found.lists,
        needs={split: need for split, need in _needs().items() if split in found.lists},
        num_frames=_NUM_FRAMES.value,
        workers=_WORKERS.value,
        seconds=_TIMEOUT.value,
    )
    if found.division:
        _check_split_flags(found.division)
        print(found.division.format(), flush=True)
    if _CHECK.value:
        report = preparation.check(plan)
    else:
        if found.division:
            _check_plan(found, plan.needs)
        report = preparation.prepare(
            plan,
            _OUT.value,
            begin=keep_lists,
            force=_FORCE.value,
            beam=beam,
        )
    report.leave_out(found.left_out)
    report.explain(found.division)
    _say(report, found.lists)


def _say(report: "Report", splits: Container[str]) -> None:
    """Prints and writes the report; the last line says how it goes on."""
    path = _report_path()
    if report.division:
        print()
    print(report.format(whole=str(path or "--report=FILE")), end="\n\n")
    if _CHECK.value:
        print("checked   the headers only: damage inside a file is found when it is decoded")
    if path:
        write_json(path, report.to_json())
        print(f"report    {path}")
    few = report.too_few()
    if few:
        count = "one thing is" if len(few) == 1 else f"{len(few)} things are"
        raise MoloError(f"not enough for the episodes asked: {count} lacking, see the list above")
    if not _CHECK.value:
        from molo_jax.next_step import next_step

        print(next_step(splits, report.has_losses()))


def _check_split_flags(division: "Division") -> None:
    """Refuses a ratio that divides nothing, and to be asked for test episodes without classes."""
    if _RATIO.value and not division.ratio:
        raise UsageError(
            f"--ratio={','.join(_RATIO.value)} is not used, because {division.divider} divide the"
            " classes; leave --ratio out"
        )
    if _EPISODE["n_shot"].present and "test" not in division.classes:
        where = "give --ratio a third share" if division.ratio else "add some"
        raise UsageError(
            f"--n_shot={_EPISODE['n_shot'].value} asks for test episodes, but no class is in the"
            f" test split; {where}, or leave --n_shot out"
        )


def _check_plan(found: "Inputs", needs: Mapping[str, "Need"]) -> None:
    """Refuses one's own videos that cannot make the episodes, before the first frame is decoded."""
    from molo_jax.data.lists.enough import Shortages, count_files
    from molo_jax.data.store.records import prepared_folder

    # Listed videos whose files are gone may be prepared already.
    earlier = prepared_folder(_OUT.value, _DATASET.value).exists()
    shortages = Shortages(count_files(found.lists, trust=earlier), needs, found.division)
    if shortages.sentences():
        raise MoloError(shortages.headline())


def _check_flags() -> None:
    name = _DATASET.value
    required = ["dataset", *([] if name == "synthetic" else ["videos"])]
    required += [] if _CHECK.value else ["out"]
    missing = [f"--{flag}" for flag in required if flags.FLAGS[flag].value is None]
    if missing:
        raise UsageError(f"{' and '.join(missing)} must be given; --help says what they are")
    if name not in dataset_names():
        known = ", ".join(dataset_names())
        raise UsageError(f"--dataset={name} is not known; choose one of {known}")
    if name == "synthetic" and (_CHECK.value or _VIDEOS.value or _LISTS.value):
        raise UsageError("--dataset=synthetic makes its videos; it takes no --check, --videos or"
                         " --splits_dir")  # fmt: skip
    if _SPLIT_FILE.value and (name != "folder" or _LISTS.value):
        raise UsageError("--split_file is for --dataset=folder, instead of --splits_dir")
    if _REPORT.value and not Path(_REPORT.value).absolute().parent.is_dir():
        raise UsageError(
            f"--report={_REPORT.value}: there is no folder {Path(_REPORT.value).parent}"
        )
    for flag, of in _ONLY_FOR.items():
        if flags.FLAGS[flag].present and name != of:
            raise UsageError(f"--{flag} is for --dataset={of}")
    if _BEAM_OPTIONS.value and _BEAM_RUNNER.value is None:
        raise UsageError("--beam_pipeline_options needs --beam_runner")
    if _CHECK.value and _BEAM_RUNNER.value:
        raise UsageError("--check works on this machine; it takes no --beam_runner")
    for flag in ("videos", "out"):
        value = flags.FLAGS[flag].value or ""
        if "://" in value:
            raise UsageError(
                f"--{flag}={value} is no folder; mount the storage as a file system, then give the"
                " folder that it is mounted on"
            )


def _beam() -> "Beam | None":
    if _BEAM_RUNNER.value is None:
        return None
    from molo_jax.data.store.beam import Beam

    beam = Beam(_BEAM_RUNNER.value, _BEAM_OPTIONS.value)
    beam.check()
    return beam


def _settings() -> "Settings":
    from molo_jax.data.store.records import Settings

    return Settings.of(
        _DATASET.value,
        resize=_RESIZE.value,
        quality=_QUALITY.value,
        chroma=_CHROMA.value,
        keep=_KEEP.value,
        num_frames=_NUM_FRAMES.value,
        max_frames=_MAX_FRAMES.value,
    )


def _needs() -> "Mapping[str, Need]":
    from molo_jax.data.lists.enough import EPISODE_FLAGS, Need

    value = {name: flag.value for name, flag in _EPISODE.items()}
    return {
        split: Need(value["n_way"], value[shot], value[query])
        for split, (shot, query) in EPISODE_FLAGS.items()
    }


def _find(name: str) -> "Inputs":
    from molo_jax.data.store import inputs

    videos, lists, seed = _VIDEOS.value, _LISTS.value, _SEED.value
    if name in BENCHMARKS:
        return inputs.of_benchmark(name, videos, lists)
    if name == "synthetic":
        counts = {split: flag.value for split, flag in _COUNTS.items()}
        return inputs.of_generated(
            Path(_OUT.value), seed=seed, videos_per_class=counts, workers=_WORKERS.value
        )
    if lists:
        return inputs.of_own_lists(videos, lists)
    return inputs.of_own_folder(
        videos,
        split_file=_SPLIT_FILE.value,
        ratio=_ratio(),
        seed=seed,
        n_way=_EPISODE["n_way"].value,
    )


def _ratio() -> tuple[int, int, int] | None:
    if _RATIO.value is None:
        return None
    try:
        train, val, test = (int(share) for share in _RATIO.value)
    except ValueError:
        train = val = test = -1
    if min(train, val, test) < 0 or train + val + test == 0:
        raise UsageError(
            f"--ratio={','.join(_RATIO.value)} must be three whole numbers, such as 64,12,24"
        )
    return train, val, test


def _report_path() -> Path | None:
    """Where the report is written as JSON; None for a check that did not ask for it."""
    if _REPORT.value:
        return Path(_REPORT.value)
    return None if _CHECK.value else Path(_OUT.value) / f"report_{_DATASET.value}.json"


if __name__ == "__main__":
    if prepare_help.is_asked_for(sys.argv[1:]):
        show_text(prepare_help.text())
        sys.exit(0)
    cli.run(main)
