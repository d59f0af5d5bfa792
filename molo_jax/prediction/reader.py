"""Reads clips and embeds them: decoded ahead in threads, several embedded at once, kept on disk."""

import collections
import dataclasses
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from molo_jax.data.store.processes import cores
from molo_jax.errors import MoloError, shortened
from molo_jax.prediction.clips import Clip, Source, identify, read_clip
from molo_jax.prediction.embedder import EmbeddedClip, Embedder

# Clips that are decoded at the same time.
_READERS = min(4, cores())


class ClipReader:
    """Makes embedded clips of files and arrays.

    Args:
        embedder: the network.
        cache: keeps embedded clips by the digest of their content, with the methods
            ``get(digest) -> EmbeddedClip | None`` and ``put(clip)``; or None.
        seconds: time limit for the decoding of one clip.

    Attributes:
        found: number of clips that the cache had.
    """

    def __init__(self, embedder: Embedder, cache: Any, seconds: float):
        self._embedder, self._cache, self._seconds = embedder, cache, seconds
        self.found = 0

    def embedded(self, sources: Iterable[Any]) -> Iterator[EmbeddedClip | MoloError]:
        """Reads and embeds clips, and lets through those that are embedded already.

        Yields:
            For each source, in their order, the clip, or what is wrong with it.
        """
        waiting: list[Clip | EmbeddedClip | MoloError] = []

        def finished() -> Iterator[EmbeddedClip | MoloError]:
            fresh = [each for each in waiting if isinstance(each, Clip)]
            done = iter(self._embedder.embed(fresh))
            for each in waiting:
                if not isinstance(each, Clip):
                    yield each
                    continue
                clip = next(done)
                if self._cache is not None:
                    self._cache.put(clip)
                yield clip
            waiting.clear()

        for each in _in_threads(self._read, sources):
            waiting.append(each)
            if sum(isinstance(e, Clip) for e in waiting) == self._embedder.clips_at_once:
                yield from finished()
        yield from finished()

    def _read(self, source: Any) -> Clip | EmbeddedClip | MoloError:
        if isinstance(source, EmbeddedClip):
            return source
        try:
            source = _checked(source)
            name, digest = identify(source)
            if self._cache is not None and (found := self._cache.get(digest)) is not None:
                self.found += 1
                return dataclasses.replace(found, name=name)
            rule = self._embedder.network.rule
            return read_clip(source, rule, digest=digest, seconds=self._seconds)
        except MoloError as error:
            return error


def _checked(source: Any) -> Source:
    """Returns a path or an array.

    Raises:
        MoloError: the source is neither.
    """
    if isinstance(source, (str, os.PathLike, np.ndarray)):
        return source
    if hasattr(source, "__array__") and hasattr(source, "dtype"):
        return np.asarray(source)
    raise MoloError(
        f"{shortened(str(source))} is no clip; expected a path, or an array (t, h, w, 3) of uint8"
    )


def _in_threads(read: Any, sources: Iterable[Any]) -> Iterator[Any]:
    """Yields `read(source)` of each source, in their order; a few of them are read ahead."""
    ahead: collections.deque[Future] = collections.deque()
    pool = ThreadPoolExecutor(_READERS)
    try:
        for source in sources:
            ahead.append(pool.submit(read, source))
            if len(ahead) > 2 * _READERS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        # Whoever interrupts this does not wait for videos that are being decoded.
        pool.shutdown(wait=False, cancel_futures=True)
