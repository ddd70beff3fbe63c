"""What `syn2co doctor` finds about a cluster: whom its head answers, versions, nodes, ports, clock."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit

from ..spec.errors import ClusterError
from .address import is_loopback
from .dashboard import Dashboard
from .doctor import Finding, skew_finding
from .parity import FIXES, same
from .probe import versions_here

FAULT = ClusterError.exit_code
HEAD_PORTS = {6379: "control service", 10001: "Ray Client"}
"""As Ray numbers them unless told otherwise; the dashboard's is in its address."""
CONNECT_TIMEOUT_S = 2.0


def cluster_findings(dashboard: Dashboard) -> Iterator[Finding]:
    """All of this file.

    Raises:
        ClusterError: nobody answers, or the token is missing or wrong.
    """
    version, mine = dashboard.ray_version(), str(versions_here()["ray"])
    yield token_finding(dashboard)
    if same("ray", mine, version):
        yield Finding("cluster's Ray", version)
    else:
        remedy = FIXES["ray"].format(here=mine, there=version)
        yield Finding("cluster's Ray", f"{version}, here {mine}", remedy, FAULT)
    yield Finding("cluster's nodes", f"{dashboard.nodes_alive()} alive")
    yield from head_port_findings(dashboard.url)
    yield skew_finding("clock of the head", dashboard.clock_ahead_s(), FAULT)


def token_finding(dashboard: Dashboard) -> Finding:
    """Whether a head that answers would answer without a token, too."""
    what = f"cluster {dashboard.url}"
    try:
        replace(dashboard, token=None).ray_version()
    except ClusterError:
        return Finding(what, "answers and takes the token")
    seen = "answers without a token: whoever reaches it can run code there"
    remedy = (
        "start Ray with RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH on every node (KubeRay: "
        "spec.authOptions.mode: token), as `syn2co cluster up` and the files in cluster/ do"
    )
    return Finding(what, seen, remedy, FAULT)


def head_port_findings(url: str) -> Iterator[Finding]:
    """Which of the head's ports can be reached from here: sending jobs takes the dashboard's alone."""
    address = urlsplit(url)
    host = address.hostname or ""
    for port, name in HEAD_PORTS.items():
        what = f"head's port {port} ({name})"
        if not _is_open(host, port):
            yield Finding(what, "closed from here, and not needed to send jobs")
        elif is_loopback(host):
            yield Finding(what, "open on loopback")
        else:
            remedy = "let only the cluster's nodes and drivers reach it (firewall, NetworkPolicy)"
            yield Finding(what, f"open on {host}", remedy)
    if address.scheme == "http" and not is_loopback(host):
        seen = f"{host} answers without TLS: the token can be read on its way"
        remedy = f"`kubectl port-forward`, or `ssh -L 8265:127.0.0.1:{address.port or 80} {host}`"
        yield Finding("head's dashboard", seen, remedy)


def _is_open(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True
