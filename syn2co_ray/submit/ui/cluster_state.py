"""The cluster that RAY_ADDRESS names, as its head tells it: nodes, what they have and use, autoscaler."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from ..head_watch import HeadWatch

TIMEOUT_S = 5
SHOWN_FOR_S = 5.0


@dataclass(frozen=True)
class NodeState:
    """One node: CPUs and GPUs in use and in all."""

    address: str
    type_name: str
    status: str
    cpus_used: float
    cpus: float
    gpus_used: float
    gpus: float


@dataclass(frozen=True)
class ClusterState:
    """Nodes, and what the autoscaler is about; `fault` where the head did not answer."""

    address: str
    nodes: tuple[NodeState, ...] = ()
    pending: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    demands: int = 0
    """Requests for resources that no node has room for now."""
    fault: str = ""
    totals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """CPU and GPU: used, in all."""


def cluster_state() -> ClusterState | None:
    """What the head of RAY_ADDRESS says; None without RAY_ADDRESS. No driver is started for it."""
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return None
    if "://" in address:
        return ClusterState(address, fault="not asked: only a head's own address (host:port or auto) is")
    try:
        from ray._private.services import canonicalize_bootstrap_address
        from ray.autoscaler.v2.sdk import get_cluster_status

        head = canonicalize_bootstrap_address(address)
        if not head:
            return ClusterState(address, fault="no cluster is running on this machine")
        # Ray's client would end this process when nobody answers for a minute.
        if not HeadWatch(head).answers():
            return ClusterState(address, fault="its head does not answer")
        return _state(head, get_cluster_status(head, timeout=TIMEOUT_S))
    except Exception as error:
        # Whatever Ray's client raises, the other parts of the page are still of use.
        words = str(error).strip().splitlines() or [type(error).__name__]
        return ClusterState(address, fault=words[0])


def _state(address: str, status: Any) -> ClusterState:
    nodes = [_node(node) for node in [*status.active_nodes, *status.idle_nodes]]
    launches = [f"{each.count} x {each.ray_node_type_name}" for each in status.pending_launches]
    launches += [f"{each.ray_node_type_name} ({each.details or 'starting'})" for each in status.pending_nodes]
    failed = [
        f"{each.count} x {each.ray_node_type_name}: {each.details or ''}" for each in status.failed_launches
    ]
    failed += [f"{each.ip_address} ({each.ray_node_type_name})" for each in status.failed_nodes]
    demands = status.resource_demands
    waiting = sum(
        bundle.count
        for kind in (demands.ray_task_actor_demand, demands.placement_group_demand)
        for each in kind
        for bundle in each.bundles_by_count
    )
    totals = {
        "CPU": (sum(node.cpus_used for node in nodes), sum(node.cpus for node in nodes)),
        "GPU": (sum(node.gpus_used for node in nodes), sum(node.gpus for node in nodes)),
    }
    return ClusterState(address, tuple(nodes), tuple(launches), tuple(failed), waiting, "", totals)


def _node(node: Any) -> NodeState:
    used, total = node.used_resources(), node.total_resources()
    return NodeState(
        address=node.ip_address,
        type_name=node.ray_node_type_name,
        status=(node.node_status or "").lower(),
        cpus_used=used.get("CPU", 0.0),
        cpus=total.get("CPU", 0.0),
        gpus_used=used.get("GPU", 0.0),
        gpus=total.get("GPU", 0.0),
    )
