from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from syn2co_ray.spec.errors import ClusterError, ResourceError
from syn2co_ray.submit.local_cluster import end_cluster, record_file, recorded_cluster, start_cluster
from syn2co_ray.submit.local_node import (
    LocalCluster,
    ProcessId,
    gpus_of_nodes,
    node_command,
    node_environment,
)

WAITS = "import sys; sys.stdin.read()"
STUBBORN = (
    "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); sys.stdin.read()"
)


@pytest.fixture(autouse=True)
def own_record(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def cluster(folder, *nodes: tuple[ProcessId, ...]) -> LocalCluster:
    folder.mkdir(exist_ok=True)
    return LocalCluster(str(folder), 1, 2, 3, 0, nodes)


def process(code: str = WAITS) -> subprocess.Popen:
    started = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    if code == STUBBORN:
        started.stdout.readline()
    return started


def test_only_recorded_processes_are_ended_also_one_that_ignores_sigterm(monkeypatch, tmp_path):
    monkeypatch.setattr("syn2co_ray.submit.local_node.END_TIMEOUT_S", 1.0)
    mine, stubborn, other = process(), process(STUBBORN), process()
    nodes = [(ProcessId.of(psutil.Process(started.pid)),) for started in (mine, stubborn)]
    # A process that took the number of one of ours, which is gone.
    reused = ProcessId(other.pid, psutil.Process(other.pid).create_time() - 100)
    end_cluster(cluster(tmp_path / "ray", *nodes, (reused,)))
    assert [node[0].found() for node in nodes] == [None, None]
    assert other.poll() is None
    other.communicate(b"")
    assert not (tmp_path / "ray").exists()


def test_a_second_cluster_is_refused_and_a_record_is_read_back(tmp_path):
    record_file().parent.mkdir(parents=True)
    record_file().write_text(
        '{"folder": "/tmp/x", "port": 1, "dashboard_port": 2, "cpus_each": 3, "gpus_each": 0,'
        ' "nodes": [[{"pid": 4, "started_at": 5.5}]]}'
    )
    recorded = recorded_cluster()
    assert recorded.nodes == ((ProcessId(4, 5.5),),)
    assert recorded.environment == {"RAY_ADDRESS": "127.0.0.1:1", "RAY_AUTH_TOKEN_PATH": "/tmp/x/auth_token"}
    with pytest.raises(ClusterError, match="one at a time; next: syn2co cluster down"):
        start_cluster(2, 1, 0, print)


def test_a_node_that_does_not_start_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(
        "syn2co_ray.submit.local_cluster.node_command", lambda *words: ["sh", "-c", "echo no; exit 7"]
    )
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ClusterError, match=r"Ray node 0: ended with exit code 7; its last lines:\n  no"):
        start_cluster(1, 1, 0, print)
    assert recorded_cluster() is None


def test_nodes_listen_on_loopback_behind_a_token_and_meet_no_other_ray(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    described = cluster(tmp_path)
    environment = node_environment(described, ["0", "3"])
    assert "RAY_ADDRESS" not in environment
    assert "RAY_AUTH_TOKEN" not in environment
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,3"
    head, node = node_command(described, 0, 2), node_command(described, 1, 2)
    assert {"--dashboard-host=127.0.0.1", f"--temp-dir={tmp_path}", "--node-ip-address=127.0.0.1"} <= set(
        head
    )
    assert "--address=127.0.0.1:1" in node


def test_nodes_of_one_machine_get_different_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5,7")
    assert gpus_of_nodes(2, 2, print) == [["2", "3"], ["5", "7"]]
    with pytest.raises(ResourceError, match="3 nodes x 2 GPUs; allowed: the 4 GPUs of this machine"):
        gpus_of_nodes(3, 2, print)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    told: list[str] = []
    assert gpus_of_nodes(2, 1, told.append) == [[], []]
    assert "nothing can compute on them" in told[0]
