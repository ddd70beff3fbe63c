"""Training over several hosts whose links are cut, and whose head dies."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import list_files, open_store

from ..faulty_store import running_faulty_store
from ..hosts import Hosts, missing
from ..object_store import ObjectStore
from ..ray_hosts import ENVIRONMENT, RayHosts, wait_for
from .test_elasticity import check_steps, job_values

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _hosts_can_be_made() -> None:
    if missing():
        pytest.skip(f"needs {missing()} for network namespaces")


def workers_of_newest(runs: Path) -> int:
    """World size in the newest checkpoint, 0 before there is one."""
    states = sorted(file.parent / "state.json" for file in runs.glob("*/checkpoints/*/MANIFEST.json"))
    try:
        return int(json.loads(states[-1].read_text())["world_size"]) if states else 0
    except FileNotFoundError:  # an older one that was dropped meanwhile
        return 0


def finished(driver: subprocess.Popen[str], folder: Path) -> tuple[str, Path, dict[str, Any]]:
    """Output, run folder and results of a run that ends well."""
    out = driver.communicate(timeout=600)[0]
    assert driver.returncode == 0, out
    (run,) = (folder / "runs").glob("tiny-*")
    return out, run, json.loads((run / "results.json").read_text())


def test_a_host_cut_off_by_its_link_is_left_behind_and_taken_back(tmp_path: Path) -> None:
    folder, file = tmp_path / "elastic", tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(job_values(folder)))
    with RayHosts(3) as hosts:
        hosts.start_head(cpus=1)
        for number in (2, 3):
            hosts.start_node(number, cpus=1)
        hosts.await_nodes(3)
        driver = hosts.start_job(1, file)
        wait_for(lambda: workers_of_newest(folder / "runs") == 2, 300)
        hosts.cut(3)
        wait_for(lambda: workers_of_newest(folder / "runs") == 1, 300)
        hosts.join(3)
        hosts.kill(3)  # what was cut off has given up, or will: it never comes back by itself
        hosts.start_node(3, cpus=1)
        _, run, results = finished(driver, folder)
    assert [start["workers"] for start in results["starts"]] == [2, 1, 2]
    assert results["starts"][2]["replayed_steps"] == 0
    check_steps(str(run), job_values(tmp_path / "straight"))


@pytest.fixture
def redis() -> Iterator[str]:
    """Address of a Redis server that the hosts can reach."""
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server (Debian: redis-server)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = f"redis-server --port {port} --bind 0.0.0.0 --protected-mode no --save --appendonly no".split()
    words.insert(words.index("--save") + 1, "")
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    yield f"10.77.0.254:{port}"
    server.kill()
    server.wait()


def wide_job_values(folder: Path) -> dict[str, Any]:
    """A job for one worker whose views are more than the object store holds: they are made while it trains."""
    values = job_values(folder)
    values["augment"]["image_size"] = 32
    values["train"] |= {"workers": 1, "epochs": 30}
    return values


def test_a_head_that_dies_and_comes_back_costs_nothing(tmp_path: Path, redis: str) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(wide_job_values(tmp_path / "head")))
    runs = tmp_path / "head/runs"
    with RayHosts(2, {"RAY_REDIS_ADDRESS": redis, "RAY_external_storage_namespace": "test"}) as hosts:
        hosts.start_head(cpus=0)
        hosts.start_node(2, cpus=2)
        hosts.await_nodes(2, seen_from=2)
        driver = hosts.start_job(2, file)
        wait_for(lambda: workers_of_newest(runs) == 1, 300)
        hosts.kill(1)
        hosts.start_head(cpus=0)
        out, run, results = finished(driver, tmp_path / "head")
    assert len(results["starts"]) == 1, out
    check_steps(str(run), wide_job_values(tmp_path / "straight"))


def test_a_head_that_dies_for_good_ends_the_run_and_a_new_cluster_takes_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENVIRONMENT, "RAY_gcs_rpc_server_reconnect_timeout_s", "15")
    file = tmp_path / "job.yaml"
    values = job_values(tmp_path / "head")
    values["train"] |= {"workers": 1}
    file.write_text(yaml.safe_dump(values))
    with RayHosts(2) as hosts:
        hosts.start_head(cpus=0)
        hosts.start_node(2, cpus=2)
        hosts.await_nodes(2, seen_from=2)
        first = hosts.start_job(2, file)
        wait_for(lambda: workers_of_newest(tmp_path / "head/runs") == 1, 300)
        hosts.kill(1)
        out = first.communicate(timeout=300)[0]
        assert first.returncode == 4, out
        assert f"error: Ray's head at {hosts.ray_address}: does not answer any more" in out
        hosts.kill(2)
        hosts.start_head(cpus=0)
        hosts.start_node(2, cpus=2)
        hosts.await_nodes(2, seen_from=2)
        out, _, results = finished(hosts.start_job(2, file), tmp_path / "head")
    assert "resumed from step" in out
    assert results["resumed_from_steps"]


def small_job_values(folder: Path | str) -> dict[str, Any]:
    """A job for one worker with checkpoints of a few MB: a thin link carries one in seconds."""
    values = job_values(folder)
    values["method"]["backbone_options"] = {"embed_dim": 96, "depth": 3, "num_heads": 3}
    values["train"] |= {"workers": 1, "epochs": 20}
    return values


@pytest.mark.object_store
def test_another_host_goes_on_from_the_bucket_alone_over_a_thin_link(
    tmp_path: Path, object_store: ObjectStore
) -> None:
    place = f"{object_store.make_bucket('hosts')}/{tmp_path.name}"
    values = small_job_values(place)
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(values))
    command = (sys.executable, "-m", "syn2co_ray.cli", "run", str(file))
    with Hosts(2) as hosts, running_faulty_store(object_store, hosts.gateway, nolinger=False) as store:
        environment = {**os.environ, **store.store.environment}
        for number in (1, 2):
            hosts.slow(number, megabits_per_s=2)
        first = subprocess.Popen(hosts.command(1, *command), env=environment, stdout=subprocess.DEVNULL)
        runs = open_store(f"{place}/runs", ObjectStoreSpec())
        with pytest.MonkeyPatch.context() as here:
            for name, value in object_store.environment.items():
                here.setenv(name, value)
            wait_for(lambda: any("MANIFEST" in f.path for f in list_files(runs, missing_ok=True)), 300)
            hosts.kill(1)
            first.wait()
            second = subprocess.run(
                hosts.command(2, *command), env=environment, capture_output=True, text=True, timeout=600
            )
            assert second.returncode == 0, second.stdout + second.stderr
            assert "resumed from step" in second.stdout
            check_steps(runs.uri, small_job_values(tmp_path / "straight"))
