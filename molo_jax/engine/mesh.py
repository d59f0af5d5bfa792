"""The devices of all hosts in a row, and where arrays lie on them."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# The mesh axis over which episodes are spread.
DATA_AXIS = "data"


@runtime_checkable
class Device(Protocol):
    """What is known of a device: its own number, and that of its host (process)."""

    id: int
    process_index: int


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh over the given devices (all of them by default).

    The devices of a host (process) stand behind each other, and hosts are in the order of their
    numbers: a host's share of a chunk of episodes is then contiguous, and the chunk is in the order
    of the episodes. `jax.make_mesh` may choose another order, by the wires between the devices.
    """
    ordered = sorted(jax.devices() if devices is None else devices, key=_host_and_number)
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
    for device in sorted(jax.devices() if devices is None else devices, key=_host_and_number):
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
