import socket

from molo_jax.relay import open_relay


def test_bytes_go_both_ways_and_a_lost_service_does_not_close_the_connection():
    with socket.create_server(("localhost", 0)) as service:
        host, port = open_relay("localhost", service.getsockname()[1]).split(":")
        with socket.create_connection((host, int(port)), timeout=20) as client:
            far, _ = service.accept()
            client.sendall(b"question")
            assert far.recv(100) == b"question"
            far.sendall(b"answer")
            assert client.recv(100) == b"answer"
            far.close()
            client.settimeout(0.3)
            try:
                received = client.recv(100)
            except TimeoutError:
                received = None
    assert received is None


def test_a_service_that_starts_later_is_found():
    with socket.create_server(("localhost", 0)) as probe:
        port = probe.getsockname()[1]
    host, near = open_relay("localhost", port).split(":")
    with socket.create_connection((host, int(near)), timeout=20) as client:
        client.sendall(b"early")
        with socket.create_server(("localhost", port)) as service:
            service.settimeout(20)
            far, _ = service.accept()
            with far:
                assert far.recv(100) == b"early"
