"""Downloads: whole and checked, or a message that says where the file belongs."""

import hashlib
import http.server
import os
import socket
import threading

import pytest

from molo_jax import downloads
from molo_jax.errors import MoloError

CONTENT = b"0123456789" * 300_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch):
    """Serves `CONTENT` under any name but `absent`, cut off as `short`; notes what was asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200 if "absent" not in self.path else 404)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:1000] if "short" in self.path else CONTENT)

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "*")
    server.url, server.asked = f"http://127.0.0.1:{server.server_port}/", asked
    yield server
    server.shutdown()
    server.server_close()


def fetch(url, path, digest=DIGEST):
    return downloads.fetch(url, path, digest, otherwise="do without")


def test_a_file_is_downloaded_once_checked_and_kept(server, tmp_path):
    path = tmp_path / "new" / "x.bin"
    assert fetch(f"{server.url}x.bin", path) == path
    assert path.read_bytes() == CONTENT
    assert fetch(f"{server.url}x.bin", path) == path
    assert server.asked == ["/x.bin"]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["x.bin", "short.bin"])
def test_a_download_with_another_checksum_is_not_kept(server, tmp_path, name):
    digest = hashlib.sha256(CONTENT + b"more").hexdigest()
    with pytest.raises(MoloError, match=rf"/{name} sent is not .* SHA-256 is not {digest}"):
        fetch(f"{server.url}{name}", tmp_path / name, digest)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_file_in_the_cache_is_named_and_not_used(server, tmp_path):
    path = tmp_path / "x.bin"
    path.write_text("half of it")
    with pytest.raises(MoloError, match=rf"{path} is not http.*: its SHA-256 .*; remove it"):
        fetch(f"{server.url}x.bin", path)
    assert server.asked == []


@pytest.mark.parametrize("name", ["absent.bin", "unreachable.bin"])
def test_without_network_one_message_has_the_address_and_the_place(server, tmp_path, name):
    base = "http://127.0.0.1:9/" if name == "unreachable.bin" else server.url
    with pytest.raises(MoloError) as error:
        fetch(f"{base}{name}", tmp_path / name)
    message = str(error.value)
    assert message.startswith(f"{base}{name} cannot be downloaded (")
    place = f"put it at {tmp_path / name} (its SHA-256 is {DIGEST})"
    assert message.endswith(f"get it elsewhere and {place}, or do without")
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_file_in_the_cache_is_named_and_never_opened(server, tmp_path):
    path = tmp_path / "x.bin"
    os.mkfifo(path)
    with pytest.raises(MoloError, match=r"x\.bin is a named pipe \(FIFO\), not the file http"):
        fetch(f"{server.url}x.bin", path)
    assert server.asked == []


def test_an_address_is_given_up_sooner_than_an_answer(server, tmp_path, monkeypatch):
    seen = []

    class Noting(socket.socket):
        def settimeout(self, seconds):
            seen.append(seconds)
            super().settimeout(seconds)

    monkeypatch.setattr(socket, "socket", Noting)
    fetch(f"{server.url}x.bin", tmp_path / "x.bin")
    assert seen[:2] == [downloads._CONNECT_TIMEOUT, downloads._TIMEOUT] == [3, 30]


def test_the_cache_is_where_the_system_has_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert downloads.cache_folder() == tmp_path / "molo_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert downloads.cache_folder() == tmp_path / "home/.cache/molo_jax"
