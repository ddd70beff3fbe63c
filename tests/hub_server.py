"""A small server on loopback that speaks as much of the hub's protocol as reading a repository needs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, quote, unquote, urlsplit

ENTRIES_PER_PAGE = 5


@contextlib.contextmanager
def serving(
    name: str,
    commit: str,
    folder: Path,
    kind: Literal["models", "datasets"] = "models",
    token: str | None = None,
    requests: list[str] | None = None,
) -> Iterator[str]:
    """Address of a hub that has one repository, with the files of a folder, at one commit.

    Args:
        token: who does not bring it is answered 401, as the hub does for private repositories.
        requests: is given each request, such as `GET /owner/name/resolve/...` and its range.
    """
    api = f"/api/{kind}/{name}"
    resolve = f"{'/datasets' if kind == 'datasets' else ''}/{name}/resolve/{commit}/"

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def _answer(self) -> None:
            url = urlsplit(self.path)
            path = unquote(url.path)
            if requests is not None:
                requests.append(" ".join(filter(None, (self.command, path, self.headers["Range"]))))
            if token is not None and self.headers["Authorization"] != f"Bearer {token}":
                self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
            elif path == f"{api}/revision/{commit}":
                self._send(200, json.dumps({"id": name, "sha": commit}).encode())
            elif f"{path}/".startswith(f"{api}/tree/{commit}/"):
                self._tree(path.removeprefix(f"{api}/tree/{commit}").strip("/"), parse_qs(url.query))
            elif path.startswith(resolve) and (file := folder / path.removeprefix(resolve)).is_file():
                self._file(file.read_bytes())
            else:
                code = (
                    "EntryNotFound"
                    if commit in path
                    else "RevisionNotFound"
                    if name in path
                    else "RepoNotFound"
                )
                self._send(404, b"", {"X-Error-Code": code})

        def _tree(self, below: str, query: dict[str, list[str]]) -> None:
            if not (folder / below).is_dir():
                return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            found = sorted((folder / below).glob("**/*" if query.get("recursive") == ["true"] else "*"))
            start = int(query.get("cursor", ["0"])[0])
            page = [_entry(path, folder) for path in found[start : start + ENTRIES_PER_PAGE]]
            headers = {}
            if start + ENTRIES_PER_PAGE < len(found):
                address = f"http://{self.headers['Host']}{quote(urlsplit(self.path).path)}"
                follows = (
                    f"recursive={query.get('recursive', ['false'])[0]}&cursor={start + ENTRIES_PER_PAGE}"
                )
                headers["Link"] = f'<{address}?{follows}>; rel="next"'
            self._send(200, json.dumps(page).encode(), headers)

        def _file(self, data: bytes) -> None:
            headers = {"ETag": f'"{_digest(data)}"', "X-Repo-Commit": commit}
            if asked := self.headers["Range"]:
                first, _, last = asked.removeprefix("bytes=").partition("-")
                part = data[int(first) : int(last) + 1 if last else None]
                headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
                return self._send(206, part, headers)
            self._send(200, data, headers)

        def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for header, value in (headers or {}).items():
                self.send_header(header, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def _entry(path: Path, root: Path) -> dict[str, object]:
    name = path.relative_to(root).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": _digest(name.encode())}
    data = path.read_bytes()
    return {"type": "file", "path": name, "size": len(data), "oid": _digest(data)}


def _digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
