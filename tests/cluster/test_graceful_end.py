"""A pod's life, with Ray itself: started by the command that KubeRay writes, probed as the kubelet does, told to go.

Hosts are network namespaces. Kubernetes is not there: what is shown is what Ray does with the manifest's settings.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ..hosts import Hosts, missing
from ..ray_hosts import wait_for
from .manifests import CLUSTER, Document, ray_clusters, rendered

GCS_PORT = 6379
WATCH = """
import sys, time, ray
from ray._private.state import state
ray.init("auto", log_to_driver=False, logging_level="ERROR")
while sum(node["Alive"] for node in ray.nodes()) < 2:
    time.sleep(0.2)
@ray.remote(num_cpus=1)
class Worker:
    def busy(self):
        return True
worker = Worker.remote()
ray.get(worker.busy.remote())
print("busy", flush=True)
while not state.get_draining_nodes():
    time.sleep(0.1)
(deadline_ms,) = state.get_draining_nodes().values()
print(deadline_ms / 1000 - time.time(), flush=True)
sys.stdin.readline()
ray.kill(worker)
print("idle", flush=True)
time.sleep(60)
"""


def _environment(container: Document, token: str) -> dict[str, str]:
    own = {variable["name"]: variable["value"] for variable in container["env"]}
    return os.environ | own | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}


def _started(
    hosts: Hosts, number: int, group: Document, token: str, **params: str
) -> subprocess.Popen[bytes]:
    """A node as KubeRay starts it: Bash as the container's command, and `ray start --block` as its argument."""
    container = group["template"]["spec"]["containers"][0]
    params = (
        params
        | group["rayStartParams"]
        | {"node-ip-address": hosts.address(number), "object-store-memory": "80000000"}
    )
    fixed = {"metrics-export-port": "8080", "dashboard-agent-listen-port": "52365"}
    options = " ".join(f"--{name}={value}" for name, value in (params | fixed).items())
    head = "--head" if "address" not in params else ""
    command = f"ulimit -n 65536; ray start {head} {options} --block"
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    environment = _environment(container, token) | {"PATH": path}
    words = hosts.command(number, "/bin/bash", "-c", "--", command)
    return subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@contextmanager
def _two_nodes(hosts: Hosts, token: str) -> Iterator[tuple[subprocess.Popen[bytes], subprocess.Popen[str]]]:
    """A head and a worker, probed until they are ready, and a driver that keeps the worker busy and watches it."""
    (spec,) = ray_clusters(rendered("overlays/kind"))
    head, worker = spec["headGroupSpec"], spec["workerGroupSpecs"][0]
    address = f"{hosts.address(1)}:{GCS_PORT}"
    _started(hosts, 1, head, token, **{"dashboard-host": "0.0.0.0", "port": str(GCS_PORT)})
    container = head["template"]["spec"]["containers"][0]
    ready = container["readinessProbe"]["httpGet"]
    dashboard = f"http://{hosts.address(1)}:{ready['port']}"
    wait_for(lambda: _status(f"{dashboard}{ready['path']}") == 200, 120)  # the probe has no token
    assert _status(f"{dashboard}/api/jobs/") == 401
    node = _started(hosts, 2, worker, token, address=address, **{"num-cpus": "1"})
    lives = worker["template"]["spec"]["containers"][0]["livenessProbe"]["httpGet"]
    wait_for(lambda: _status(f"http://{hosts.address(2)}:{lives['port']}{lives['path']}") == 200, 120)
    driver = subprocess.Popen(
        hosts.command(1, sys.executable, "-c", WATCH),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=_environment(container, token) | {"RAY_ADDRESS": address},
    )
    assert driver.stdout
    assert driver.stdout.readline() == "busy\n"
    try:
        yield node, driver
    finally:
        driver.kill()
        driver.wait()


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if missing():
        pytest.skip(f"needs {missing()}")
    with Hosts(2) as two:
        yield two


@pytest.mark.slow
@pytest.mark.ray
def test_pod_that_is_told_to_go_announces_it_and_ends_when_its_work_has_moved(hosts):
    with _two_nodes(hosts, secrets.token_hex(16)) as (node, driver):
        node.terminate()  # what the kubelet does
        announced_s = float(driver.stdout.readline())
        assert 60 < announced_s <= 90
        assert node.poll() is None
        print("go on", file=driver.stdin, flush=True)
        assert driver.stdout.readline() == "idle\n"
        began = time.monotonic()
        node.wait(timeout=60)
        assert time.monotonic() - began < 45  # not the whole grace period


@pytest.mark.slow
@pytest.mark.ray
def test_machine_that_its_cloud_takes_away_is_announced_by_its_watcher(hosts):
    token = secrets.token_hex(16)
    with _two_nodes(hosts, token) as (_, driver):
        folder = CLUSTER / "image"
        code = f"import watch_for_preemption as w; w.announce('{hosts.address(1)}:{GCS_PORT}', 120)"
        path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "PATH": path, "PYTHONPATH": str(folder)}
        words = hosts.command(2, sys.executable, "-c", code)
        subprocess.run(words, env=os.environ | own, check=True, timeout=120)
        assert 60 < float(driver.stdout.readline()) <= 120
