"""The command that prepares a dataset: decodes every video once and stores its frames.

python -m molo_jax.prepare --dataset=ssv2 --videos=DIR --out=DIR [--check] [--report=FILE]
"""

import shlex
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from molo_jax import cli
from molo_jax.errors import MoloError, UsageError
from molo_jax.files import write_json

_BENCHMARKS = ("ssv2", "ssv2_small", "kinetics100", "ucf101", "hmdb51")
_NAMES = (*_BENCHMARKS, "synthetic", "folder")
_SPLITS = ("train", "val", "test")

_DATASET = flags.DEFINE_string("dataset", None, f"Which dataset: {', '.join(_NAMES)}.")
_VIDEOS = flags.DEFINE_string("videos", None, "Folder of the videos, in any layout.")
_OUT = flags.DEFINE_string("out", None, "Folder to write the prepared frames into.")
_CHECK = flags.DEFINE_bool("check", False, "Only look at the videos and report; quick.")
_REPORT = flags.DEFINE_string(
    "report", None, "File for the report as JSON; by default report_<dataset>.json in --out."
)
_LISTS = flags.DEFINE_string(
    "splits_dir", None, "Folder of the three split lists; default: the official ones, fetched."
)
_SPLIT_FILE = flags.DEFINE_string(
    "split_file", None, "folder: CSV with the columns class,split or video,class,split."
)
_RATIO = flags.DEFINE_list(
    "ratio", ["64", "12", "24"], "folder: shares of train, val and test classes without splits."
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "folder: of the division of classes; synthetic: of every pixel.", lower_bound=0
)
_RESIZE = flags.DEFINE_integer(
    "resize",
    None,
    "Side of the stored frames; default 256, synthetic 32.",
    lower_bound=1,
    upper_bound=4096,
)
_QUALITY = flags.DEFINE_integer(
    "quality", 95, "Of the JPEG images.", lower_bound=1, upper_bound=100
)
_CHROMA = flags.DEFINE_enum(
    "chroma", None, ["420", "444"], "Colors at half the resolution or at all; synthetic: 444."
)
_KEEP = flags.DEFINE_enum(
    "keep", None, ["all", "window"], "Frames: all, or those a window can show (kinetics100)."
)
_NUM_FRAMES = flags.DEFINE_integer(
    "num_frames", 8, "Frames of a clip: for --keep=window and for what is too short.", lower_bound=2
)
_MAX_FRAMES = flags.DEFINE_integer(
    "max_frames",
    0,
    "At most so many frames of a video, evenly spaced; 0: as many as fit into 512 MiB.",
    lower_bound=0,
)
_EPISODE = {
    "n_way": flags.DEFINE_integer("n_way", 5, "Classes of an episode.", lower_bound=2),
    "n_shot": flags.DEFINE_integer("n_shot", 5, "Shots of a test episode.", lower_bound=1),
    "n_query": flags.DEFINE_integer("n_query", 1, "Queries of a test episode.", lower_bound=1),
    "train_n_shot": flags.DEFINE_integer(
        "train_n_shot", 1, "Shots of an episode of training and validation.", lower_bound=1
    ),
    "train_n_query": flags.DEFINE_integer(
        "train_n_query", 6, "Queries of a training episode.", lower_bound=1
    ),
}
_COUNTS = {
    split: flags.DEFINE_integer(
        f"{split}_videos", None, f"synthetic: videos of each {split} class.", lower_bound=1
    )
    for split in _SPLITS
}
_WORKERS = flags.DEFINE_integer("workers", 0, "Processes; 0: one for each core.", lower_bound=0)
_TIMEOUT = flags.DEFINE_float(
    "timeout", 600.0, "Seconds after which a video counts as unreadable.", lower_bound=0.1
)
_FORCE = flags.DEFINE_bool("force", False, "Begin even if the disk looks too small.")
_BEAM_RUNNER = flags.DEFINE_string(
    "beam_runner", None, "Apache Beam runner that does the work, such as DirectRunner."
)
_BEAM_OPTIONS = flags.DEFINE_list(
    "beam_pipeline_options", [], "Its options, as name=value, separated by commas."
)


# Flags that other data sets would ignore.
_ONLY_FOR = {
    "ratio": "folder",
    **{f"{split}_videos": "synthetic" for split in _SPLITS},
}


def main(argv: Sequence[str]) -> None:
    """Runs the command with the parsed flags."""
    del argv
    _check_flags()
    # As an interrupt: the worker processes end, and nothing half-written stays.
    signal.signal(signal.SIGTERM, _stop)
    try:
        _run()
    except _Stopped:
        error = MoloError(
            "stopped by SIGTERM; what is finished is kept, and the same command goes on from there"
        )
        error.exit_code = 128 + signal.SIGTERM
        raise error from None


class _Stopped(KeyboardInterrupt):
    """The process was asked to end."""


def _stop(number: int, frame: object) -> None:
    raise _Stopped


def _run() -> None:
    # These import OpenCV and more, for which a mistake in the flags should not have to wait.
    from molo_jax.data import preparation

    lists, left_out = _find(_DATASET.value)
    plan = preparation.Plan(
        settings=_settings(),
        lists=lists,
        needs={split: need for split, need in _needs().items() if split in lists},
        num_frames=_NUM_FRAMES.value,
        workers=_WORKERS.value,
        seconds=_TIMEOUT.value,
    )
    if _CHECK.value:
        survey = preparation.check(plan)
    else:
        survey = preparation.prepare(
            plan,
            _OUT.value,
            begin=lambda: _keep_lists(lists),
            force=_FORCE.value,
            beam_runner=_BEAM_RUNNER.value,
            beam_options=[f"--{option.lstrip('-')}" for option in _BEAM_OPTIONS.value],
        )
    survey.leave_out(left_out)
    print(survey.format())
    _write_report(survey.to_json())
    few = survey.too_few()
    if not few and not _CHECK.value:
        print(f"\nnext      {_next_command(lists, survey.has_losses())}")
    if few:
        more = f"; and {len(few) - 3} more, see the report" if len(few) > 3 else ""
        raise MoloError(f"not enough for the episodes asked: {'; '.join(few[:3])}{more}")


def _check_flags() -> None:
    name = _DATASET.value
    required = ["dataset", *([] if name == "synthetic" else ["videos"])]
    required += [] if _CHECK.value else ["out"]
    missing = [f"--{flag}" for flag in required if flags.FLAGS[flag].value is None]
    if missing:
        raise UsageError(f"{' and '.join(missing)} must be given; --help says what they are")
    if name not in _NAMES:
        raise UsageError(f"--dataset={name} is not known; choose one of {', '.join(_NAMES)}")
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
    if _BEAM_OPTIONS.value and not _BEAM_RUNNER.value:
        raise UsageError("--beam_pipeline_options needs --beam_runner")


def _settings():
    from molo_jax.data.records import Settings

    return Settings.of(
        _DATASET.value,
        resize=_RESIZE.value,
        quality=_QUALITY.value,
        chroma=_CHROMA.value,
        keep=_KEEP.value,
        num_frames=_NUM_FRAMES.value,
        max_frames=_MAX_FRAMES.value,
    )


def _needs() -> Mapping[str, object]:
    from molo_jax.data.survey import Need

    value = {name: flag.value for name, flag in _EPISODE.items()}
    return {
        "train": Need(value["n_way"], value["train_n_shot"], value["train_n_query"]),
        "val": Need(value["n_way"], value["train_n_shot"], value["n_query"]),
        "test": Need(value["n_way"], value["n_shot"], value["n_query"]),
    }


def _find(name: str):
    """The listed videos of each split with their files, and what else is there, with the reason."""
    from molo_jax.data import official, preparation

    if name == "folder" and not _LISTS.value:
        return _find_own()
    videos = _VIDEOS.value
    if name == "synthetic":
        _generate(Path(_OUT.value))
        videos, splits = Path(_OUT.value) / "videos", Path(_OUT.value) / "splits"
        lists = official.read_splits(splits)
    elif name in _BENCHMARKS:
        folder = _LISTS.value or official.fetch_lists(name, "--splits_dir")
        lists = official.read_lists(name, folder)
    else:
        lists = official.read_splits(_LISTS.value, partial=True)
    return preparation.find_videos(lists, videos), {}


def _find_own():
    """The same for a folder for each class."""
    from molo_jax.data import preparation
    from molo_jax.data.folder import read_folder

    found = read_folder(
        _VIDEOS.value, split_file=_SPLIT_FILE.value, ratio=_ratio(), seed=_SEED.value
    )
    lists = preparation.find_videos(found.splits, _VIDEOS.value, anywhere=False)
    return lists, found.left_out


def _keep_lists(lists) -> None:
    """Writes the lists of one's own videos, for use without preparation."""
    from molo_jax.data.folder import FolderLists, write_lists
    from molo_jax.data.splits import Split, Video

    if _DATASET.value != "folder":
        return
    splits = {
        name: Split.of(
            name, "", [Video(v.name, v.class_id, line) for line, v in enumerate(listed, start=1)]
        )
        for name, listed in lists.items()
    }
    write_lists(FolderLists(splits, {}), Path(_OUT.value) / "splits" / "folder")


def _ratio() -> tuple[int, int, int]:
    try:
        train, val, test = (int(share) for share in _RATIO.value)
    except ValueError:
        train = val = test = -1
    if min(train, val, test) < 0 or train + val + test == 0:
        raise UsageError(
            f"--ratio={','.join(_RATIO.value)} must be three whole numbers, such as 64,12,24"
        )
    return train, val, test


def _generate(out: Path) -> None:
    from molo_jax.data import synthetic

    counts = dict(synthetic.VIDEOS_PER_CLASS)
    counts |= {split: flag.value for split, flag in _COUNTS.items() if flag.value is not None}
    synthetic.generate(
        out, seed=_SEED.value, videos_per_class=counts, workers=_WORKERS.value or None
    )


def _write_report(report: Mapping[str, object]) -> None:
    path = Path(_REPORT.value or Path(_OUT.value or ".") / f"report_{_DATASET.value}.json")
    if _REPORT.value or not _CHECK.value:
        write_json(path, report)
        print(f"\nreport    {path}")


# The keys of the configuration that a flag speaks of.
_KEYS = {
    "n_way": ("train.n_way", "eval.n_way"),
    "train_n_shot": ("train.n_shot",),
    "train_n_query": ("train.n_query",),
    "n_shot": ("eval.shots",),
    "n_query": ("eval.n_query",),
    "resize": ("data.resize",),
    "num_frames": ("data.num_frames",),
}


def _next_command(lists, has_losses: bool) -> str:
    """The command that trains on the prepared data, with what is not as in the configuration."""
    name = _DATASET.value
    config = f"{name}_5shot" if name in _BENCHMARKS else name
    changed = [flag for flag in _KEYS if flags.FLAGS[flag].value != flags.FLAGS[flag].default]
    overrides = {"data.prepared": shlex.quote(str(_OUT.value))}
    overrides |= {key: flags.FLAGS[flag].value for flag in changed for key in _KEYS[flag]}
    if has_losses:
        overrides["data.on_bad_video"] = "skip"
    if _KEEP.value == "window" and name != "kinetics100":
        overrides["data.sampling"] = "window"
    if "val" not in lists:
        overrides["train.eval_every"] = 0
    mode = "".join(
        f" --mode={mode}"
        for split, mode in (("test", "train"), ("train", "eval"))
        if split not in lists
    )
    arguments = " ".join(f"--config.{key}={value}" for key, value in overrides.items())
    return f"python -m molo_jax.main --config=configs/{config}.py{mode} {arguments}"


if __name__ == "__main__":
    cli.run(main)
