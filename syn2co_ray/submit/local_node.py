"""One Ray node of a local cluster: its command, environment, GPUs and processes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from ..ray_environment import TOKEN_VARIABLES
from ..spec.errors import ResourceError
from .dashboard import ADDRESS_VARIABLES, Dashboard

LOOPBACK = "127.0.0.1"
END_TIMEOUT_S = 10.0
OBJECT_STORE_BYTES_MIN, OBJECT_STORE_BYTES_MAX = 80_000_000, 2_000_000_000
"""Ray refuses less than about 75 MB; several nodes of one machine need no more than that."""


@dataclass(frozen=True)
class ProcessId:
    """A process, told apart from a later one with the same number."""

    pid: int
    started_at: float
    """Unix time, as the operating system says it."""

    @classmethod
    def of(cls, process: psutil.Process) -> ProcessId:
        return cls(process.pid, process.create_time())

    def found(self) -> psutil.Process | None:
        """The process, if it still runs."""
        try:
            process = psutil.Process(self.pid)
            same = process.create_time() == self.started_at
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


@dataclass(frozen=True)
class LocalCluster:
    """A cluster that was started here; its record is kept until it is taken down."""

    folder: str
    """Ray's temporary files, logs and the token; short, as it holds sockets."""
    port: int
    """Of the head's control service, for `RAY_ADDRESS`."""
    dashboard_port: int
    cpus_each: int
    gpus_each: int
    nodes: tuple[tuple[ProcessId, ...], ...] = ()
    """Each node's `ray start` and what it started; the head comes first."""

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def token_file(self) -> Path:
        return Path(self.folder) / "auth_token"

    @property
    def dashboard(self) -> Dashboard:
        return Dashboard(f"http://{LOOPBACK}:{self.dashboard_port}", self.token_file.read_text())

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which any command of this machine uses the cluster."""
        return {"RAY_ADDRESS": self.address, "RAY_AUTH_TOKEN_PATH": str(self.token_file)}


def free_port() -> int:
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        return int(free.getsockname()[1])


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def gpus_of_nodes(nodes: int, gpus_each: int, log: Callable[[str], None]) -> list[list[str]]:
    """Names of each node's GPUs, for CUDA_VISIBLE_DEVICES: no two nodes may see the same one."""
    if not gpus_each:
        return [[] for _ in range(nodes)]
    names = _gpus_here()
    if not names:
        log("there is no NVIDIA GPU here: Ray counts those asked for, nothing can compute on them")
    elif len(names) < nodes * gpus_each:
        asked = f"{nodes} nodes x {gpus_each} GPUs"
        raise ResourceError(
            "--gpus-each", asked, f"the {len(names)} GPUs of this machine", "fewer nodes or GPUs"
        )
    return [names[number * gpus_each : (number + 1) * gpus_each] for number in range(nodes)]


def _gpus_here() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return [str(number) for number in range(len(listed.stdout.splitlines()))] if not listed.returncode else []


def node_command(cluster: LocalCluster, number: int, nodes: int) -> list[str]:
    """`ray start` for one of several nodes of one machine: each port is its own."""
    share = int(0.3 * psutil.virtual_memory().available / nodes)
    memory = min(max(share, OBJECT_STORE_BYTES_MIN), OBJECT_STORE_BYTES_MAX)
    head = (
        "--head",
        f"--port={cluster.port}",
        "--include-dashboard=true",
        f"--dashboard-host={LOOPBACK}",
        f"--dashboard-port={cluster.dashboard_port}",
        f"--ray-client-server-port={free_port()}",
        f"--temp-dir={cluster.folder}",
    )
    return [
        str(Path(sys.executable).with_name("ray")),
        "start",
        *(head if number == 0 else (f"--address={cluster.address}",)),
        f"--node-ip-address={LOOPBACK}",
        f"--node-name=node-{number}",
        f"--num-cpus={cluster.cpus_each}",
        f"--num-gpus={cluster.gpus_each}",
        f"--object-store-memory={memory}",
        f"--dashboard-agent-listen-port={free_port()}",
        "--min-worker-port=0",
        "--max-worker-port=0",
        "--disable-usage-stats",
        "--block",
    ]


def node_environment(cluster: LocalCluster, gpu_names: list[str]) -> dict[str, str]:
    ours = (*ADDRESS_VARIABLES, *TOKEN_VARIABLES)
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    bin_folder = str(Path(sys.executable).parent)
    return {
        **kept,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(cluster.token_file),
        # The `python` of a submitted job is the first of the head's PATH.
        "PATH": f"{bin_folder}{os.pathsep}{kept.get('PATH', '')}",
        # Nothing has to move away from a node that is taken down with all others.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        **({"CUDA_VISIBLE_DEVICES": ",".join(gpu_names)} if gpu_names else {}),
    }


def end_processes(node: tuple[ProcessId, ...]) -> None:
    """SIGTERM to `ray start`, which ends what it started; SIGKILL to what is left after a while."""
    found = [process for process in (known.found() for known in node) if process is not None]
    for process in list(found):
        try:
            found += [child for child in process.children(recursive=True) if child not in found]
        except psutil.NoSuchProcess:
            continue
    for process in found[:1]:
        _signalled(process.terminate)
    _, left = psutil.wait_procs(found, timeout=END_TIMEOUT_S)
    for process in left:
        _signalled(process.kill)
    psutil.wait_procs(left, timeout=END_TIMEOUT_S)


def _signalled(send: Callable[[], None]) -> None:
    try:
        send()
    except psutil.NoSuchProcess:
        return
