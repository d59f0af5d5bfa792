"""The devices of all hosts in a row, and where arrays lie on them."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from molo_jax.engine import hosts

Tree = TypeVar("Tree")

# The mesh axis over which episodes are spread.
DATA_AXIS = "data"


@runtime_checkable
class Device(Protocol):
    """What is known of a device: its own number, and that of its host (process)."""

    id: int
    process_index: int


def all_devices() -> list[jax.Device]:
    """Returns the devices of all hosts; within `hosts.alone` those of this host."""
    return jax.devices() if hosts.count() > 1 else jax.local_devices()


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh over the given devices (all of them by default).

    The devices of a host (process) stand behind each other, and hosts are in the order of their
    numbers: a host's share of a chunk of episodes is then contiguous, and the chunk is in the order
    of the episodes. `jax.make_mesh` may choose another order, by the wires between the devices.
    """
    ordered = sorted(all_devices() if devices is None else devices, key=_host_and_number)
    types = (jax.sharding.AxisType.Auto,)
    return Mesh(np.array(ordered), (DATA_AXIS,), axis_types=types)


def _host_and_number(device: Device) -> tuple[int, int]:
    return device.process_index, device.id


def even_devices(
    devices: Sequence[Device] | None = None, *, parts: int | None = None
) -> list[Device]:
    """Chooses devices, the same number on every host (process), none of which is left without.

    Args:
        devices: those there are; all of them by default.
        parts: what is spread over the devices, each of which must get the same number; None: any
            number of devices will do.

    Returns:
        As many devices as can be, in the order of `make_mesh`; none if the parts cannot be spread
        over the hosts.
    """
    of_host: dict[int, list[Device]] = {}
    for device in sorted(all_devices() if devices is None else devices, key=_host_and_number):
        of_host.setdefault(device.process_index, []).append(device)
    most = min(map(len, of_host.values()))
    fitting = (n for n in range(most, 0, -1) if not (parts or 0) % (n * len(of_host)))
    count = next(fitting, 0)
    return [device for own in of_host.values() for device in own[:count]]


def episodes_sharding(mesh: Mesh) -> NamedSharding:
    """Placement of a chunk of episodes: over all devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def clips_sharding(mesh: Mesh) -> NamedSharding:
    """Placement of separate clips: the leading axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Placement of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """Puts the arrays of process 0 on every device of the mesh, bit for bit.

    Hosts of other kinds may have computed other last digits; from here on, all have the same.

    Args:
        tree: arrays on this host, of the same shapes and types on every host.
        mesh: the devices of all hosts.
    """
    whole = replicated(mesh)
    if hosts.count() == 1:
        return jax.device_put(tree, whole)
    leaves, structure = jax.tree.flatten(jax.device_get(tree))
    sent = _broadcast_bytes(b"".join(np.asarray(leaf).tobytes() for leaf in leaves), mesh)
    placed, start = [], 0
    for leaf in leaves:
        end = start + leaf.nbytes
        value = np.frombuffer(sent[start:end].tobytes(), leaf.dtype).reshape(leaf.shape)
        # A step gives the memory of its state away, so it must be the array's own.
        copies = [jax.device_put(value, own, may_alias=False) for own in mesh.local_devices]
        placed.append(jax.make_array_from_single_device_arrays(leaf.shape, whole, copies))
        start = end
    return jax.tree.unflatten(structure, placed)


def _broadcast_bytes(content: bytes, mesh: Mesh) -> np.ndarray:
    """Returns the bytes of process 0 on every host; all hosts give as many."""
    nothing = np.zeros((1, len(content)), np.uint8)
    own = np.frombuffer(content, np.uint8)[None]
    rows = jax.make_array_from_callback(
        (mesh.size, len(content)),
        episodes_sharding(mesh),
        lambda at: own if at[0].start in (None, 0) else nothing,
    )
    total = jax.jit(lambda x: jnp.sum(x, 0, dtype=np.uint8), out_shardings=replicated(mesh))(rows)
    return np.asarray(total)


def on_this_host(tree: Tree) -> Tree:
    """Returns arrays that every device holds whole as arrays of this host's first device.

    What is computed from them concerns this host alone: the others need not do the same.
    """
    return jax.tree.map(_own_copy, tree)


def _own_copy(array: Any) -> Any:
    if not isinstance(array, jax.Array) or len(array.sharding.device_set) == 1:
        return array
    return array.addressable_data(0)
