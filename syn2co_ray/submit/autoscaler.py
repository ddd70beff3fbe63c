"""What a cluster's autoscaler may still add; asked on the head, as Ray tells it to nobody else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import psutil
import yaml

from ..spec.errors import ClusterError

GROUPS = "SYN2CO_AUTOSCALER_GROUPS"
"""Variable of a head on Kubernetes: its worker groups as JSON, as only the autoscaler may ask Kubernetes."""
GROUPS_FORM = '{"train": {"resources": {"CPU": 44, "GPU": 4}, "max_workers": 4}}'
MONITOR, OPTION = "monitor.py", "--autoscaling-config="


def autoscaler_limits(gcs_address: str) -> dict[str, Any] | None:
    """Node types that can be added to the cluster; to be called on the machine of its head.

    Returns:
        `types` (each with `name`, `resources`, `nodes_max`) and `nodes_max` of all without the head;
        None when nothing can be added.

    Raises:
        ClusterError: the head's variable with its groups does not read.
    """
    groups = os.environ.get(GROUPS)
    if groups:
        return _of_groups(groups)
    config = _of_the_monitor(gcs_address)
    return None if config is None else limits_of(config)


def limits_of(config: dict[str, Any]) -> dict[str, Any] | None:
    """Limits in a configuration of Ray's autoscaler (the format of `ray up`)."""
    head = config.get("head_node_type")
    types = [
        {"name": name, "resources": kind.get("resources", {}), "nodes_max": kind.get("max_workers", 0)}
        for name, kind in config.get("available_node_types", {}).items()
        if name != head and kind.get("max_workers", 0) > 0
    ]
    nodes_max = config.get("max_workers", sum(kind["nodes_max"] for kind in types))
    return {"types": types, "nodes_max": nodes_max} if types and nodes_max else None


def nodes_to_come(limits: dict[str, Any] | None, nodes_alive: int) -> list[dict[str, float]]:
    """Resources of the nodes that may come, the largest first; those alive beside the head have come."""
    if limits is None:
        return []
    kinds = sorted(
        limits["types"],
        key=lambda kind: (kind["resources"].get("GPU", 0), kind["resources"].get("CPU", 0)),
        reverse=True,
    )
    coming = [kind["resources"] for kind in kinds for _ in range(kind["nodes_max"])]
    return coming[: max(0, limits["nodes_max"] - (nodes_alive - 1))]


def _of_the_monitor(gcs_address: str) -> dict[str, Any] | None:
    """From the file that `ray up` or `ray start --autoscaling-config` gave to the head's monitor."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if f"--gcs-address={gcs_address}" in words and any(word.endswith(MONITOR) for word in words):
            for word in words:
                if word.startswith(OPTION) and word != OPTION:
                    text = Path(word.removeprefix(OPTION)).expanduser().read_text()
                    return dict(yaml.safe_load(text) or {})
    return None


def _of_groups(text: str) -> dict[str, Any] | None:
    """From the variable that the manifests in `cluster/kuberay` give to their head."""
    try:
        return limits_of({"available_node_types": json.loads(text)})
    except (ValueError, TypeError, AttributeError) as error:
        step = "write it as cluster/kuberay/base/ray_cluster.yaml has it"
        raise ClusterError(f"{GROUPS} on the head", text, f"JSON such as {GROUPS_FORM}", step) from error
