"""The preparation of a data set: finds its videos, checks or prepares them, and reports on them."""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import logging

from molo_jax.console import Progress
from molo_jax.data.lists.finder import Found, VideoFolder, printable
from molo_jax.data.lists.splits import Split
from molo_jax.data.store.processes import in_order
from molo_jax.data.store.records import Listed, Manifest, Outcome, Settings, prepared_folder
from molo_jax.data.store.report import Need, Report, VideoState
from molo_jax.data.video.decode import BadVideoError, one_video, probe
from molo_jax.data.video.encode import EncodedVideo, encode_or_reason
from molo_jax.errors import MoloError
from molo_jax.files import locked

if TYPE_CHECKING:
    from molo_jax.data.store.beam import Beam

# Videos that the size of the prepared data is estimated from, and how many it takes to bother.
_SAMPLE, _WORTH_A_SAMPLE = 16, 64
# Sub-folders that are named.
_WARNINGS = 5
# Of an ArrayRecord file and a manifest, for each video.
_OVERHEAD = 2000

_Lists = Mapping[str, Sequence[Listed]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be prepared, and how.

    Attributes:
        settings: how the frames are stored.
        lists: the listed videos of each split, in the order of the list.
        needs: the episodes that each split should have enough videos for.
        num_frames: frames of a clip; a video with fewer is too short.
        workers: processes; 0 for one per CPU core.
        seconds: time limit of a video.
    """

    settings: Settings
    lists: _Lists
    needs: Mapping[str, Need]
    num_frames: int
    workers: int
    seconds: float


def find_videos(
    splits: Mapping[str, Split], root: str | os.PathLike[str], *, anywhere: bool = True
) -> _Lists:
    """Looks for the videos of all lists in a folder, whatever its layout.

    Args:
        splits: the lists.
        root: the folder.
        anywhere: False for lists that were made from this very folder: only the listed paths count.

    Returns:
        The lines of each list with their files.

    Raises:
        MoloError: the folder cannot be listed, or holds none of the videos.
    """
    folder = VideoFolder.index(root)
    names = [v.name for split in splits.values() for videos in split.videos for v in videos]
    finder = folder.finder(names, anywhere)
    lists = {name: _find_split(split, finder) for name, split in splits.items()}
    for path, reason in list(folder.unlistable.items())[:_WARNINGS]:
        logging.warning("%s was left out: %s", printable(path), reason)
    if not any(video.usable for listed in lists.values() for video in listed):
        raise MoloError(
            f"none of the {len(names)} listed videos is in {os.fspath(root)}, for example"
            f" {names[0]!r} with any of the usual extensions; is it the folder of the videos?"
        )
    return lists


def _find_split(split: Split, find: Any) -> list[Listed]:
    rows = [
        (video, class_name)
        for videos, class_name in zip(split.videos, split.class_names, strict=True)
        for video in videos
    ]
    rows.sort(key=lambda row: row[0].line)
    return [_listed(video.name, video.class_id, name, find(video.name)) for video, name in rows]


def _listed(name: str, class_id: int, class_name: str, found: Found) -> Listed:
    note = f"further files, not used: {', '.join(found.others)}" if found.others else ""
    listed = Listed(name, class_id, class_name, found.path, found.reason, note)
    if not listed.usable:
        return listed
    try:
        status = os.stat(found.path)
    except OSError as error:
        return dataclasses.replace(listed, reason=error.strerror or str(error))
    return dataclasses.replace(listed, size=status.st_size, mtime_ns=status.st_mtime_ns)


def check(plan: Plan) -> Report:
    """Looks at every video without decoding it: is it there, can it be opened, is it too short?"""
    videos = [video for listed in plan.lists.values() for video in listed]
    files = [video.file for video in videos if video.usable]
    results = in_order(
        probe_or_reason,
        ((file,) for file in files),
        workers=plan.workers,
        seconds=plan.seconds,
    )
    with Progress("check", "videos", len(files)) as progress:
        outcomes = {}
        for split, listed in plan.lists.items():
            outcomes[split] = [_outcome(video, results, progress) for video in listed]
    return _report(plan, plan.lists, outcomes)


def _outcome(video: Listed, results: Iterator[int | str], progress: Progress) -> Outcome:
    if not video.usable:
        return Outcome(reason=video.reason)
    result = next(results)
    progress.update(1)
    return Outcome(reason=result) if isinstance(result, str) else Outcome(length=result)


def probe_or_reason(path: str) -> int | str:
    """Number of frames of a video as its header tells, or why it cannot be used."""
    try:
        with one_video(path):
            return probe(path).length
    except BadVideoError as error:
        return error.reason


def prepare(
    plan: Plan,
    out: str | os.PathLike[str],
    *,
    begin: Callable[[], object] = lambda: None,
    force: bool = False,
    beam: "Beam | None" = None,
) -> Report:
    """Prepares the videos that are not yet prepared.

    Args:
        plan: what and how.
        out: folder of the prepared data sets.
        begin: called once it is sure that the folder is for this plan.
        force: begin even if the disk looks too small.
        beam: the Apache Beam runner that does the work; None for processes here.

    Returns:
        What became of every video.

    Raises:
        MoloError: another preparation is at work there; the folder holds other settings; the disk
            is too small or a file cannot be written; no video of a split can be used.
    """
    # TFDS takes a while to import.
    from molo_jax.data.store.tfds_builder import FewShotVideos

    folder = prepared_folder(out, plan.settings.dataset).parent
    with lock(folder), contextlib.ExitStack() as stack:
        progress: list[Progress] = []
        builder = FewShotVideos(
            data_dir=os.fspath(out),
            settings=plan.settings,
            lists=plan.lists,
            workers=plan.workers,
            seconds=plan.seconds,
            advance=lambda count: progress[0].update(count),
            beam=beam,
        )
        unfinished = builder.unfinished()
        begin()
        todo = [path for shard in unfinished for path, _ in shard.tasks()]
        if not unfinished:
            logging.info("all videos are prepared already in %s", builder.data_path)
        elif not force:
            _check_space(plan, todo, folder)
        progress.append(stack.enter_context(Progress("prepare", "videos", len(todo))))
        builder.download_and_prepare()
        return _report(plan, *_lines(builder.manifests()))


def lock(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Makes a folder, and keeps a second preparation out of it until the block or process ends.

    Returns:
        A context; entering it raises MoloError, naming the folder and the process that is at work
        in it, or the lock file that cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return locked(
        folder / ".lock",
        lambda who: (
            f"another preparation{f' ({who})' if who else ''} is at work in {folder}; wait for it"
        ),
    )


def _check_space(plan: Plan, todo: Sequence[str], folder: Path) -> None:
    """Estimates the size from a few videos.

    Raises:
        MoloError: with the size and the free space, if that is less.
    """
    if len(todo) < _WORTH_A_SAMPLE:
        return
    sample = todo[:: -(-len(todo) // _SAMPLE)]
    logging.info("decoding %d of the videos to estimate the room they all need", len(sample))
    tasks = ((path, plan.settings) for path in sample)
    results = list(in_order(encode_or_reason, tasks, workers=plan.workers, seconds=plan.seconds))
    sizes = [sum(map(len, r.images)) + _OVERHEAD for r in results if isinstance(r, EncodedVideo)]
    if not sizes:
        return
    need, free = round(sum(sizes) / len(sizes) * len(todo)), shutil.disk_usage(folder).free
    logging.info("%d videos need about %s; %s are free", len(todo), _size(need), _size(free))
    if need > free:
        raise MoloError(
            f"preparing {len(todo)} videos needs about {_size(need)}, but {folder} has"
            f" {_size(free)} free. Choose another --out, lower --quality or --max_frames, or begin"
            " all the same with --force"
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _lines(
    manifests: Mapping[str, Sequence[Manifest]],
) -> tuple[dict[str, list[Listed]], dict[str, list[Outcome]]]:
    """What was prepared of each split: its lines, and what became of them."""
    listed = {s: [line for a in group for line in a.listed] for s, group in manifests.items()}
    outcomes = {s: [o for a in group for o in a.outcomes] for s, group in manifests.items()}
    return listed, outcomes


def _report(plan: Plan, lists: _Lists, outcomes: Mapping[str, Sequence[Outcome]]) -> Report:
    states = [
        VideoState(
            split=split,
            class_id=video.class_id,
            class_name=video.class_name,
            name=video.name,
            file=video.file,
            status=_status(video, outcome),
            frames=outcome.length or None,
            reason=outcome.reason,
            note=_note(plan.settings, video, outcome),
        )
        for split, listed in lists.items()
        for video, outcome in zip(listed, outcomes[split], strict=True)
    ]
    return Report(plan.settings.dataset, states, plan.needs, plan.num_frames)


def _note(settings: Settings, video: Listed, outcome: Outcome) -> str:
    """A remark on the file, and on a video that is too long for all its frames to be stored."""
    notes = [video.note] if video.note else []
    if not outcome.reason and outcome.length > settings.most_frames and not settings.max_frames:
        notes.append(
            f"{outcome.length} frames, of which {settings.most_frames} are stored, evenly spaced"
        )
    return "; ".join(notes)


def _status(video: Listed, outcome: Outcome) -> str:
    if not video.file:
        return "missing"
    return "unreadable" if outcome.reason else "good"
