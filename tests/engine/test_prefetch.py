import ast
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from molo_jax.engine.mesh import make_mesh
from molo_jax.engine.prefetch import place_episodes, prefetched
from molo_jax.errors import MoloError


def test_batches_are_placed_one_ahead_of_their_use_and_come_in_order():
    events = []

    def batches():
        for number in range(4):
            events.append(f"made {number}")
            yield number

    def place(number):
        events.append(f"placed {number}")
        return number

    for number in prefetched(batches(), place):
        events.append(f"used {number}")
    assert [event for event in events if not event.startswith("made")] == [
        *("placed 0", "placed 1", "used 0", "placed 2", "used 1", "placed 3", "used 2", "used 3")
    ]


def test_an_error_comes_behind_the_batches_before_it():
    def batches():
        yield from (0, 1, 2)
        raise MoloError("bad video")

    placed = prefetched(batches(), lambda number: number, ahead=2)
    assert [next(placed) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(MoloError, match="bad video"):
        next(placed)


def test_a_consumer_that_stops_early_closes_the_stream():
    closed = []

    def batches():
        try:
            yield from range(9)
        finally:
            closed.append(True)

    stream = batches()
    placed = prefetched(stream, lambda number: number)
    assert next(placed) == 0
    placed.close()
    stream.close()
    assert closed == [True]


def test_episodes_keep_their_order_on_the_devices():
    chunk = {"index": np.arange(6, dtype=np.int32), "support": np.arange(42).reshape(6, 7)}
    placed = place_episodes(chunk, make_mesh(jax.devices()[:1]))
    assert all(isinstance(array, jax.Array) for array in placed.values())
    np.testing.assert_array_equal(placed["index"], chunk["index"])
    np.testing.assert_array_equal(placed["support"], chunk["support"])


PROGRAM = """
import sys
import ast
import os
import socket
import subprocess
import sys

import jax
import numpy as np
from molo_jax.engine.prefetch import place_episodes
from molo_jax.engine.mesh import make_mesh

count, index, port = map(int, sys.argv[1:])
if count > 1:
    jax.distributed.initialize(f"localhost:{port}", count, index)
batch = {"index": np.arange(8, dtype=np.int32), "query": np.arange(24).reshape(8, 3)}
share = 8 // count
mine = {name: array[index * share : (index + 1) * share] for name, array in batch.items()}
placed = place_episodes(mine, make_mesh())
for name, array in placed.items():
    assert array.shape == batch[name].shape, array.shape
    for shard in array.addressable_shards:
        assert shard.data.shape[0] == 2
seen = {
    shard.device.id: np.asarray(shard.data).ravel().tolist()
    for shard in placed["index"].addressable_shards
}
print(sorted(seen.items()))
"""


def run_hosts(count: int, devices: int) -> list[str]:
    """What each of several processes with devices of their own prints."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *map(str, (count, index, port))],
            *(-1, None, subprocess.PIPE, subprocess.PIPE),
            text=True,
            env=environment,
        )
        for index in range(count)
    ]
    results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * count, results
    return [output.strip() for output, _ in results]


def test_the_episodes_of_a_chunk_lie_on_the_devices_in_order():
    (output,) = run_hosts(1, devices=4)
    assert output == "[(0, [0, 1]), (1, [2, 3]), (2, [4, 5]), (3, [6, 7])]"


def test_every_host_places_its_own_share_of_the_chunk():
    outputs = run_hosts(2, devices=2)
    shares = [[episodes for _, episodes in ast.literal_eval(output)] for output in outputs]
    assert shares == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
