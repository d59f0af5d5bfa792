"""Episodes and clips as a stream of numpy batches, decoded in parallel by tf.data.

The order and content of a stream do not depend on the number of workers or hosts.
"""

import atexit
import dataclasses
import os
import threading
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it announces itself, whatever the log level

import numpy as np
import tensorflow as tf

from molo_jax.data.clips.episodes import (
    INDEX_LIMIT,
    ClipRequest,
    EpisodeSampler,
    EpisodeSpec,
    ResolvedEpisode,
)
from molo_jax.data.clips.source import ClipSource
from molo_jax.data.store.processes import cores
from molo_jax.data.video.containers import BadVideoError
from molo_jax.errors import UsageError

tf.config.set_visible_devices([], "GPU")  # accelerators belong to JAX

EPISODE_FIELDS = {
    "support": np.uint8,
    "query": np.uint8,
    "support_labels": np.int32,
    "query_labels": np.int32,
    "support_classes": np.int32,
    "query_classes": np.int32,
    "index": np.int32,
}


_SMALL_FIELDS = tuple(field for field in EPISODE_FIELDS if field not in ("support", "query"))

_Arrays = dict[str, np.ndarray]
_Pack = Callable[[_Arrays], Any]

# An iterator that is alive when the interpreter shuts down waits forever for its threads, which
# wait for the interpreter.
_OPEN_STREAMS: weakref.WeakSet[Generator[Any, None, None]] = weakref.WeakSet()


@atexit.register
def _close_open_streams() -> None:
    for stream in list(_OPEN_STREAMS):
        stream.close()


class ClipBatch(NamedTuple):
    """A batch of clips.

    Attributes:
        positions: (b,) int32, position of each clip's request; -1 fills up the last batch.
        ok: (b,) bool, False for a bad video and for what fills up the last batch.
        clips: (b, t, h, w, c) uint8, zeros where not `ok`.
    """

    positions: np.ndarray
    ok: np.ndarray
    clips: np.ndarray


def episode_batches(
    dataset: ClipSource,
    sampler: EpisodeSampler,
    *,
    start: int,
    stop: int | None,
    batch_size: int,
    workers: int,
    prefetch: int,
    resize: int,
    sampling: str,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[dict[str, np.ndarray], None, None]:
    """Streams batches of episodes; batch g holds episodes start + g·batch_size and following.

    Close the stream (`contextlib.closing`) to stop it before its end. It holds about
    `prefetch + 1` batches and `workers` episodes in memory.

    Args:
        dataset: the videos.
        sampler: the episodes, of the same split.
        start: the first episode.
        stop: the episode to stop before; None for an endless stream.
        batch_size: episodes a batch, over all hosts: what their devices compute side by side. The
            hosts then compute consecutive episodes at the same time, as one host would.
        workers: episodes decoded at the same time; 0 for one per CPU core.
        prefetch: batches kept ready.
        resize: side of the square that frames are resized to.
        sampling: one of `frames.SAMPLINGS`.
        process_index: number of this host, which gets its contiguous share of every batch.
        process_count: number of hosts.

    Returns:
        A generator of dictionaries of read-only arrays, e episodes of this host each; fewer in the
        last batch if batch_size does not divide stop - start:
        support (e, s, t, h, w, c) and query (e, q, t, h, w, c) uint8, support_labels (e, s) and
        query_labels (e, q) int32 in 0..way-1, support_classes (e, s) and query_classes (e, q)
        int32 positions among the split's classes, index (e,) int32. `next` raises MoloError when
        a video is bad and the data set's policy is "fail", or a class has too few usable videos.

    Raises:
        UsageError: an argument is out of range, or the data were prepared for other clips.
        MoloError: a class has too few videos that are not known to be bad.
    """
    reader = _Reader(dataset, sampling, resize, False, sampler.num_frames)
    count = (INDEX_LIMIT if stop is None else stop) - start
    if process_count > 1:
        count = _host_count(count, batch_size, process_count, endless=stop is None)
    sampler.check_usable(dataset.is_bad)
    share = batch_size // process_count
    first = start + process_index * share

    def fill(position: int, arrays: _Arrays, place: int) -> None:
        batch, number = divmod(position, share)
        episode = reader.episode(
            sampler,
            sampler(first + batch * batch_size + number),
            arrays["support"][place],
            arrays["query"][place],
        )
        for field in _SMALL_FIELDS:
            arrays[field][place] = getattr(episode, field)

    clip = (sampler.num_frames, resize, resize, 3)
    supports, queries = (sampler.n_way * n for n in (sampler.n_shot, sampler.n_query))
    shapes = {"support": (supports, *clip), "query": (queries, *clip), "index": ()}
    shapes |= {f"support_{what}": (supports,) for what in ("labels", "classes")}
    shapes |= {f"query_{what}": (queries,) for what in ("labels", "classes")}
    fields = {name: (shapes[name], kind) for name, kind in EPISODE_FIELDS.items()}
    batches = _Batches(fill, fields, count, share, workers=workers, prefetch=prefetch)
    return batches.stream(dict)


def clip_batches(
    dataset: ClipSource,
    requests: Sequence[ClipRequest],
    *,
    batch_size: int,
    workers: int,
    prefetch: int,
    resize: int,
    sampling: str,
    static: bool = False,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[ClipBatch, None, None]:
    """Streams clips in the order of `requests`, in batches of one size.

    Close the stream (`contextlib.closing`) to stop it before its end.

    Args:
        dataset: the videos.
        requests: the clips, all of the same number of frames.
        batch_size: clips a batch, over all hosts; the last one is filled up with zeros.
        workers: clips decoded at the same time; 0 for one per CPU core.
        prefetch: batches kept ready.
        resize: side of the square that frames are resized to.
        sampling: one of `frames.SAMPLINGS`.
        static: show one frame T times in every clip.
        process_index: number of this host, which gets its contiguous share of every batch.
        process_count: number of hosts.

    Returns:
        A generator of `ClipBatch`, this host's share of each. A bad video has `ok` False if the
        data set's policy is "skip"; otherwise `next` raises BadVideoError.

    Raises:
        UsageError: an argument is out of range, or the data were prepared for other clips.
    """
    frames = len(requests[0].draws) if requests else None
    reader = _Reader(dataset, sampling, resize, static, frames)
    _at_least(1, batch_size=batch_size)
    share = _share(batch_size, process_count, "clips")

    def fill(position: int, arrays: _Arrays, place: int) -> None:
        batch, number = divmod(position, share)
        position = batch * batch_size + process_index * share + number
        clip = arrays["clips"][place]
        known = position < len(requests)
        arrays["positions"][place] = position if known else -1
        arrays["ok"][place] = known and reader.clip(requests[position], clip)
        if not arrays["ok"][place]:
            clip[:] = 0

    count = -(-len(requests) // batch_size) * share
    fields = {
        "positions": ((), np.int32),
        "ok": ((), np.bool_),
        "clips": ((frames or 0, resize, resize, 3), np.uint8),
    }
    batches = _Batches(fill, fields, count, share, workers=workers, prefetch=prefetch)
    return batches.stream(lambda arrays: ClipBatch(**arrays))


def _host_count(count: int, batch_size: int, process_count: int, *, endless: bool) -> int:
    """Number of episodes of one host; all hosts must see the same number of batches."""
    share = _share(batch_size, process_count, "episodes")
    if count % batch_size and not endless:
        raise UsageError(
            f"{count} episodes are no whole number of batches of {batch_size}, "
            f"which {process_count} processes need; change one of the numbers"
        )
    return count // batch_size * share


def _share(batch_size: int, process_count: int, what: str) -> int:
    """Number of elements of a batch that each host gets."""
    if batch_size % process_count:
        raise UsageError(
            f"a batch of {batch_size} {what} cannot be shared by {process_count} processes; "
            f"make the number of {what} a multiple of the number of processes"
        )
    return batch_size // process_count


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Decodes clips and episodes of a data set in one fixed way."""

    dataset: ClipSource
    sampling: str
    resize: int
    static: bool
    num_frames: int | None

    def __post_init__(self):
        _at_least(1, resize=self.resize)
        if self.num_frames is not None:
            self.dataset.check_use(
                sampling=self.sampling, num_frames=self.num_frames, resize=self.resize
            )

    def clip(self, request: ClipRequest, out: np.ndarray) -> bool:
        """Puts the clip into `out`; False for a bad video that the policy allows to leave out."""
        if self.dataset.is_bad(*request.video):
            return False
        try:
            self.dataset.read_clip(
                request, sampling=self.sampling, resize=self.resize, static=self.static, out=out
            )
        except BadVideoError:
            if self.dataset.on_bad_video == "fail":
                raise
            return False
        return True

    def episode(
        self, sampler: EpisodeSampler, spec: EpisodeSpec, support: np.ndarray, query: np.ndarray
    ) -> ResolvedEpisode:
        """Puts the clips of an episode into `support` and `query`.

        A video found to be bad on the way is left out as if that had been known before: the
        episode is resolved again, and the clips it keeps are not decoded twice.
        """
        done: dict[tuple[int, int], np.ndarray] = {}
        while True:
            episode = sampler.resolve(spec, self.dataset.is_bad)
            requests = (*episode.support, *episode.query)
            places = dict(zip((r.video for r in requests), (*support, *query), strict=True))
            done = _move(done, places)
            for request in requests:
                if request.video in done:
                    continue
                if not self.clip(request, places[request.video]):
                    break
                done[request.video] = places[request.video]
            else:
                return episode


def _move(
    clips: dict[tuple[int, int], np.ndarray], places: dict[tuple[int, int], np.ndarray]
) -> dict[tuple[int, int], np.ndarray]:
    """Copies those clips that still have a place to where it is now."""
    kept = {video: clip.copy() for video, clip in clips.items() if video in places}
    for video, clip in kept.items():
        places[video][:] = clip
    return {video: places[video] for video in kept}


def _at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise UsageError(f"{name} is {value}; expected at least {least}")


class _Batches:
    """Calls `fill` for the elements 0, 1, …, count - 1 on several threads, in batches in order.

    tf.data schedules the calls and hands on no more than their numbers: the arrays of a batch are
    made once, and every call writes its element where it will be used. Handing on the arrays
    would copy them three times, into fresh memory each time, which costs more than decoding JPEG.

    Args:
        fill: writes an element: its number, the arrays of its batch, and its place in them.
        fields: shape of an element and numpy type of each array.
        count: number of elements.
        batch_size: elements a batch.
        workers: calls of `fill` at the same time; 0 for one per CPU core.
        prefetch: batches kept ready.
    """

    def __init__(
        self,
        fill: Callable[[int, _Arrays, int], None],
        fields: Mapping[str, tuple[tuple[int, ...], type]],
        count: int,
        batch_size: int,
        *,
        workers: int,
        prefetch: int,
    ):
        _at_least(1, batch_size=batch_size)
        _at_least(0, workers=workers, prefetch=prefetch)
        self._fill, self._fields, self._count, self._batch_size = fill, fields, count, batch_size
        self._begun: dict[int, _Arrays] = {}
        self._lock = threading.Lock()
        self._failures: dict[int, Exception] = {}
        workers = workers or cores()

        @tf.autograph.experimental.do_not_convert
        def call(position):
            return tf.numpy_function(self._fill_noting_failure, [position], np.int64)

        elements = tf.data.Dataset.range(count)
        elements = elements.map(call, num_parallel_calls=workers, deterministic=True)
        batches = elements.batch(batch_size)
        if prefetch:
            batches = batches.prefetch(prefetch)
        self._dataset = batches.with_options(_options(workers))

    def stream(self, pack: _Pack) -> Generator[Any, None, None]:
        """Yields `pack(arrays)` of every batch; an error of `fill` is raised as it was."""
        stream = self._generate(pack)
        _OPEN_STREAMS.add(stream)
        return stream

    def _generate(self, pack: _Pack) -> Generator[Any, None, None]:
        try:
            for positions in self._dataset.as_numpy_iterator():
                yield pack(self._finished(int(positions[0]) // self._batch_size))
        except tf.errors.OpError:
            if not self._failures:
                raise
        # Raised out here, the error does not hold on to the traceback of TensorFlow's and with it
        # to the iterator. Results come in order: the first failing element is what surfaced.
        if self._failures:
            raise self._failures[min(self._failures)]

    def _arrays(self, batch: int) -> _Arrays:
        """The arrays of a batch, made by the first of its elements."""
        with self._lock:
            if batch not in self._begun:
                size = min(self._batch_size, self._count - batch * self._batch_size)
                self._begun[batch] = {
                    name: np.empty((size, *shape), kind)
                    for name, (shape, kind) in self._fields.items()
                }
            return self._begun[batch]

    def _finished(self, batch: int) -> _Arrays:
        with self._lock:
            arrays = self._begun.pop(batch)
        for array in arrays.values():
            array.flags.writeable = False
        return arrays

    def _fill_noting_failure(self, position: np.int64) -> np.int64:
        try:
            batch, place = divmod(int(position), self._batch_size)
            self._fill(int(position), self._arrays(batch), place)
        except Exception as error:  # of which TensorFlow would keep no more than the text
            self._failures[int(position)] = error
            raise
        return position


def _options(workers: int) -> tf.data.Options:
    options = tf.data.Options()
    # With autotuning on, closing an iterator can block for seconds.
    options.autotune.enabled = False
    options.threading.private_threadpool_size = workers
    return options
