"""A generating job on a Ray cluster of several nodes that come and go while it works. A script: one cluster
a process.

    python elastic_cluster.py JOB.yaml (grow | lose | autoscale)
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

import ray
from rich.console import Console

from syn2co_ray.spec.generate import GenerateSpec
from syn2co_ray.spec.load import load_job
from syn2co_ray.submit.generate import run_generate

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
                "--object-store-memory=80000000",
                "--block",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._nodes.append(node)
        return node

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

    def end(self) -> None:
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


def autoscaling(workers_max: int) -> Nodes:
    """A head with one CPU, whose autoscaler starts further Ray nodes of one CPU and ends them when idle."""
    port = free_port()
    kinds = {
        "head": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
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
        "head_node_type": "head",
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


def autoscale(job: GenerateSpec) -> None:
    """Print how many nodes there were at most while the job ran, and that they go when it is done."""
    nodes = autoscaling(workers_max=2)
    atexit.register(nodes.end)
    wait_for(lambda: nodes.alive() == 1)
    os.environ["RAY_ADDRESS"] = nodes.address
    ray.init(nodes.address, log_to_driver=False, logging_level="ERROR")
    seen: list[int] = []
    ended = threading.Event()

    def count() -> None:
        while not ended.wait(0.5):
            seen.append(sum(node["Alive"] for node in ray.nodes()))

    threading.Thread(target=count, daemon=True).start()
    run_generate(job, Console(width=200))
    print(f"at most {max(seen)} nodes", flush=True)
    wait_for(lambda: seen[-1] == 1, timeout_s=180)
    ended.set()
    print("1 node again", flush=True)


def main() -> None:
    file, mode = sys.argv[1:]
    job = load_job(file)
    assert isinstance(job, GenerateSpec)
    if mode == "autoscale":
        autoscale(job)
        return
    # The head has no CPU, so that every actor is on a node that can go.
    nodes = Nodes()
    atexit.register(nodes.end)
    wait_for(lambda: nodes.alive() == 1)
    first = nodes.add()
    wait_for(lambda: nodes.alive() == 2)
    if mode == "lose":
        nodes.add()
        wait_for(lambda: nodes.alive() == 3)
    os.environ["RAY_ADDRESS"] = nodes.address

    def shards() -> int:
        return len(list(Path(job.into).glob("shard-*.parquet")))

    def change() -> None:
        wait_for(lambda: shards() >= 2)
        if mode == "grow":
            nodes.add()
            print("a node came", flush=True)
        else:
            os.killpg(first.pid, signal.SIGKILL)
            print(f"a node went, {shards()} shards were there", flush=True)

    threading.Thread(target=change, daemon=True).start()
    run_generate(job, Console(width=200))


if __name__ == "__main__":
    main()
