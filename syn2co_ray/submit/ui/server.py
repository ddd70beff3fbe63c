"""`syn2co ui`: pages of some storages, to be looked at in a browser on this machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any

from ...spec.errors import Syn2coError
from ...spec.source import ObjectStoreSpec
from ...storage import open_store
from ..address import check_address, is_loopback, listening_socket, url_of

TOKEN_VARIABLE = "SYN2CO_UI_TOKEN"
CACHE_ENTRIES_MAX = 4096
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""As they stand in the header Host."""
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
    check_address(host, token, TOKEN_VARIABLE, port)
    hosts = LOOPBACK_NAMES | {host} if is_loopback(host) else None
    app = ui_app(uris, options, hosts, token)
    try:
        import uvicorn
    except ImportError as error:
        raise _not_installed(error) from error
    listening = listening_socket(host, port)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=REQUESTS_AT_ONCE,
        timeout_graceful_shutdown=2,
        ws="none",
    )
    told(f"{url_of(host, listening.getsockname()[1])}  (Ctrl-C ends it)")
    # uvicorn ends in order at Ctrl-C, and then passes it on.
    with listening, contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])


def _not_installed(error: ImportError) -> Syn2coError:
    return Syn2coError("syn2co ui", f"{error.name} is not installed", "", "pip install 'syn2co_ray[ui]'")
