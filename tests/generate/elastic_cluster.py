"""A generating job on a Ray cluster of several nodes that come and go while it works. A script: one cluster
a process.

    python -m tests.generate.elastic_cluster JOB.yaml (grow | lose | autoscale)
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from tests.ray_nodes import Nodes, Timeline, autoscaling, wait_for  # isort: skip (before ray: it sets its environment)

import ray
from rich.console import Console

from syn2co_ray.spec.generate import GenerateSpec
from syn2co_ray.spec.load import load_job
from syn2co_ray.submit.generate import run_generate


def autoscale(job: GenerateSpec) -> None:
    """Print how many nodes there were at most while the job ran, and that they go when it is done."""
    nodes = autoscaling(workers_max=2)
    nodes.end_with_this_process()
    wait_for(lambda: nodes.alive() == 1)
    os.environ["RAY_ADDRESS"] = nodes.address
    ray.init(nodes.address, log_to_driver=False, logging_level="ERROR")
    timeline = Timeline()
    run_generate(job, Console(width=200))
    print(f"CPUs taken: {timeline.taken_percent():.0f} %; ended at {timeline.since_start_s:.0f} s")
    print(f"at most {timeline.nodes_max} nodes", flush=True)
    wait_for(lambda: timeline.nodes == 1, timeout_s=180)
    print(f"nodes: {timeline.end()}")
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
    nodes.end_with_this_process()
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
