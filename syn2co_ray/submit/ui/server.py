"""`syn2co ui`: pages of some storages, to be looked at in a browser on this machine."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from ...spec.errors import Fault, SpecError, Syn2coError
from ...spec.source import ObjectStoreSpec
from ...storage import open_store

TOKEN_VARIABLE = "SYN2CO_UI_TOKEN"
TOKEN_LENGTH_MIN = 16
CACHE_ENTRIES_MAX = 4096
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
REQUESTS_AT_ONCE = 64


def ui_app(
    uris: Sequence[str], options: ObjectStoreSpec, hosts: frozenset[str] | None, token: str | None
) -> Any:
    """The ASGI application.

    Args:
        uris: storages that are shown.
        options: how stores are reached.
        hosts: names that a browser may use for this server; any when None.
        token: what has to be shown; nothing when None.

    Raises:
        StorageError: a URI that names no storage.
        Syn2coError: the packages of the extra `ui` are missing.
    """
    try:
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.routing import Route
    except ImportError as error:
        raise _not_installed(error) from error
    from .cache import Cache
    from .guard import Guard
    from .storages import Storages
    from .views import Views, pages_of

    cache = Cache(CACHE_ENTRIES_MAX)
    views = Views(Storages([open_store(uri, options) for uri in uris], cache), cache)
    routes = [Route(path, page, methods=["GET"]) for path, page in pages_of(views).items()]
    faults: dict[Any, Any] = {HTTPException: views.fault, Syn2coError: views.fault}
    return Guard(Starlette(routes=routes, exception_handlers=faults), hosts, token)


def serve(
    uris: Sequence[str], host: str, port: int, options: ObjectStoreSpec, told: Callable[[str], None]
) -> None:
    """Serve until Ctrl-C.

    Args:
        uris: storages that are shown.
        host: address to listen on; another than loopback's only with a token in SYN2CO_UI_TOKEN.
        port: 0 for a free one.
        options: how stores are reached.
        told: gets a line when it listens.

    Raises:
        SpecError: a public address without a token, or a port that is taken.
        StorageError: a URI that names no storage.
    """
    token = os.environ.get(TOKEN_VARIABLE) or None
    check_address(host, token)
    hosts = LOOPBACK_NAMES if _is_loopback(host) else None
    app = ui_app(uris, options, hosts, token)
    try:
        import uvicorn
    except ImportError as error:
        raise _not_installed(error) from error
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise SpecError(
            [Fault("--port", f"{host}:{port}: {error}", "a free port", "give another")]
        ) from error
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=REQUESTS_AT_ONCE,
        timeout_graceful_shutdown=2,
        ws="none",
    )
    shown = f"[{host}]" if ":" in host else host
    told(f"http://{shown}:{listening.getsockname()[1]}/  (Ctrl-C ends it)")
    # uvicorn ends in order at Ctrl-C, and then passes it on.
    with listening, contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])


def check_address(host: str, token: str | None) -> None:
    """Refuse what would show the storages to anybody.

    Raises:
        SpecError: a public address without a token, or a token that can be guessed.
    """
    if token is not None and len(token) < TOKEN_LENGTH_MIN:
        allowed = f"at least {TOKEN_LENGTH_MIN} characters"
        raise SpecError([Fault(TOKEN_VARIABLE, f"{len(token)} characters", allowed, "openssl rand -hex 16")])
    if not _is_loopback(host) and token is None:
        raise SpecError(
            [
                Fault(
                    "--host",
                    f"{host} can be reached from other machines, and no token is set",
                    "127.0.0.1, or a token",
                    f"set {TOKEN_VARIABLE} (asked for as a password), or reach this machine by "
                    "`ssh -L 8501:127.0.0.1:8501`; put a proxy that encrypts before a public address",
                )
            ]
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _not_installed(error: ImportError) -> Syn2coError:
    return Syn2coError("syn2co ui", f"{error.name} is not installed", "", "pip install 'syn2co_ray[ui]'")
