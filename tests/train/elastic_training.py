"""A training on a Ray cluster whose nodes go and come while it runs. A script: one cluster a process.

    python -m tests.train.elastic_training JOB.yaml (kill | drain)

JOB is a training, or a search with one trial, whose storage is below the file's folder.

Starts with two nodes that workers may be on. After the first checkpoint one of them is killed (SIGKILL to all
its processes), or told to go; when one worker has trained on for a while, another node comes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil

from tests.ray_nodes import Nodes, wait_for  # isort: skip (before ray: it sets its environment)

from rich.console import Console

from syn2co_ray.spec.load import load_job
from syn2co_ray.submit.run import run_jobs

DRAIN_DEADLINE_S = 60


def node_with_a_worker(nodes: Nodes) -> subprocess.Popen[bytes]:
    """One of the nodes that run a training worker."""
    sessions = {
        os.getsid(process.pid)
        for process in psutil.process_iter(["cmdline"])
        if "RayTrainWorker" in " ".join(process.info["cmdline"] or [])
    }
    return next(node for node in nodes.others if node.pid in sessions)


def main() -> None:
    file, mode = sys.argv[1:]
    job = load_job(file)
    nodes = Nodes("--num-cpus=1")
    nodes.end_with_this_process()
    wait_for(lambda: nodes.alive() == 1)
    nodes.add()
    wait_for(lambda: nodes.alive() == 2)
    nodes.add()
    wait_for(lambda: nodes.alive() == 3)
    os.environ["RAY_ADDRESS"] = nodes.address
    folder = Path(file).parent

    def workers_of_newest() -> int:
        states = sorted(each.with_name("state.json") for each in folder.rglob("checkpoints/*/MANIFEST.json"))
        try:
            return int(json.loads(states[-1].read_text())["world_size"]) if states else 0
        except FileNotFoundError:  # an older one that was dropped meanwhile
            return 0

    def change() -> None:
        wait_for(lambda: workers_of_newest() == 2, 300)
        node = node_with_a_worker(nodes)
        if mode == "kill":
            os.killpg(node.pid, signal.SIGKILL)
            print("a node went", flush=True)
        else:
            nodes.drain(node, DRAIN_DEADLINE_S)
            print("a node was told to go", flush=True)
        wait_for(lambda: workers_of_newest() == 1, 300)
        nodes.add_connected()
        print("a node came", flush=True)

    threading.Thread(target=change, daemon=True).start()
    run_jobs([job], Console(width=200))


if __name__ == "__main__":
    main()
