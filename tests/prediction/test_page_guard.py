"""Who may ask the server of the page."""

import asyncio
import threading

import pytest

from molo_jax.prediction.page_guard import OwnContentOnly

LOCAL = ("127.0.0.1", "localhost")


def status(headers, hosts=LOCAL, kind="http"):
    """The status of the answer to a request with such headers; 1008 is a closed socket."""
    sent = []

    async def page(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "headers": [(k.encode(), v.encode()) for k, v in headers.items()]}
    # In a thread of its own: a browser that an earlier test has opened keeps this thread's event
    # loop running.
    asked = OwnContentOnly(page, hosts)(scope, None, send)
    answered = threading.Thread(target=asyncio.run, args=(asked,))
    answered.start()
    answered.join()
    return sent[0].get("status", sent[0].get("code")), sent[0]


@pytest.mark.parametrize(
    ("headers", "hosts", "expected"),
    [
        ({"host": "127.0.0.1:7860"}, LOCAL, 200),
        ({"host": "localhost:7860", "origin": "http://localhost:7860"}, LOCAL, 200),
        ({"host": "127.0.0.1:7860", "origin": "http://evil.example"}, LOCAL, 403),
        ({"host": "127.0.0.1:7860", "origin": "http://127.0.0.1:8000"}, LOCAL, 403),
        ({"host": "127.0.0.1:7860", "origin": "null"}, LOCAL, 403),
        # A name of another site that leads to this machine.
        ({"host": "evil.example:7860", "origin": "http://evil.example:7860"}, LOCAL, 403),
        ({"host": "lab.example:7860", "origin": "http://lab.example:7860"}, (), 200),
        ({}, LOCAL, 403),
    ],
)
def test_the_page_alone_may_ask_its_server(headers, hosts, expected):
    assert status(headers, hosts)[0] == expected
    if expected == 403:
        assert status(headers, hosts, kind="websocket")[0] == 1008


def test_every_answer_forbids_the_browser_other_servers():
    for headers in ({"host": "localhost"}, {"host": "evil.example"}):
        policies = dict(status(headers)[1]["headers"])
        assert b"default-src 'self'" in policies[b"content-security-policy"]
