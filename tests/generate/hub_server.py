"""A small server on loopback that speaks as much of the hub's protocol as fetching a snapshot needs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@contextlib.contextmanager
def serving(name: str, commit: str, folder: Path) -> Iterator[str]:
    """Address of a hub that has one repository, with the files of a folder, at one commit."""

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            resolve = f"/{name}/resolve/{commit}/"
            if path == f"/api/models/{name}/tree/{commit}":
                self._send(json.dumps(_tree(folder)).encode(), "application/json", with_body)
            elif path.startswith(resolve) and (file := folder / path.removeprefix(resolve)).is_file():
                self._send(file.read_bytes(), "application/octet-stream", with_body)
            else:
                self.send_error(404)

        def _send(self, data: bytes, kind: str, with_body: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{_digest(data)}"')
            self.send_header("X-Repo-Commit", commit)
            self.end_headers()
            if with_body:
                self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def _tree(folder: Path) -> list[dict[str, object]]:
    return [
        {
            "type": "file",
            "path": file.relative_to(folder).as_posix(),
            "size": file.stat().st_size,
            "oid": _digest(file.read_bytes()),
        }
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    ]


def _digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
