"""Batches on their way to the devices, ahead of the computation."""

import collections
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import jax
from jax.sharding import Mesh

from molo_jax.engine.mesh import clips_sharding, episodes_sharding
from molo_jax.engine.step import Batch
from molo_jax.errors import MoloError

Made, Placed = TypeVar("Made"), TypeVar("Placed")


def place_episodes(chunk: Batch, mesh: Mesh) -> Batch:
    """Starts the transfer of this host's episodes of a chunk to its devices.

    Args:
        chunk: arrays (e, ...), this host's contiguous share of the episodes of a chunk.
        mesh: the devices of all hosts.

    Returns:
        Arrays (e over all hosts, ...), spread over the mesh.

    Raises:
        ValueError: the devices do not come out even.
    """
    sharding = episodes_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in chunk.items()
    }


class PlacedClips(NamedTuple):
    """Clips on the devices, (b over all hosts, ...), and which of them there are, (b,)."""

    clips: jax.Array
    ok: jax.Array


def place_clips(clips: Any, ok: Any, mesh: Mesh) -> PlacedClips:
    """Starts the transfer of this host's clips of a batch to its devices.

    Args:
        clips: (b, ...), this host's contiguous share of a batch.
        ok: (b,), whether each clip is there.
        mesh: the devices of all hosts.
    """
    sharding = clips_sharding(mesh)
    place = functools.partial(jax.make_array_from_process_local_data, sharding)
    return PlacedClips(place(clips), place(ok))


def prefetched(
    batches: Iterable[Made], place: Callable[[Made], Placed], ahead: int = 1
) -> Iterator[Placed]:
    """Yields `place(batch)` of every batch, which is called `ahead` batches before it is used.

    Transfers run while the devices compute. Memory: `ahead` + 1 batches on the devices. An error
    of `batches` is raised behind the batches before it.
    """
    waiting: collections.deque[Placed] = collections.deque()
    failure = None
    try:
        for batch in batches:
            waiting.append(place(batch))
            if len(waiting) > ahead:
                yield waiting.popleft()
    except MoloError as error:
        failure = error
    yield from waiting
    if failure:
        raise failure
