"""A Ray cluster whose nodes are hosts of their own (`tests.hosts`)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .hosts import Hosts

RAY = str(Path(sys.executable).with_name("ray"))
PORT = 6379
ENVIRONMENT = {
    # Everybody on the bridge is a test's own process.
    "RAY_AUTH_MODE": "disabled",
    # A host whose link is cut is noticed in seconds, not in over a minute.
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    # Nodes outlive a head that is away.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "120",
}
AWAIT_NODES = """
import sys, time, ray
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    time.sleep(0.2)
"""


class RayHosts(Hosts):
    """Hosts of which the first runs Ray's head; `head_environment` is for the head alone."""

    def __init__(self, count: int, head_environment: dict[str, str] | None = None) -> None:
        super().__init__(count)
        self.ray_address = f"{self.address(1)}:{PORT}"
        self._head_environment = head_environment or {}

    def start_head(self, cpus: int) -> None:
        """Start it on host 1 (again), and wait until it answers."""
        with suppress(FileNotFoundError):  # what a head that was killed has left
            (self.ray_folder(1) / "ray_current_cluster").unlink()
        self._start(
            1,
            self._head_environment,
            "--head",
            f"--port={PORT}",
            "--include-dashboard=false",
            f"--num-cpus={cpus}",
        )
        wait_for(lambda: answers(self.address(1), PORT), 90)

    def start_node(self, number: int, cpus: int) -> None:
        """Start a node on a host; it joins in its own time."""
        self._start(number, {}, f"--address={self.ray_address}", f"--num-cpus={cpus}")

    def await_nodes(self, count: int, seen_from: int = 1) -> None:
        """Return when so many nodes are alive, the head included."""
        words = (sys.executable, "-c", AWAIT_NODES, self.ray_address, str(count))
        subprocess.run(
            self.command(seen_from, *words), env={**os.environ, **ENVIRONMENT}, check=True, timeout=120
        )

    def start_job(self, number: int, file: Path) -> subprocess.Popen[str]:
        """`syn2co run` on a host, on this cluster."""
        words = (sys.executable, "-m", "syn2co_ray.cli", "run", str(file))
        return subprocess.Popen(
            self.command(number, *words),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **ENVIRONMENT, "RAY_ADDRESS": self.ray_address},
        )

    def _start(self, number: int, environment: dict[str, str], *options: str) -> None:
        place = (f"--node-ip-address={self.address(number)}", "--object-store-memory=80000000")
        subprocess.Popen(
            self.command(number, RAY, "start", *place, "--block", *options),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **ENVIRONMENT, **environment},
        )


def answers(address: str, port: int) -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((address, port)) == 0


def wait_for(what: Callable[[], bool], timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > until:
            raise TimeoutError(what.__name__)
        time.sleep(0.1)
