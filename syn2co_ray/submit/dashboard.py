"""A Ray head's dashboard over HTTP: where it is, the token that opens it, and what its refusals mean."""

from __future__ import annotations

import json
import os
import shlex
import socket
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from ..ray_environment import token_given
from ..spec.errors import ClusterError, first_line
from .cluster import quiet_backend

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S = 10.0, 30.0
HOW_TO_REACH = (
    "start one with `syn2co cluster up` or `ray start --head` (pip install 'ray[default]'); a remote one is "
    "reached with `kubectl port-forward service/NAME-head-svc 8265` or `ssh -L 8265:127.0.0.1:8265 HEAD`"
)
GIVE_TOKEN = (
    "set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file with it, to the cluster's token "
    "(`syn2co cluster status` shows where that of a local cluster is; "
    "KubeRay keeps it in the secret named like the cluster, key auth_token)"
)


@dataclass(frozen=True)
class Dashboard:
    """Address of a head's dashboard, and the token to show there (None: the cluster asks for none)."""

    url: str
    token: str | None = field(default=None, repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def command(self, *words: str) -> str:
        """A command of ours about this cluster, as a shell takes it."""
        return shlex.join(["syn2co", *words, "--address", self.url])

    def get(self, path: str) -> Any:
        """What a path of the dashboard's API answers, as JSON.

        Raises:
            ClusterError: nobody answers, somebody else does, or the token is missing or wrong.
        """
        return self._answer(urllib.request.Request(self.url + path, headers=self.headers), path)

    def post(self, path: str) -> Any:
        """As `get`, for a path that does something."""
        return self._answer(urllib.request.Request(self.url + path, b"", self.headers, method="POST"), path)

    def clock_ahead_s(self) -> float:
        """How far the head's clock is ahead of this machine's, by the date of an answer (to a second)."""
        request = urllib.request.Request(self.url + "/api/version", headers=self.headers)
        with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT_S) as answer:
            told = parsedate_to_datetime(answer.headers["Date"]).timestamp()
        ahead = told - time.time()
        return 0.0 if -1.0 <= ahead <= 0.0 else ahead

    def _answer(self, request: urllib.request.Request, path: str) -> Any:
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT_S) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise self._refused(error.code, path) from None
        except OSError as error:
            got = f"no answer: {getattr(error, 'reason', error)}"
            raise ClusterError(self.url, got, "a Ray head's dashboard", HOW_TO_REACH) from None
        except ValueError:
            raise self._refused(200, path) from None

    def ray_version(self) -> str:
        """Of the cluster; the cheapest question that needs the right token."""
        answer = self.get("/api/version")
        if not isinstance(answer, dict) or "ray_version" not in answer:
            raise self._refused(200, "/api/version")
        return str(answer["ray_version"])

    def nodes_alive(self) -> int:
        """Ray nodes that the head counts as alive, itself included."""
        nodes = self.get("/nodes?view=summary")["data"]["summary"]
        return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)

    def _refused(self, status: int, path: str) -> ClusterError:
        if status == 401:
            return ClusterError(self.url, "it asks for a token, and none is given", "", GIVE_TOKEN)
        if status == 403:
            return ClusterError(self.url, "it does not accept this token", "", GIVE_TOKEN)
        if status == 404 and path.startswith("/api/jobs/"):
            job = path.removeprefix("/api/jobs/").partition("/")[0]
            step = f"{self.command('list')} shows those it knows"
            return ClusterError(f"job {job}", f"{self.url} knows no such job", "", step)
        got = f"{path} answered with HTTP status {status}, not as Ray's dashboard does"
        return ClusterError(self.url, got, "a Ray head's dashboard (port 8265 by default)", "check --address")


def open_dashboard(address: str | None) -> Dashboard:
    """The dashboard at `address`, or where the environment says, or on port 8265 of this machine.

    `address` may also be that of a head's control service (`host:6379`, `auto`), which says where its
    dashboard is.

    Raises:
        ClusterError: an address of another sort, or a control service that does not answer.
    """
    named = [os.environ[name] for name in ADDRESS_VARIABLES if os.environ.get(name)]
    address = address or (named[0] if named else DEFAULT_ADDRESS)
    try:
        token = token_given()
    except OSError as error:
        raise ClusterError("RAY_AUTH_TOKEN_PATH", str(error), "a readable file", GIVE_TOKEN) from None
    scheme, separator, _ = address.partition("://")
    if separator and scheme not in ("http", "https"):
        allowed = "http://HOST:8265, https://..., or HOST:PORT of the head's control service"
        raise ClusterError("--address", f"got {address}", allowed, "give the address of the dashboard")
    return Dashboard(address.rstrip("/") if separator else _dashboard_of_head(address), token)


def _dashboard_of_head(address: str) -> str:
    """Where the dashboard is, asked from the head's control service."""
    from ray.exceptions import AuthenticationError

    host, _, port = address.rpartition(":")
    try:
        if port.isdigit():
            # Ray's own client would keep trying for a minute.
            socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
        from ray.dashboard.utils import ray_address_to_api_server_url

        with quiet_backend():
            return ray_address_to_api_server_url(address).rstrip("/")
    except AuthenticationError:
        raise ClusterError(
            address, "it does not accept this token, or no token is given", "", GIVE_TOKEN
        ) from None
    except Exception as error:
        raise ClusterError(address, f"no answer: {first_line(error)}", "a Ray head", HOW_TO_REACH) from None
