"""A small job that says what a cluster is: versions on each node, resources, and which places it can reach.

It is sent as a file of its own and run as `python probe.py job.yaml LIBRARY...`, where this package may be
missing: it imports only the standard library and Ray until it knows better. Its answer is a line of its log.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGE = "syn2co_ray"
ANSWER = "probe's answer: "
IMAGE_VARIABLE = "SYN2CO_IMAGE"
"""Set in `cluster/image/Dockerfile`: the name of the image."""
NODE_TIMEOUT_S = 120.0


def versions_here() -> dict[str, str | None]:
    """Of Python, Ray, torch and this package (its version and a digest of its code), None where missing."""
    return {
        "python": platform.python_version(),
        "ray": _version("ray"),
        "torch": _version("torch"),
        PACKAGE: _code(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _code() -> str | None:
    """Digest over the package's Python files: its version alone does not tell two checkouts apart."""
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        return None
    folder, whole = Path(found.origin).parent, hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        whole.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return f"code {whole.hexdigest()[:12]}"


def _described(name: str, libraries: list[str]) -> dict[str, Any]:
    """The node that this runs on: versions, those of the libraries (None where missing), and its image."""
    return {
        "node": name,
        **versions_here(),
        "image": os.environ.get(IMAGE_VARIABLE) or None,
        "libraries": {library: _version(library) for library in libraries},
    }


def ask_node(name: str, libraries: list[str], job_text: str, mark: str) -> dict[str, Any]:
    """What one node says; `mark` names the object that the head has written into the job's storage."""
    answer = _described(name, libraries)
    if answer[PACKAGE] is not None:
        try:
            from syn2co_ray.submit.reach import reach_from_node
        except ImportError as error:
            return {**answer, "cannot_import": str(error)}
        answer["unreachable"] = reach_from_node(job_text, mark)
    return answer


def ask_cluster(job_file: str, libraries: list[str]) -> dict[str, Any]:
    """Versions of the head's `python`, then of every node, with its resources and what it cannot reach."""
    head = _described("the head", libraries)
    answer: dict[str, Any] = {"nodes": [head], "resources": [], "autoscaler": None}
    if head["ray"] is None or head[PACKAGE] is None:
        return answer
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    try:
        from syn2co_ray.submit.autoscaler import autoscaler_limits
        from syn2co_ray.submit.reach import leave_mark, remove_mark
    except ImportError as error:
        head["cannot_import"] = str(error)
        return answer
    job_text = Path(job_file).read_text(encoding="utf-8")
    ray.init(log_to_driver=False, logging_level="ERROR")
    nodes = [node for node in ray.nodes() if node["Alive"]]
    mark, head["unreachable"] = leave_mark(job_text)
    try:
        asked = [
            ray.remote(ask_node)
            .options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            )
            .remote(f"{node['NodeName']} ({node['NodeManagerAddress']})", libraries, job_text, mark)
            for node in nodes
        ]
        answer["nodes"] += ray.get(asked, timeout=NODE_TIMEOUT_S)
    finally:
        remove_mark(job_text, mark)
    answer["resources"] = [node["Resources"] for node in nodes]
    answer["autoscaler"] = autoscaler_limits(ray.get_runtime_context().gcs_address)
    return answer


if __name__ == "__main__":
    print(ANSWER + json.dumps(ask_cluster(sys.argv[1], sys.argv[2:])), flush=True)
