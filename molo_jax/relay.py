"""A way to JAX's coordination service that stays open when the service is lost.

JAX's client ends its process with a dump of C++ frames in the moment in which the connection to the
service breaks, and this cannot be changed (jaxlib 0.10.2: a callback of one's own ends in
`std::bad_cast`). So the client is led through a relay inside its process. When the service is lost
the client only waits, and :mod:`molo_jax.watch` says in one line what has happened.
"""

import socket
import threading
import time

# Seconds in which the service must answer a first connection: it starts a moment later.
_SERVICE_SECONDS = 60.0
_LOCAL = "127.0.0.1"


def open_relay(host: str, port: int) -> str:
    """Returns an address of this host that leads to the port of another host, from now on."""
    listener = socket.create_server((_LOCAL, 0))
    _in_thread(_accept, listener, (host, port))
    return f"{_LOCAL}:{listener.getsockname()[1]}"


def free_port() -> int:
    """Returns a port of this host that nobody uses at the moment."""
    with socket.create_server(("", 0)) as probe:
        return probe.getsockname()[1]


def _accept(listener: socket.socket, service: tuple[str, int]) -> None:
    while True:
        near, _ = listener.accept()
        _in_thread(_connect, near, service)


def _connect(near: socket.socket, service: tuple[str, int]) -> None:
    end = time.monotonic() + _SERVICE_SECONDS
    while True:
        try:
            far = socket.create_connection(service, timeout=_SERVICE_SECONDS)
            break
        except OSError:
            if time.monotonic() > end:
                near.close()
                return
            time.sleep(0.1)
    far.settimeout(None)
    for end_ in (near, far):
        end_.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _in_thread(_pass_on, near, far)
    # What the service no longer says is not told to the client: `near` stays open.
    _pass_on(far, near)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    try:
        while content := source.recv(1 << 16):
            target.sendall(content)
    except OSError:
        return


def _in_thread(work, *arguments: object) -> None:
    threading.Thread(target=work, args=arguments, name="relay", daemon=True).start()
