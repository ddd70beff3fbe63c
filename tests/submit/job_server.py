"""A head's job server with one job, as Ray's dashboard speaks to its clients; nothing of Ray runs behind it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from aiohttp import WSCloseCode, web

from syn2co_ray.submit.dashboard import Dashboard

JOB = "tiny-1"


class JobServer:
    """A job whose log is handed on a part a connection; the last one ends it.

    `break_off` is how connections before the last end: "close" (in good order) or "abort"; `token` has to be
    shown, unless it is None.
    """

    def __init__(self, *parts: str, break_off: str = "close", token: str | None = None) -> None:
        self.parts, self.break_off, self.token = parts, break_off, token
        self.status, self.connections, self.dashboard = "RUNNING", 0, Dashboard("")
        self.run = "tiny"

    def _values(self) -> dict[str, Any]:
        code = 0 if self.status == "SUCCEEDED" else None
        metadata = {"syn2co_run": self.run}
        return {"submission_id": JOB, "status": self.status, "driver_exit_code": code, "metadata": metadata}

    async def tail(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.connections += 1
        is_last = self.connections >= len(self.parts)
        await socket.send_str("".join(self.parts[: self.connections]))
        if is_last:
            self.status = "SUCCEEDED"
        elif self.break_off == "abort":
            assert request.transport is not None
            request.transport.abort()
            return socket
        await socket.close(code=WSCloseCode.OK)
        return socket

    async def stop(self, request: web.Request) -> web.Response:
        was, self.status = self.status, "STOPPED"
        return web.json_response({"stopped": was == "RUNNING"})

    def app(self) -> web.Application:
        def answered(values: Callable[[], Any]) -> Any:
            async def answer(request: web.Request) -> web.Response:
                return web.json_response(values())

            return answer

        @web.middleware
        async def guarded(request: web.Request, handler: Any) -> web.StreamResponse:
            shown = request.headers.get("Authorization")
            if self.token is not None and shown != f"Bearer {self.token}":
                return web.Response(status=401 if shown is None else 403)
            return await handler(request)

        node = {"raylet": {"state": "ALIVE"}}
        app = web.Application(middlewares=[guarded])
        app.router.add_get("/nodes", answered(lambda: {"data": {"summary": [node]}}))
        app.router.add_get("/api/version", answered(lambda: {"ray_version": version("ray")}))
        app.router.add_get("/api/jobs/", answered(lambda: [self._values()]))
        app.router.add_get(f"/api/jobs/{JOB}", answered(self._values))
        app.router.add_get(f"/api/jobs/{JOB}/logs", answered(lambda: {"logs": "".join(self.parts)}))
        app.router.add_get(f"/api/jobs/{JOB}/logs/tail", self.tail)
        app.router.add_post(f"/api/jobs/{JOB}/stop", self.stop)
        return app


@contextmanager
def serving(server: JobServer) -> Iterator[JobServer]:
    """It listens on a free port of loopback meanwhile; `server.dashboard` says where."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def done(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    runner = web.AppRunner(server.app())
    done(runner.setup())
    site = web.TCPSite(runner, "127.0.0.1", 0)
    done(site.start())
    host, port = runner.addresses[0][:2]
    server.dashboard = Dashboard(f"http://{host}:{port}", server.token)
    try:
        yield server
    finally:
        done(runner.cleanup())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
