"""What a request may be. A refusal carries its HTTP status, a short reason for the metrics, and a text."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator
from typing import Any

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ..spec.errors import Fault

RAW_TYPES = ("application/octet-stream", "image/")
MULTIPART = "multipart/form-data"
FORM_FIELDS_MAX = 8
REASONS = (
    *("body_too_large", "media_type", "unreadable_image", "malformed", "queue_full"),
    *("no_token", "other_name", "no_such_page", "failed"),
)
"""Why requests are refused, as the metrics name it."""


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, reason: str, fault: Fault, headers: dict[str, str] | None = None) -> None:
        super().__init__(fault.render())
        self.status, self.reason, self.fault, self.headers = status, reason, fault, headers or {}


def token_digest(token: str) -> str:
    """What replicas know of the token: enough to recognise it, not enough to show it."""
    return hashlib.sha256(token.encode()).hexdigest()


def has_token(request: Request, digest: str | None) -> bool:
    """Whether the request may see everything: it carries the token, or none is asked for."""
    if digest is None:
        return True
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(token_digest(given.strip()), digest)


def check_token(request: Request, digest: str | None) -> None:
    """Raises Refused (401) unless `has_token`."""
    if not has_token(request, digest):
        fault = Fault("Authorization", "no token, or another one", "Bearer TOKEN", "send the server's token")
        raise Refused(401, "no_token", fault, {"www-authenticate": "Bearer"})


def check_name(request: Request, hosts: frozenset[str] | None) -> None:
    """Raises Refused (421) for another name than `hosts`: a web page's own name can point to loopback."""
    if hosts is not None and request.url.hostname not in hosts:
        fault = Fault("Host", str(request.url.hostname), ", ".join(sorted(hosts)), "use one of these names")
        raise Refused(421, "other_name", fault)


async def image_of(request: Request, bytes_max: int) -> bytes:
    """The image that a request brings: its whole body, or the one file of a form.

    Raises:
        Refused: 413 a body over the limit, 415 another type of body, 400 a form without exactly one file.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    packed = request.headers.get("content-encoding", "identity").lower()
    if packed != "identity":
        raise _media_type(f"Content-Encoding {packed}", "identity", "send the file as it is")
    if media_type == MULTIPART:
        return await _file_of_form(request.headers, await _body(request, bytes_max))
    if not media_type.startswith(RAW_TYPES):
        got = f"Content-Type {media_type}" if media_type else "no Content-Type"
        allowed = f"image/*, application/octet-stream or {MULTIPART}"
        raise _media_type(got, allowed, "say what the body is, such as image/jpeg")
    return await _body(request, bytes_max)


def count_of(request: Request, name: str, default: int, largest: int) -> int:
    """A whole number from 1 to `largest` of the query string.

    Raises:
        Refused: 400 anything else.
    """
    given = request.query_params.get(name, str(default))
    if not (given.isascii() and given.isdecimal() and 1 <= int(given[:10]) <= largest):
        raise Refused(400, "malformed", Fault(name, given[:40], f"1 to {largest}", "change it"))
    return int(given[:10])


async def _body(request: Request, bytes_max: int) -> bytes:
    # A length that is told is refused before anything is read, one that is not told while it is.
    told = request.headers.get("content-length", "0")
    if told.isdecimal() and int(told) > bytes_max:
        raise _too_large(told, bytes_max)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > bytes_max:
            raise _too_large(f"more than {bytes_max}", bytes_max)
    return bytes(body)


async def _file_of_form(headers: Headers, body: bytes) -> bytes:
    async def whole() -> AsyncIterator[bytes]:
        yield body

    files: list[Any] = []
    try:
        form = await MultiPartParser(headers, whole(), max_files=1, max_fields=FORM_FIELDS_MAX).parse()  # type: ignore[arg-type]
        files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
        if len(files) == 1:
            return await files[0].read()
        got = "no file"
    except (MultiPartException, KeyError) as error:
        got = f"a form that cannot be read ({error})"
    finally:
        for file in files:
            await file.close()
    raise Refused(400, "malformed", Fault("body", got, "a form with one file", "curl -F image=@photo.jpg"))


def _media_type(got: str, allowed: str, step: str) -> Refused:
    return Refused(415, "media_type", Fault("body", got, allowed, step))


def _too_large(got: str, bytes_max: int) -> Refused:
    step = "send a smaller file, or start the server with a larger --body-bytes-max"
    fault = Fault("body", f"{got} bytes", f"{bytes_max} bytes", step)
    return Refused(413, "body_too_large", fault, {"connection": "close"})
