"""Which process of a run on several hosts this one is, and where they meet: flags and clusters."""

import dataclasses
import os
import re
from collections.abc import Callable
from importlib.util import find_spec

from absl import flags

from molo_jax.errors import UsageError

# Seconds in which all processes must have started.
START_SECONDS = 300
_ADDRESS = re.compile(r"(?:\[(?P<six>[^\[\]]+)\]|(?P<name>[^\s:\[\]]+)):(?P<port>\d+)")
_BY_HAND = "--coordinator=HOST:PORT --num_processes=N --process_id=I"
# What launchers of MPI set beside Open MPI 4, which JAX finds without mpi4py.
_MPI_LAUNCHERS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")


@dataclasses.dataclass(frozen=True)
class Asked:
    """The flags as they were given.

    Attributes:
        distributed: whether there are several processes.
        coordinator: address of process 0, or None.
        num_processes: how many there are, or None.
        process_id: which one this is, or None.
        start_seconds: in which all must have started.
    """

    distributed: bool = False
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    start_seconds: int = START_SECONDS


@dataclasses.dataclass(frozen=True)
class Place:
    """One process among several.

    Attributes:
        host, port: where process 0 listens.
        count: of processes.
        process: number of this one.
        devices: numbers of this host's devices that it may use; None: all.
        start_seconds: in which all must have started.
    """

    host: str
    port: int
    count: int
    process: int
    devices: tuple[int, ...] | None = None
    start_seconds: int = START_SECONDS


def define_flags() -> Callable[[], Asked]:
    """Defines the flags of a run on several hosts; returns the function that reads them."""
    holders = {
        "distributed": flags.DEFINE_bool(
            "distributed",
            False,
            "This process is one of several, which work together, usually one on each host. On"
            " Slurm, Kubernetes, MPI and Cloud TPU nothing else is needed.",
        ),
        "coordinator": flags.DEFINE_string(
            "coordinator",
            None,
            "With --distributed where no cluster says it: HOST:PORT, on which process 0 listens.",
        ),
        "num_processes": flags.DEFINE_integer(
            "num_processes", None, "With --coordinator: number of all processes."
        ),
        "process_id": flags.DEFINE_integer(
            "process_id", None, "With --coordinator: number of this process, from 0 on."
        ),
        "start_seconds": flags.DEFINE_integer(
            "start_seconds",
            START_SECONDS,
            "With --distributed: seconds in which all processes must have started.",
            lower_bound=1,
        ),
    }
    return lambda: Asked(**{name: holder.value for name, holder in holders.items()})


def place_of(asked: Asked) -> Place | None:
    """Returns the place of this process; None where it is the only one.

    Raises:
        UsageError: flags are missing, contradict each other or are no addresses and numbers; or
            nothing is given, and no cluster is found.
    """
    given = {
        "--coordinator": asked.coordinator,
        "--num_processes": asked.num_processes,
        "--process_id": asked.process_id,
    }
    names = [name for name, value in given.items() if value is not None]
    if not asked.distributed:
        if names:
            raise UsageError(f"{names[0]} is given without --distributed; add --distributed")
        return None
    if names and len(names) < len(given):
        missing = " and ".join(name for name in given if name not in names)
        raise UsageError(
            f"{missing} must be given with {' and '.join(names)}: {_BY_HAND}; or none of the three"
            " where a cluster says them"
        )
    if not names:
        return _found(asked.start_seconds)
    host, port = parse_address(asked.coordinator)
    count, process = asked.num_processes, asked.process_id
    if count < 1:
        raise UsageError(f"--num_processes={count}; expected 1 or more")
    if not 0 <= process < count:
        raise UsageError(
            f"--process_id={process} with --num_processes={count}; expected a number from 0 to"
            f" {count - 1}, another one for each process"
        )
    return Place(host, port, count, process, None, asked.start_seconds)


def parse_address(text: str) -> tuple[str, int]:
    """Returns host and port of `HOST:PORT`; an IPv6 address stands in brackets.

    Raises:
        UsageError: it is none.
    """
    match = _ADDRESS.fullmatch(text)
    if not match or not 1 <= int(match["port"]) <= 65535:
        raise UsageError(
            f"--coordinator={text!r}; expected HOST:PORT, the name or address of the host of"
            " process 0 and a port from 1 to 65535 that is free there, for example node1:12345"
        )
    return match["six"] or match["name"], int(match["port"])


def _found(start_seconds: int) -> Place:
    """Asks the cluster that this process runs in, as `jax.distributed.initialize` does.

    Raises:
        UsageError: there is none, or it does not answer.
    """
    # The search itself has no public name.
    from jax._src.clusters import ClusterEnv

    mpi = any(name in os.environ for name in _MPI_LAUNCHERS) and find_spec("mpi4py")
    address, unset = os.environ.get("JAX_COORDINATOR_ADDRESS"), (None, None, None)
    search = ClusterEnv.auto_detect_unset_distributed_params
    try:
        found = search(address, *unset, None, start_seconds)
        if None in found[:3] and mpi:
            found = search(address, *unset, "mpi4py", start_seconds)
    # Whatever a cluster's own library raises.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(
            f"--distributed: the cluster that this process runs in does not say who process 0 is"
            f" ({reason}); give {_BY_HAND}"
        ) from error
    address, count, process, devices = found
    if None in (address, count, process):
        raise UsageError(
            "--distributed: neither Slurm (srun), Kubernetes (with the Python package kubernetes),"
            " MPI (mpirun; where it is not Open MPI 4, with the Python package mpi4py) nor a Cloud"
            f" TPU was found; give {_BY_HAND}, with another I from 0 to N - 1 for each process"
        )
    host, _, port = address.rpartition(":")
    return Place(
        host.strip("[]"),
        int(port),
        count,
        process,
        None if devices is None else tuple(devices),
        start_seconds,
    )
