"""A generating job on a Ray cluster of several nodes that come and go while it works. A script: one cluster
a process.

    python elastic_cluster.py JOB.yaml (grow | lose)
"""

from __future__ import annotations

import atexit
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

from syn2co_ray.spec.load import load_job
from syn2co_ray.submit.generate import run_generate

RAY = str(Path(sys.executable).with_name("ray"))


class Nodes:
    """Ray nodes as processes of their own, on loopback."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._folder = tempfile.mkdtemp(prefix="nodes", dir="/tmp")
        self._nodes: list[subprocess.Popen[bytes]] = []
        port = self.address.rpartition(":")[2]
        self.add(
            "--head",
            f"--port={port}",
            "--num-cpus=0",
            "--include-dashboard=false",
            f"--temp-dir={self._folder}",
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


def main() -> None:
    file, mode = sys.argv[1:]
    job = load_job(file)
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
