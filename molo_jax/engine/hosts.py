"""The processes of one run on several hosts: how many there are, and what they tell each other.

Everything here goes through the key-value store of JAX's coordination service, so nothing is
compiled, no number is rounded, and the devices are left alone. With one process every function
returns at once. JAX is not imported here: whoever has started several processes has imported it.

All processes call the functions that exchange something in the same order.
"""

import contextlib
import functools
import io
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

# What is exchanged has keys that begin so.
_PREFIX = "molo_jax"
# Milliseconds of one question to the store. Between two of them Python answers signals.
_ASKED_MS = 1000
_NOT_YET = "DEADLINE_EXCEEDED"
# How many `alone` blocks the program is in.
_alone: list[None] = []


def index() -> int:
    """Returns the number of this process, from 0 on."""
    state = _state()
    return state.process_id if state else 0


def count() -> int:
    """Returns the number of processes; 1 where `--distributed` was not given."""
    state = _state()
    return state.num_processes if state else 1


def is_first() -> bool:
    """Whether this process writes what is written once: logs, results and pages."""
    return index() == 0


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Lets this process work in the block as if it were the only one, with its own devices.

    For what one process does while the others do something else, or wait. What is built in the
    block serves in the block only.
    """
    _alone.append(None)
    try:
        yield
    finally:
        _alone.pop()


def broadcast(value: Any) -> Any:
    """Returns the value of process 0 in every process.

    Args:
        value: what `json` writes: numbers (exactly), texts, lists, dictionaries. The values of the
            other processes are not looked at.
    """
    if count() == 1:
        return value
    key = next(_exchange().keys)
    if is_first():
        _exchange().put(key, json.dumps(value).encode())
        return json.loads(json.dumps(value))
    return json.loads(_exchange().take(key))


def gather(array: np.ndarray) -> list[np.ndarray]:
    """Returns the arrays of all processes, in their order, in every process.

    Args:
        array: some megabytes at most, of any type but objects. The processes' shapes and types may
            differ. Arrays on devices are gathered by
            `jax.experimental.multihost_utils.process_allgather`.
    """
    if count() == 1:
        return [array]
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    given = _exchange().all_of(file.getvalue())
    return [np.load(io.BytesIO(content), allow_pickle=False) for content in given]


def gather_values(value: Any) -> list[Any]:
    """Returns the values of all processes, in their order, in every process.

    Args:
        value: what `json` writes.
    """
    if count() == 1:
        return [value]
    return [json.loads(content) for content in _exchange().all_of(json.dumps(value).encode())]


def largest(value: int) -> int:
    """Returns the largest of the processes' numbers, in every process."""
    return max(gather_values(value))


class LargestSoFar:
    """The largest of the processes' numbers, which a call gives and the next call returns.

    The devices find it out meanwhile, so nobody waits; all processes must call equally often. With
    one process, a call returns its own number.
    """

    def __init__(self):
        self._running: Any = None

    def __call__(self, value: int) -> int:
        """Gives a number; returns the largest of the call before, 0 in the first call."""
        if count() == 1:
            return value
        import jax

        before = self._running
        # All devices, between which the way is open.
        self._running = _started_maximum(value, tuple(jax.devices()))
        return 0 if before is None else int(before)


def connect_devices(devices: Sequence[Any]) -> None:
    """Lets devices of several processes communicate for the first time; all call it together.

    On a CPU, devices wait half a minute for those of a late process when they first connect, and
    long ever after. So this is done when all are there, before one compiles for long.

    Args:
        devices: those that will compute together, in their order.
    """
    if count() > 1 and len({device.process_index for device in devices}) > 1:
        barrier("devices connect")
        int(_started_maximum(index(), tuple(devices)))


def _started_maximum(value: int, devices: tuple[Any, ...]) -> Any:
    """Starts a reduction over devices of all processes; its result is an array on them."""
    import jax

    sharding, maximum = _maximum(devices)
    own = np.full(len(sharding.mesh.local_devices), value, np.int32)
    return maximum(jax.make_array_from_process_local_data(sharding, own))


@functools.cache
def _maximum(devices: tuple[Any, ...]) -> tuple[Any, Callable[[Any], Any]]:
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    mesh = jax.sharding.Mesh(np.array(devices), ("devices",))
    sharding, whole = NamedSharding(mesh, PartitionSpec("devices")), PartitionSpec()
    maximum = jax.jit(lambda x: x.max(), out_shardings=NamedSharding(mesh, whole))
    return sharding, maximum


def barrier(name: str) -> None:
    """Returns when all processes have come here.

    Args:
        name: the place, which must be the same in all processes.

    Raises:
        RuntimeError: another process waits at another place, which is a defect of the program.
    """
    names = gather_values(name)
    if set(names) != {name}:
        raise RuntimeError(f"the processes wait at different places: {names}")


def _state() -> Any:
    """Returns what JAX knows of its processes; None where nobody has started several."""
    module = sys.modules.get("jax._src.distributed")
    state = module and module.global_state
    return state if state and state.client is not None and not _alone else None


class _Exchange:
    """Bytes that go from process to process through the coordination service.

    Args:
        client: that of JAX.
        number: of this process.
        total: of processes.
    """

    def __init__(self, client: Any, number: int, total: int):
        self.keys = (f"{_PREFIX}/{round_}" for round_ in itertools.count())
        self._client, self._number, self._total = client, number, total
        # Own keys that another process may still have to read.
        self._own: list[str] = []

    def put(self, key: str, content: bytes) -> None:
        """Gives something to the others."""
        self._client.key_value_set_bytes(key, content)
        self._own.append(key)

    def take(self, key: str) -> bytes:
        """Waits for what another process gives.

        Without a limit: another process may compile or write for long, and that one is lost is
        found out elsewhere.
        """
        while True:
            try:
                return self._client.blocking_key_value_get_bytes(key, _ASKED_MS)
            # JAX has one type for all errors of the service.
            except Exception as error:
                if _NOT_YET not in str(error):
                    raise

    def all_of(self, content: bytes) -> list[bytes]:
        """Returns what all processes give in this round."""
        key, before = next(self.keys), list(self._own)
        self.put(f"{key}/{self._number}", content)
        given = [self.take(f"{key}/{number}") for number in range(self._total)]
        # Everybody has come to this round, and has read what was given in those before.
        for old in before:
            self._client.key_value_delete(old)
        self._own = [own for own in self._own if own not in before]
        return given


def _exchange() -> _Exchange:
    state = _state()
    return _exchange_of(state.client, state.process_id, state.num_processes)


_exchange_of: Callable[[Any, int, int], _Exchange] = functools.cache(_Exchange)
