"""A training that needs more nodes than there are, on a cluster that scales itself and takes them back. A
script: one cluster a process.

    python -m tests.submit.autoscaled_training FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.ray_nodes import Timeline, autoscaling, wait_for  # isort: skip (before ray: it sets its environment)

from rich.console import Console

from syn2co_ray.submit.cluster import connected
from syn2co_ray.submit.run import run_job
from tests.train.local_run import tiny_job


def main() -> None:
    nodes = autoscaling(workers_max=2)
    nodes.end_with_this_process()
    wait_for(lambda: nodes.alive() == 1)
    os.environ["RAY_ADDRESS"] = nodes.address
    job = tiny_job(
        Path(sys.argv[1]),
        "train.workers={min: 2, max: 2, cpus_each: 1}",
        "augment.actors={min: 1, max: 1, cpus_each: 0.5}",
        "data.reader_cpus_each=0.5",
        "train.epochs=40",
        "data.eval=null",
    )
    with connected() as cluster:
        print(f"{cluster.nodes} nodes, {cluster.nodes_to_come} to come, {cluster.cpus:g} CPUs", flush=True)
        timeline = Timeline()
        results = run_job(job, Console(width=200))
        print(f"CPUs taken: {timeline.taken_percent():.0f} %; ended at {timeline.since_start_s:.0f} s")
        print(f"ready to train {results['startup_s']['total']:.0f} s after the command")
        print(f"{results['status']} with at most {timeline.nodes_max} nodes", flush=True)
        wait_for(lambda: timeline.nodes == 1, timeout_s=180)
        print(f"nodes: {timeline.end()}")
    print("1 node again", flush=True)


if __name__ == "__main__":
    main()
