"""`syn2co submit --pip` to a cluster that has Ray and nothing else of what a job needs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

import syn2co_ray

from .test_run import only_run, results_of, write_job

pytestmark = [pytest.mark.slow, pytest.mark.ray]

TOKEN = "0123456789abcdef0123456789abcdef"
SMALL = ["data.reader_cpus_each=0.5", "augment.actors={min: 1, max: 1, cpus_each: 0.5}",
         "train.workers={min: 1, max: 1, cpus_each: 0.5}", "train.epochs=2"]  # fmt: skip


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def bare_cluster(tmp_path: Path) -> Iterator[str]:
    """URL of the dashboard of one node, whose environment has Ray alone."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    wanted = f"ray[data,default,train,tune]=={version('ray')}"
    subprocess.run([venv / "bin/pip", "install", "-q", wanted], check=True)
    lacking = subprocess.run([venv / "bin/python", "-c", "import torch"], capture_output=True)
    assert b"No module named 'torch'" in lacking.stderr
    port, temp = free_port(), Path("/tmp") / f"bare-{os.getpid()}"  # short: sockets are below it
    command = [venv / "bin/ray", "start", "--head", f"--port={free_port()}", "--num-cpus=2", "--block",
               "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--dashboard-port={port}",
               f"--ray-client-server-port={free_port()}", f"--temp-dir={temp}",
               "--object-store-memory=200000000"]  # fmt: skip
    here = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
    here |= {"PATH": f"{venv / 'bin'}:{os.environ['PATH']}", "VIRTUAL_ENV": str(venv),
             "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}  # fmt: skip
    node = subprocess.Popen([str(word) for word in command], env=here, cwd=tmp_path, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        asked = urllib.request.Request(f"{url}/api/version", headers={"Authorization": f"Bearer {TOKEN}"})
        until = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(asked, timeout=5).close()
                break
            except OSError:
                assert node.poll() is None
                assert time.monotonic() < until
                time.sleep(0.5)
        yield url
    finally:
        os.killpg(node.pid, signal.SIGTERM)
        node.wait(60)


def test_the_libraries_of_here_are_installed_there(bare_cluster: str, tmp_path: Path) -> None:
    def submit(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "syn2co_ray.cli", "submit", str(write_job(tmp_path)), *SMALL, *words]
        source = str(Path(syn2co_ray.__file__).parents[1])
        return subprocess.run(
            [*command, "--address", bare_cluster, "--wait"],
            capture_output=True,
            text=True,
            timeout=3000,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": source, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN},
        )

    refused = submit("--working-tree")
    assert refused.returncode == 5, refused.stdout + refused.stderr
    assert "torch: missing" in refused.stdout + refused.stderr
    assert "--pip" in refused.stdout + refused.stderr
    accepted = submit("--working-tree", "--pip")
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr
    assert results_of(only_run(tmp_path))["status"] == "finished"
