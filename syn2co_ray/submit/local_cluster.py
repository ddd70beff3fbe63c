"""`syn2co cluster`: several Ray nodes on this machine, behind a token, apart from any other Ray.

`ray stop` would end every Ray of the machine. Here each node's processes are written down with the time at
which they started, and only they are ended.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import psutil

from ..spec.errors import ClusterError
from .local_node import (
    LocalCluster,
    ProcessId,
    end_processes,
    free_port,
    gpus_of_nodes,
    is_free,
    node_command,
    node_environment,
)

DASHBOARD_PORT = 8265
START_TIMEOUT_S = 180.0
POLL_S = 0.2
LOG_LINES = 5


def record_file() -> Path:
    """Where the record of this user's local cluster is kept."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "syn2co" / "cluster.json"


def recorded_cluster() -> LocalCluster | None:
    """The cluster that was started and not taken down, if there is one."""
    try:
        values = json.loads(record_file().read_text())
    except FileNotFoundError:
        return None
    nodes = tuple(tuple(ProcessId(**process) for process in node) for node in values.pop("nodes"))
    return LocalCluster(**values, nodes=nodes)


def start_cluster(nodes: int, cpus_each: int, gpus_each: int, log: Callable[[str], None]) -> LocalCluster:
    """Start a head with the dashboard's job server and further nodes; returns when all have joined.

    Raises:
        ClusterError: one is up already, Ray's dashboard is not installed, or a node does not start.
        ResourceError: the machine has fewer GPUs than the nodes ask for.
    """
    before = recorded_cluster()
    if before is not None:
        got = f"a local cluster is recorded (head on {before.address})"
        raise ClusterError(str(record_file()), got, "one at a time", "syn2co cluster down")
    if find_spec("aiohttp_cors") is None or find_spec("opencensus") is None:
        got = "Ray's dashboard is not installed, and with it its job server"
        raise ClusterError("ray", got, "", "pip install 'syn2co_ray[cluster]'")
    gpu_names = gpus_of_nodes(nodes, gpus_each, log)
    folder = tempfile.mkdtemp(prefix="syn2co-", dir="/tmp")
    dashboard_port = DASHBOARD_PORT if is_free(DASHBOARD_PORT) else free_port()
    cluster = LocalCluster(folder, free_port(), dashboard_port, cpus_each, gpus_each)
    cluster.token_file.touch(mode=0o600)
    cluster.token_file.write_text(secrets.token_hex(32))
    try:
        for number in range(nodes):
            cluster = _with_node(cluster, number, nodes, gpu_names[number])
            log(f"node {number + 1} of {nodes} joined")
    except BaseException:
        end_cluster(recorded_cluster() or cluster)
        raise
    return cluster


def end_cluster(cluster: LocalCluster) -> None:
    """End the nodes' processes, the head's last, and remove their files and the record."""
    for node in reversed(cluster.nodes):
        end_processes(node)
    shutil.rmtree(cluster.folder, ignore_errors=True)
    record_file().unlink(missing_ok=True)


def status_lines(cluster: LocalCluster) -> list[str]:
    """What is recorded against what runs.

    Raises:
        ClusterError: the head does not answer.
    """
    running = sum(node[0].found() is not None for node in cluster.nodes)
    alive = cluster.dashboard.nodes_alive()
    return [
        f"{alive} of {len(cluster.nodes)} nodes joined ({running} `ray start` processes run), each "
        f"{cluster.cpus_each} CPUs and {cluster.gpus_each} GPUs",
        *use_lines(cluster),
    ]


def use_lines(cluster: LocalCluster) -> list[str]:
    """How to use it, as lines for a shell."""
    return [
        f"dashboard: {cluster.dashboard.url} (asks for the token in {cluster.token_file})",
        *(f"export {name}={value}" for name, value in cluster.environment.items()),
        "then: syn2co run JOB.yaml, or syn2co submit JOB.yaml; in the end: syn2co cluster down",
    ]


def _with_node(cluster: LocalCluster, number: int, nodes: int, gpu_names: list[str]) -> LocalCluster:
    """Start one node and wait until it has joined; each stage is recorded, so that none is left behind."""
    log_file = Path(cluster.folder) / f"node-{number}.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            node_command(cluster, number, nodes),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=node_environment(cluster, gpu_names),
            cwd=cluster.folder,
            start_new_session=True,
        )
    node = psutil.Process(process.pid)
    started = _recorded(replace(cluster, nodes=(*cluster.nodes, (ProcessId.of(node),))))
    until = time.monotonic() + START_TIMEOUT_S
    while not _has_joined(cluster, number):
        if process.poll() is not None or time.monotonic() > until:
            raise _not_started(number, log_file, process.poll())
        time.sleep(POLL_S)
    below = tuple(ProcessId.of(child) for child in node.children(recursive=True))
    return _recorded(replace(started, nodes=(*cluster.nodes, (ProcessId.of(node), *below))))


def _has_joined(cluster: LocalCluster, number: int) -> bool:
    try:
        return cluster.dashboard.nodes_alive() > number
    except (ClusterError, KeyError, TypeError):  # a dashboard that is still starting
        return False


def _not_started(number: int, log_file: Path, code: int | None) -> ClusterError:
    got = f"not up after {START_TIMEOUT_S:.0f} s" if code is None else f"ended with exit code {code}"
    said = "\n  ".join(log_file.read_text(errors="replace").strip().splitlines()[-LOG_LINES:])
    return ClusterError(f"Ray node {number}", f"{got}; its last lines:\n  {said}", "", "see above")


def _recorded(cluster: LocalCluster) -> LocalCluster:
    file = record_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    written = file.with_suffix(".new")
    written.write_text(json.dumps(asdict(cluster), indent=1))
    written.replace(file)
    return cluster
