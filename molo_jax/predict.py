"""The command that says which class a clip belongs to.

python -m molo_jax.predict --weights=SRC --support=DIR --videos=FILE|DIR [--out=FILE.csv]

SRC is a work folder of training, a checkpoint, an official PyTorch file, or resnet18, resnet34 or
resnet50 with ImageNet weights. DIR holds a folder for each class with a few clips of it.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging

from molo_jax import cli
from molo_jax.console import Progress
from molo_jax.data.lists.directory import printable
from molo_jax.errors import MoloError, UsageError
from molo_jax.methods.settings import METHODS
from molo_jax.nn.precision import PRECISIONS
from molo_jax.prediction.inputs import Query, SupportFiles, list_support, list_videos, parse_seconds

_WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "The network: a work folder of training, a checkpoint, an official PyTorch file, torchvision's"
    " file of a backbone, or resnet18, resnet34 or resnet50 (ImageNet weights, which are fetched).",
)
_SUPPORT = flags.DEFINE_string(
    "support", None, "Folder with a folder of clips for each class: DIR/<class>/*."
)
_CLASSIFIER = flags.DEFINE_string(
    "classifier", None, "A classifier saved by --save, in place of --support and mostly --weights."
)
_VIDEOS = flags.DEFINE_multi_string(
    "videos", [], "A clip, or a folder of clips with any folders in it; can be given several times."
)
_METHOD = flags.DEFINE_enum(
    "method",
    None,
    list(METHODS),
    "Of a PyTorch file that fits several methods, which one it is; of a backbone with ImageNet"
    " weights, how its frames are compared: bi_mhm (default), otam or protonet.",
)
_OUT = flags.DEFINE_multi_string(
    "out", [], "File for the predictions, .csv or .json; can be given several times."
)
_UNKNOWN = flags.DEFINE_string(
    "unknown",
    None,
    "When a clip is 'none of these': auto (farther from every class than 95 in 100 clips of the"
    " classes would be), off, or the largest distance relative to that within the support set;"
    " default: what a saved classifier had, else auto.",
)
_REPORT = flags.DEFINE_string("report", None, "File for the explanation, a page .html.")
_SAVE = flags.DEFINE_string("save", None, "File for the classifier, such as gym.molo.")
_WITH_WEIGHTS = flags.DEFINE_bool("with_weights", False, "Also save the network's weights there.")
_WINDOW = flags.DEFINE_string(
    "window", None, "Label long videos along their time: length of a window, such as 2s."
)
_STRIDE = flags.DEFINE_string(
    "stride",
    None,
    "Time from one window to the next, such as 0.5s; default: a quarter of --window.",
)
_SHORTEST = flags.DEFINE_string(
    "shortest", None, "Shorter segments get the label of their longer neighbor, such as 1s."
)
_SEGMENTS = flags.DEFINE_string("segments", None, "File for the segments of a long video, .csv.")
_SUBTITLES = flags.DEFINE_multi_string(
    "subtitles", [], "File for the labels of a long video as subtitles, .srt or .vtt."
)
_ANNOTATE = flags.DEFINE_string(
    "annotate", None, "File for the long video with its labels drawn onto it, .mp4."
)
_CACHE = flags.DEFINE_bool(
    "cache", True, "Keep the features of clips in the user's cache folder, by their content."
)
_SECONDS = flags.DEFINE_float("seconds", 120.0, "Time limit for the reading of one clip.", 0.001)
_PRECISION = flags.DEFINE_enum(
    "precision",
    None,
    list(PRECISIONS),
    "What the network computes in; default: what a saved classifier had, else tf32.",
)


def main(argv: Sequence[str]) -> None:
    """Runs the command with the parsed flags."""
    del argv
    began = time.monotonic()
    _check_flags()
    _check_outputs()
    queries = _queries()
    support = list_support(_SUPPORT.value) if _SUPPORT.value else None
    _check_overwritten(support, queries)
    # This imports JAX, for which a mistake in the flags should not have to wait.
    from molo_jax import predict_run as run

    options = run.Options(
        weights=_WEIGHTS.value or None,
        classifier=_CLASSIFIER.value or None,
        method=_METHOD.value or "",
        precision=_PRECISION.value,
        unknown=_UNKNOWN.value,
        cache=_CACHE.value,
        seconds=_SECONDS.value,
    )
    timing = run.Timing(began)
    classifier = run.make_classifier(options, support, timing)
    failures = list(classifier.failures_)
    for line in run.notes(classifier):
        logging.warning("%s", line)
    if _SAVE.value:
        classifier.save(_SAVE.value, with_weights=_WITH_WEIGHTS.value)
        saved = printable(_SAVE.value)
        print(f"{saved}: the classifier; --classifier={saved} uses it")
    if _WINDOW.value:
        window = parse_seconds("window", _WINDOW.value)
        timeline = run.Timeline(
            window=window,
            stride=parse_seconds("stride", _STRIDE.value) if _STRIDE.value else window / 4,
            shortest=parse_seconds("shortest", _SHORTEST.value) if _SHORTEST.value else 0.0,
            windows=[Path(path) for path in _OUT.value],
            segments=Path(_SEGMENTS.value) if _SEGMENTS.value else None,
            subtitles=[Path(path) for path in _SUBTITLES.value],
            annotated=Path(_ANNOTATE.value) if _ANNOTATE.value else None,
        )
        failures += run.label_videos(classifier, queries, timeline)
        timing.note("labels", len(queries))
    elif queries:
        with Progress("clips", "clips", len(queries)) as bar:
            results = run.predict_queries(classifier, queries, bar.update, keep=bool(_REPORT.value))
        timing.note("prediction", len(queries))
        failures += run.show(classifier, results)
        for path in _OUT.value:
            run.write_predictions(Path(path), classifier, results)
        if _REPORT.value:
            run.write_page(Path(_REPORT.value), classifier, results, failures)
    print(timing.line())
    if failures:
        raise MoloError(
            f"{len(failures)} of the clips could not be used:\n"
            + "\n".join(run.failure_line(failure) for failure in failures)
        )


def _check_flags() -> None:
    if not _CLASSIFIER.value:
        for name, holder in (("weights", _WEIGHTS), ("support", _SUPPORT)):
            if not holder.value:
                raise UsageError(
                    f"--{name} is missing; for example: python -m molo_jax.predict"
                    " --weights=runs/folder --support=clips --videos=new.mp4"
                )
    elif _SUPPORT.value:
        raise UsageError("--classifier has its classes already; leave --support out")
    elif _METHOD.value:
        raise UsageError("--classifier has its method already; leave --method out")
    if "" in _VIDEOS.value:
        raise UsageError("--videos= is empty: expected a clip or a folder of clips")
    if not _VIDEOS.value and not _SAVE.value:
        raise UsageError("--videos=FILE or --videos=DIR is missing: what is to be predicted?")
    if not _WINDOW.value:
        only = (
            ("stride", _STRIDE),
            ("shortest", _SHORTEST),
            ("segments", _SEGMENTS),
            ("annotate", _ANNOTATE),
        )
        for name, holder in (*only, ("subtitles", _SUBTITLES)):
            if holder.value:
                raise UsageError(f"--{name} is for long videos; it needs --window, such as 2s")
    else:
        for name, holder in (("window", _WINDOW), ("stride", _STRIDE), ("shortest", _SHORTEST)):
            if holder.value:
                parse_seconds(name, holder.value)
        if _REPORT.value:
            raise UsageError("--report explains clips; it cannot be combined with --window")
    if _WITH_WEIGHTS.value and not _SAVE.value:
        raise UsageError("--with_weights belongs to --save=FILE")
    try:
        if _UNKNOWN.value not in (None, "auto", "off") and not 0 < float(_UNKNOWN.value) < float(
            "inf"
        ):
            raise ValueError
    except ValueError:
        raise UsageError(
            f"--unknown={_UNKNOWN.value}: expected auto, off or a number above 0, such as 1.3"
        ) from None


def _outputs() -> list[tuple[str, str, tuple[str, ...]]]:
    """Returns the files that are to be written: flag, name and the endings that it may have."""
    kinds: list[tuple[str, str, tuple[str, ...]]] = [
        ("out", path, (".csv",) if _WINDOW.value else (".csv", ".json")) for path in _OUT.value
    ]
    kinds += [("subtitles", path, (".srt", ".vtt")) for path in _SUBTITLES.value]
    for name, holder, endings in (
        ("report", _REPORT, (".html", ".htm")),
        ("segments", _SEGMENTS, (".csv",)),
        ("annotate", _ANNOTATE, (".mp4",)),
        ("save", _SAVE, ()),
    ):
        if holder.value:
            kinds.append((name, holder.value, endings))
    return kinds


def _check_outputs() -> None:
    """Finds out before the work whether the files can be written, and are of a known kind."""
    for name, text, endings in _outputs():
        path = Path(text)
        if endings and path.suffix.lower() not in endings:
            raise UsageError(
                f"--{name}={text}: expected a name that ends in {' or '.join(endings)}"
            )
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise UsageError(f"--{name}={text}: expected a file in a folder that exists")
        if not os.access(path.absolute().parent, os.W_OK):
            raise UsageError(f"--{name}={text}: the folder cannot be written to")


def _check_overwritten(support: SupportFiles | None, queries: Sequence[Query]) -> None:
    """Finds out before the work whether a file would be written over another one of the run."""
    taken = {}
    for query in queries:
        taken[os.path.realpath(query.path)] = f"a clip of --videos ({printable(query.path)})"
    for path in (path for paths in support.classes.values() for path in paths) if support else ():
        taken[os.path.realpath(path)] = f"a clip of --support ({printable(path)})"
    for name, holder in (("weights", _WEIGHTS), ("classifier", _CLASSIFIER)):
        if holder.value:
            taken[os.path.realpath(holder.value)] = f"--{name}={printable(holder.value)}"
    for name, text, _ in _outputs():
        flag, path = f"--{name}={printable(text)}", os.path.realpath(text)
        if path in taken:
            raise UsageError(f"{flag} is the same file as {taken[path]}; choose another name")
        taken[path] = flag


def _queries() -> list[Query]:
    queries = [query for text in _VIDEOS.value for query in list_videos(text)]
    one = [("annotate", _ANNOTATE), ("segments", _SEGMENTS), ("subtitles", _SUBTITLES)]
    if _WINDOW.value:
        one.append(("out", _OUT))
    for name, holder in one:
        if holder.value and len(queries) != 1:
            raise UsageError(
                f"--{name} is for one video with --window, and there are {len(queries)}"
            )
    return queries


if __name__ == "__main__":
    cli.run(main)
