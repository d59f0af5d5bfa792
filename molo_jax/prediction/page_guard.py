"""What the browser is allowed to load for the page: what the page's own server sends."""

from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

_Message = MutableMapping[str, Any]

# Gradio's scripts need inline code and `eval`. No other server is asked for anything.
_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "frame-src 'self' data: blob:",
        "object-src 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class OwnContentOnly:
    """Lets the page alone use its server, and tells the browser to load nothing from others.

    A page of another site can send requests to any address that its visitor's browser reaches, and
    a browser says from where a request comes (`Origin`); such a request is refused. So is one whose
    `Host` is no name of this machine, where the page is for this machine alone: another site's name
    may have been made to lead here.

    Args:
        app: the application whose answers these are.
        hosts: the names by which the server may be called; empty: any.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], hosts: Collection[str] = ()):
        self._app, self._hosts = app, frozenset(hosts)

    async def __call__(
        self, scope: _Message, receive: Callable[..., Any], send: Callable[..., Any]
    ) -> None:
        """Answers one request."""
        if scope["type"] in ("http", "websocket") and not self._is_own(scope.get("headers", ())):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await send({"type": "http.response.start", "status": 403, "headers": [*_HEADERS]})
            await send({"type": "http.response.body", "body": b"asked by another page"})
            return

        async def guarded(message: _Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        await self._app(scope, receive, guarded if scope["type"] == "http" else send)

    def _is_own(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        named = {name.lower(): value.decode("latin-1") for name, value in headers}
        host, origin = named.get(b"host", ""), named.get(b"origin")
        if self._hosts and urlsplit(f"//{host}").hostname not in self._hosts:
            return False
        return origin is None or urlsplit(origin).netloc == host
