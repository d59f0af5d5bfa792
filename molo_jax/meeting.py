"""How the processes of a run on several hosts find each other.

Process 0 listens at the coordinator's address. Every other process connects to it, and says which
one it is and what it was started with. When all are there and agree, the run begins.
"""

import json
import os
import selectors
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from absl import logging

from molo_jax import relay
from molo_jax.errors import MoloError, UsageError
from molo_jax.files import failure
from molo_jax.place import Place
from molo_jax.watch import Link

# Seconds between two attempts to connect, and until one says what it waits for.
_RETRY_SECONDS, _SAY_SECONDS = 0.3, 10.0
# Process 0 waits for all others before it answers; so many seconds more are for the answer.
_ANSWER_SECONDS = 30.0
# How many differences and processes a message names.
_MOST_FACTS, _MOST_PROCESSES = 3, 8
# How much of a value.
_MOST_LETTERS = 120


def meet(place: Place, facts: Mapping[str, Any]) -> tuple[list[Link], int]:
    """Finds the other processes.

    Args:
        place: which process this is.
        facts: what must be equal in all processes, by name; JSON.

    Returns:
        The connections: of process 0 to all others, of others to process 0; and a port for JAX's
        service on the host of process 0.

    Raises:
        MoloError: not all processes come in time, or one has ended.
        UsageError: processes do not fit together.
    """
    hello = {
        "process": place.process,
        "count": place.count,
        "host": socket.gethostname(),
        "facts": dict(_flat(facts)),
    }
    if place.process:
        return _join(place, hello)
    links, heard = _receive_others(place)
    try:
        _check_same(hello, heard)
    except UsageError as error:
        _refuse(links, error)
        raise
    service = relay.free_port()
    for link in links:
        link.send({"service": service, "host": hello["host"]})
    return links, service


def _join(place: Place, hello: Mapping[str, Any]) -> tuple[list[Link], int]:
    """Connects to process 0, says who this is, and waits for its answer."""
    where, end = f"{place.host}:{place.port}", time.monotonic() + place.start_seconds
    link = Link(_connection(place, end), 0, place.host)
    link.send({"hello": hello})
    while not link.closed and time.monotonic() < end + _ANSWER_SECONDS:
        if not link.has_more(1.0):
            continue
        try:
            link.receive()
            for message in link.messages():
                if "refused" in message:
                    error = MoloError(message["refused"])
                    error.exit_code = message["code"]
                    raise error
                if "service" in message:
                    link.host = message["host"]
                    return [link], message["service"]
        except (ValueError, KeyError):
            break
    if link.closed:
        raise MoloError(
            f"process 0 at {where} has closed the connection; its own output says why. If it does"
            " not run there, this is the port of another program"
        )
    raise MoloError(f"{where} does not answer as process 0; is this the port of another program?")


def _connection(place: Place, end: float) -> socket.socket:
    """Connects as soon as process 0 listens."""
    said = time.monotonic() + _SAY_SECONDS
    while True:
        try:
            return socket.create_connection((place.host, place.port), timeout=5)
        except OSError as error:
            now = time.monotonic()
            if now > end:
                raise MoloError(
                    f"process 0 cannot be reached at {place.host}:{place.port} within"
                    f" {place.start_seconds} s (--start_seconds): {failure(error)}. Is it running,"
                    " is this its host's name or address, and may other hosts reach this port?"
                ) from None
            if now > said:
                said = end + 1
                logging.info(
                    "process 0 cannot be reached at %s:%d yet (%s); it is tried for %d s",
                    *(place.host, place.port, failure(error), place.start_seconds),
                )
        time.sleep(_RETRY_SECONDS)


def _receive_others(place: Place) -> tuple[list[Link], dict[int, dict[str, Any]]]:
    """Waits until all other processes have said who they are.

    Returns:
        The connections, and what each process said.
    """
    end, said = time.monotonic() + place.start_seconds, time.monotonic() + _SAY_SECONDS
    links: dict[int, Link] = {}
    heard: dict[int, dict[str, Any]] = {}
    with _listener(place) as listener, selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ, None)
        while len(links) < place.count - 1:
            for key, _ in selector.select(1.0):
                if key.data is None:
                    link = Link(listener.accept()[0])
                    selector.register(link.connection, selectors.EVENT_READ, link)
                    continue
                try:
                    _hear(key.data, place, links, heard)
                except MoloError as error:
                    _refuse([key.data, *links.values()], error)
                    raise
                if key.data.closed:
                    selector.unregister(key.fileobj)
            absent = [str(p) for p in range(1, place.count) if p not in links]
            now = time.monotonic()
            if absent and now > end:
                error = MoloError(
                    f"{_named(absent)} did not come to {place.host}:{place.port} within"
                    f" {place.start_seconds} s (--start_seconds); see the output there"
                )
                _refuse(links.values(), error)
                raise error
            if absent and now > said:
                said = end + 1
                logging.info("waiting for %s, for %d s", _named(absent), place.start_seconds)
    return list(links.values()), heard


def _named(processes: Sequence[str]) -> str:
    shown = ", ".join(processes[:_MOST_PROCESSES]) + (
        ", …" if len(processes) > _MOST_PROCESSES else ""
    )
    return f"process {shown}" if len(processes) == 1 else f"{len(processes)} processes ({shown})"


def _listener(place: Place) -> socket.socket:
    # All addresses of this host, of both kinds where there are both.
    family, both = socket.AF_INET, socket.has_dualstack_ipv6()
    try:
        return socket.create_server(
            ("", place.port),
            family=socket.AF_INET6 if both else family,
            dualstack_ipv6=both,
            backlog=place.count,
        )
    except OSError as error:
        reason = os.strerror(error.errno)
        raise UsageError(
            f"process 0 cannot listen on port {place.port} of this host ({reason}); give another"
            " port to all processes with --coordinator=HOST:PORT, unless another process of this"
            " run was started with --process_id=0, too"
        ) from error


def _hear(
    link: Link, place: Place, links: dict[int, Link], heard: dict[int, dict[str, Any]]
) -> None:
    """Notes who speaks on a connection; other programs' connections are closed.

    Raises:
        UsageError: it does not fit to this process.
        MoloError: a process that was there has ended.
    """
    try:
        link.receive()
        for message in link.messages():
            hello = message["hello"]
            process, link.host = int(hello["process"]), str(hello["host"])
            other = dict(hello["facts"]), int(hello["count"])
            if other[1] != place.count:
                raise UsageError(
                    f"process {process} on {link.host} was started with --num_processes="
                    f"{other[1]}, and process 0 with --num_processes={place.count}"
                )
            if process in links or not 0 < process < place.count:
                who = [links[process].host] if process in links else [socket.gethostname()]
                raise UsageError(
                    f"two processes have --process_id={process}, on {who[0]} and on {link.host};"
                    f" each needs its own number from 0 to {place.count - 1}"
                )
            link.process, links[process], heard[process] = process, link, hello
    except (ValueError, KeyError, TypeError):
        link.connection.close()
        link.closed = True
    if link.closed and link.process in links:
        raise MoloError(f"{link.name} ended while others were waited for; its output says why")


def _refuse(links: Iterable[Link], error: MoloError) -> None:
    """Tells an error to processes that wait for an answer."""
    for link in links:
        link.send({"refused": str(error), "code": error.exit_code})
        link.connection.close()


def _check_same(own: Mapping[str, Any], heard: Mapping[int, Mapping[str, Any]]) -> None:
    """Checks that all processes were started with the same settings and the same code.

    Raises:
        UsageError: naming what differs.
    """
    for process, other in sorted(heard.items()):
        names = sorted(own["facts"].keys() | other["facts"].keys())
        differ = [n for n in names if own["facts"].get(n) != other["facts"].get(n)]
        if differ:
            said = [
                f"{n} is {_shown(own, n)} in process 0 and {_shown(other, n)} in process {process}"
                for n in differ[:_MOST_FACTS]
            ]
            more = len(differ) - len(said)
            raise UsageError(
                f"the processes on {own['host']} and {other['host']} were started differently:"
                f" {'; '.join(said)}{f'; and {more} more' if more else ''}; give all processes the"
                " same command, but for --process_id, and the same code"
            )


def _shown(hello: Mapping[str, Any], name: str) -> str:
    text = hello["facts"].get(name, "absent")
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}…"


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields each value, as text, by its path."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(value, default=str)
