"""What the head of RAY_ADDRESS says, without becoming a driver of its cluster."""

from __future__ import annotations

import socket

import pytest

from syn2co_ray.submit.ui.cluster_state import cluster_state


def test_without_an_address_there_is_no_cluster() -> None:
    assert cluster_state() is None


def test_a_head_that_is_not_there_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    state = cluster_state()
    assert state is not None
    assert state.fault == "its head does not answer"
    monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:10001")
    state = cluster_state()
    assert state is not None
    assert "not asked" in state.fault


def test_an_error_without_words_is_called_by_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(address: str) -> None:
        raise TimeoutError

    monkeypatch.setattr("ray._private.services.canonicalize_bootstrap_address", silent)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    state = cluster_state()
    assert state is not None
    assert state.fault == "TimeoutError"


@pytest.mark.ray
def test_nodes_are_listed_with_what_is_in_use(ray_cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    state = cluster_state()
    assert state is not None
    assert state.fault == ""
    (node,) = state.nodes
    assert node.cpus == ray_cluster.cpus
    assert node.gpus == ray_cluster.gpus
    assert 0 <= node.cpus_used <= node.cpus
    assert state.totals["CPU"][1] == ray_cluster.cpus
