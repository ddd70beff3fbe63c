from __future__ import annotations

import json

import pytest

from syn2co_ray.spec.errors import ClusterError
from syn2co_ray.submit.autoscaler import GROUPS, autoscaler_limits, limits_of, nodes_to_come

CONFIG = {
    "max_workers": 4,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 2}, "max_workers": 0},
        "cpu": {"resources": {"CPU": 16}, "max_workers": 3},
        "gpu": {"resources": {"CPU": 8, "GPU": 4}, "max_workers": 2},
        "off": {"resources": {"CPU": 64}, "max_workers": 0},
    },
}


def test_limits_are_those_of_the_node_types_that_can_be_added():
    limits = limits_of(CONFIG)
    assert [(kind["name"], kind["nodes_max"]) for kind in limits["types"]] == [("cpu", 3), ("gpu", 2)]
    assert limits["nodes_max"] == 4


def test_nothing_can_be_added_where_all_types_are_full_of_zeros():
    assert limits_of({**CONFIG, "max_workers": 0}) is None
    assert limits_of({"available_node_types": {}}) is None


def test_nodes_to_come_are_the_largest_first_and_those_alive_are_counted():
    limits = limits_of(CONFIG)
    gpus = [node.get("GPU", 0) for node in nodes_to_come(limits, nodes_alive=1)]
    assert gpus == [4, 4, 0, 0]
    assert len(nodes_to_come(limits, nodes_alive=4)) == 1
    assert nodes_to_come(limits, nodes_alive=9) == []
    assert nodes_to_come(None, nodes_alive=1) == []


def test_limits_on_kubernetes_are_those_that_the_head_was_told(monkeypatch):
    groups = {
        name: kind for name, kind in CONFIG["available_node_types"].items() if name not in ("head", "off")
    }
    monkeypatch.setenv(GROUPS, json.dumps(groups))
    assert autoscaler_limits("127.0.0.1:6379") == {"types": limits_of(CONFIG)["types"], "nodes_max": 5}


@pytest.mark.parametrize("text", ["{", "[]", '{"train": 4}', '{"train": {"max_workers": "4"}}'])
def test_groups_that_do_not_read_are_one_fault_that_names_the_variable(monkeypatch, text):
    monkeypatch.setenv(GROUPS, text)
    with pytest.raises(ClusterError, match=GROUPS) as caught:
        autoscaler_limits("127.0.0.1:6379")
    assert "cluster/kuberay/base" in caught.value.fault.next_step


def test_a_cluster_that_does_not_scale_itself_has_no_limits(monkeypatch):
    monkeypatch.delenv(GROUPS, raising=False)
    assert autoscaler_limits("127.0.0.1:1") is None
