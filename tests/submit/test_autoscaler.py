from __future__ import annotations

from syn2co_ray.submit.autoscaler import limits_of, nodes_to_come

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
