"""Ray nodes as processes of their own on loopback, that can be added and killed. For scripts: one cluster a
process, and nothing of Ray imported before.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

os.environ["RAY_AUTH_MODE"] = "disabled"
# A dead node is noticed in seconds (Ray's own settings take over a minute when its link is cut).
os.environ["RAY_health_check_initial_delay_ms"] = "0"
os.environ["RAY_health_check_period_ms"] = "1000"
os.environ["RAY_health_check_timeout_ms"] = "5000"
os.environ["RAY_health_check_failure_threshold"] = "3"

import ray

HEAD_TYPE = "ray.head.default"
"""Ray's autoscaler knows a head that it did not start itself by this name only."""
START_TRIES, START_TIMEOUT_S = 3, 90.0
RAY = str(Path(sys.executable).with_name("ray"))


COMMANDS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
)
"""Keys that Ray's autoscaler wants in its configuration; a cluster on one machine runs none of them."""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Nodes:
    """Ray nodes as processes of their own, on loopback."""

    def __init__(self, *head_options: str, port: int | None = None) -> None:
        self.address = f"127.0.0.1:{port or free_port()}"
        self._folder = tempfile.mkdtemp(prefix="nodes", dir="/tmp")
        self._nodes: list[subprocess.Popen[bytes]] = []
        self.add(
            "--head",
            f"--port={self.address.rpartition(':')[2]}",
            "--include-dashboard=false",
            f"--temp-dir={self._folder}",
            *(head_options or ("--num-cpus=0",)),
        )

    def add(self, *options: str) -> subprocess.Popen[bytes]:
        where = options or (f"--address={self.address}", "--num-cpus=1")
        node = subprocess.Popen(
            [
                RAY,
                "start",
                *where,
                "--node-ip-address=127.0.0.1",
                f"--node-name=node-{len(self._nodes)}",
                "--object-store-memory=80000000",
                "--block",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._nodes.append(node)
        return node

    def add_connected(self) -> None:
        """Add a node while this process is connected, and see it come; on a busy machine a start may fail."""
        for _ in range(START_TRIES):
            node = self.add()
            name = f"node-{self._nodes.index(node)}"
            until = time.monotonic() + START_TIMEOUT_S
            while node.poll() is None and time.monotonic() < until:
                if any(found["NodeName"] == name and found["Alive"] for found in ray.nodes()):
                    return
                time.sleep(0.2)
        raise TimeoutError("no node came")

    @property
    def others(self) -> list[subprocess.Popen[bytes]]:
        """All but the head."""
        return self._nodes[1:]

    def drain(self, node: subprocess.Popen[bytes], deadline_s: float) -> None:
        """Tell a node to go, as a cloud's notice of preemption would; needs a connection to the cluster."""
        from ray._raylet import GcsClient

        name = f"node-{self._nodes.index(node)}"
        (node_id,) = [found["NodeID"] for found in ray.nodes() if found["NodeName"] == name]
        deadline_ms = int((time.time() + deadline_s) * 1000)
        accepted, why = GcsClient(address=self.address).drain_node(node_id, 2, "preempted", deadline_ms)
        assert accepted, why

    def alive(self) -> int:
        """Nodes that the head knows of; 0 while there is no head."""
        try:
            ray.init(self.address, log_to_driver=False, logging_level="ERROR")
        except ConnectionError:
            return 0
        try:
            return sum(node["Alive"] for node in ray.nodes())
        finally:
            ray.shutdown()

    def end_with_this_process(self) -> None:
        """Also when it is terminated."""
        atexit.register(self._end)
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))

    def _end(self) -> None:
        for node in self._nodes:
            if node.poll() is None:
                os.killpg(node.pid, signal.SIGTERM)
        for node in self._nodes:
            node.wait()


def wait_for(what: Callable[[], bool], timeout_s: float = 120.0) -> None:
    until = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > until:
            raise TimeoutError
        time.sleep(0.05)


class Timeline(threading.Thread):
    """How many nodes a cluster has, and how many of their CPUs are taken, from its start on; needs a connection."""

    PERIOD_S = 0.5

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._began_at = time.monotonic()
        self._ended = threading.Event()
        self.changes: list[tuple[float, int]] = []
        self._cpu_s = self._taken_cpu_s = 0.0
        self.start()

    def run(self) -> None:
        before = self.since_start_s
        while not self._ended.wait(self.PERIOD_S):
            nodes = sum(node["Alive"] for node in ray.nodes())
            there = ray.cluster_resources().get("CPU", 0.0)
            taken = there - ray.available_resources().get("CPU", 0.0)
            now = self.since_start_s
            self._cpu_s += there * (now - before)
            self._taken_cpu_s += taken * (now - before)
            before = now
            if not self.changes or self.changes[-1][1] != nodes:
                self.changes.append((now, nodes))

    @property
    def since_start_s(self) -> float:
        return time.monotonic() - self._began_at

    @property
    def nodes(self) -> int:
        """Alive now."""
        return self.changes[-1][1] if self.changes else 0

    @property
    def nodes_max(self) -> int:
        return max(nodes for _, nodes in self.changes)

    def taken_percent(self) -> float:
        """Of the CPU time that the nodes were there for, up to now."""
        return 100 * self._taken_cpu_s / self._cpu_s

    def end(self) -> str:
        """Nodes over time, in words."""
        self._ended.set()
        self.join()
        return ", ".join(f"{nodes} at {at_s:.0f} s" for at_s, nodes in self.changes)


def autoscaling(workers_max: int) -> Nodes:
    """A head with one CPU, whose autoscaler starts further Ray nodes of one CPU and ends them when idle."""
    port = free_port()
    kinds = {
        HEAD_TYPE: {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
        "worker": {
            "resources": {"CPU": 1, "object_store_memory": 80_000_000},
            "node_config": {},
            "min_workers": 0,
            "max_workers": workers_max,
        },
    }
    config = {
        "cluster_name": "fake_multinode",
        "max_workers": workers_max,
        "idle_timeout_minutes": 0.2,
        "upscaling_speed": 1.0,
        "head_node_type": HEAD_TYPE,
        "available_node_types": kinds,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": f"127.0.0.1:{port}",
        },
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        **{name: [] for name in COMMANDS},
        "file_mounts_sync_continuously": False,
    }
    file = Path(tempfile.mkdtemp(prefix="autoscaling")) / "cluster.json"
    file.write_text(json.dumps(config))
    os.environ |= {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    return Nodes(f"--autoscaling-config={file}", "--num-cpus=1", port=port)
