from __future__ import annotations

from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pytest

from syn2co_ray.spec.errors import ClusterError, StorageError, error_to_json
from syn2co_ray.spec.track import TrackSpec
from syn2co_ray.submit import libraries, probe
from syn2co_ray.submit.send import Sending, checked_lines, submit
from tests.train.local_run import tiny_job

from .job_server import JOB, JobServer, serving

NODE = {"CPU": 8.0}


@pytest.fixture
def sending(tmp_path) -> Sending:
    return Sending(tiny_job(tmp_path), False, False, 600, "syn2co submit tiny.yaml")


def answer(sending: Sending, **of_the_node: Any) -> dict[str, Any]:
    """What the probe says of a head like this machine, and of one more node with these differences."""
    there = {wanted.name: version(wanted.name) for wanted in sending.libraries}
    head = {**probe.versions_here(), "node": "the head", "image": None, "libraries": there}
    nodes = [head, {**head, "node": "gpu-1", **of_the_node}]
    return {"nodes": nodes, "resources": [NODE, NODE], "autoscaler": None}


def test_a_cluster_like_this_machine_is_accepted_and_its_image_is_named(sending):
    told = answer(sending)
    assert checked_lines(sending.job, told, sending.libraries)[0].startswith("cluster: 2 node(s), 16 CPUs")
    for node in told["nodes"]:
        node["image"] = "registry/syn2co:1"
    assert checked_lines(sending.job, told, sending.libraries)[0] == "image of all nodes: registry/syn2co:1"


def test_a_library_that_the_job_needs_is_looked_for_on_every_node(sending):
    tracked = replace(sending, job=sending.job.model_copy(update={"track": TrackSpec(tensorboard=True)}))
    told = answer(tracked)
    told["nodes"][1]["libraries"] = {**told["nodes"][1]["libraries"], "tensorboard": None}
    checked_lines(sending.job, told, sending.libraries)
    with pytest.raises(
        ClusterError, match=r"tensorboard: missing on gpu-1; allowed: >=.*; next: pip install"
    ):
        checked_lines(tracked.job, told, tracked.libraries)


def test_a_place_that_a_node_cannot_reach_is_its_error(sending):
    told = answer(sending, unreachable=[error_to_json(StorageError("s3://x", "no answer"))])
    with pytest.raises(StorageError, match="s3://x: no answer"):
        checked_lines(sending.job, told, sending.libraries)


def test_a_run_under_way_is_refused_with_commands_for_that_cluster(sending):
    with serving(JobServer("")) as server:
        server.run = sending.run
        with pytest.raises(ClusterError, match=f"{JOB} is at it") as caught:
            submit(server.dashboard, sending, lambda line: None)
        at = f"{JOB} --address {server.dashboard.url}"
    assert caught.value.fault.next_step == f"syn2co logs -f {at}, or syn2co stop {at}"


def test_without_an_installed_package_libraries_are_not_compared_and_it_says_so(sending, monkeypatch):
    def nothing(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    told: list[str] = []
    monkeypatch.setattr(libraries, "requires", nothing)
    with serving(JobServer("")) as server:
        server.run = sending.run
        with pytest.raises(ClusterError, match="is at it"):
            submit(server.dashboard, sending, told.append)
    assert "libraries are not compared: syn2co_ray is not installed here (pip install -e .)" in told
