"""What every request passes: who may ask, what may be asked, and what the browser may do with it."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from typing import Any

POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
"""No script, no request to anywhere else; figures carry their styles in them, hence 'unsafe-inline'."""
STORED_PAGE_POLICY = POLICY + "; sandbox"
"""Of pages that lie in a storage: they do not even send the reader elsewhere by themselves."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
METHODS = ("GET", "HEAD")
PATH_BYTES_MAX = 8192


class Guard:
    """An ASGI application before another one: read only, by name, and with a token where one is asked for."""

    def __init__(self, app: Any, hosts: frozenset[str] | None, token: str | None) -> None:
        """Let through what names one of `hosts` (anything when None) and shows the token, if there is one."""
        self.app, self.hosts, self.token = app, hosts, token

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return None
        refused = self._refused(scope)
        if refused is not None:
            return await _answer(send, *refused)

        async def send_with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                there = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *_encoded(HEADERS, there)]
            await send(message)

        return await self.app(scope, receive, send_with_headers)

    def _refused(self, scope: Mapping[str, Any]) -> tuple[int, str, dict[str, str]] | None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        if scope["method"] not in METHODS:
            return 405, "these pages are only read", {"allow": ", ".join(METHODS)}
        if len(scope["raw_path"] or b"") + len(scope["query_string"]) > PATH_BYTES_MAX:
            return 414, "the address is too long", {}
        # A page elsewhere can have its own name point here; the browser then names it in this header.
        if self.hosts is not None and _host(headers.get(b"host", b"")) not in self.hosts:
            return 421, "this server does not have that name", {}
        if self.token is not None and not _has_token(headers.get(b"authorization", b""), self.token):
            return (
                401,
                "a token is needed: any user name, the token as the password",
                {"www-authenticate": _REALM},
            )
        return None


_REALM = 'Basic realm="syn2co", charset="UTF-8"'


def _host(value: bytes) -> str:
    name = value.decode("latin-1").lower()
    return name[: name.index("]") + 1] if name.startswith("[") and "]" in name else name.partition(":")[0]


def _has_token(authorization: bytes, token: str) -> bool:
    scheme, _, rest = authorization.partition(b" ")
    if scheme.lower() != b"basic":
        return False
    try:
        given = base64.b64decode(rest, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(given, token.encode())


def _encoded(headers: Mapping[str, str], there: set[bytes]) -> list[tuple[bytes, bytes]]:
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return [(name, value) for name, value in pairs if name not in there]


async def _answer(send: Any, status: int, words: str, headers: Mapping[str, str]) -> None:
    body = words.encode()
    told = {
        **HEADERS,
        **headers,
        "content-type": "text/plain; charset=utf-8",
        "content-length": str(len(body)),
    }
    await send({"type": "http.response.start", "status": status, "headers": _encoded(told, set())})
    await send({"type": "http.response.body", "body": body})
