"""The Kubernetes manifests in `cluster/kuberay`, rendered as `kubectl apply -k` would, and the pods they make."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
KUBERAY = CLUSTER / "kuberay"
PLATFORMS = ("kind", "on_prem", "eks", "gke")
FOLDERS = tuple(f"{kind}/{platform}" for kind in ("overlays", "jobs") for platform in PLATFORMS)
"""What a user applies, below `cluster/kuberay`."""
NODE_TYPE = "ray.io/node-type"
"""The label by which KubeRay tells a head from its workers."""

Document = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """A pod that a manifest makes: its name in messages, labels (KubeRay's too), spec, containers KubeRay adds."""

    name: str
    labels: dict[str, str]
    spec: Document
    added: tuple[Document, ...] = ()

    @property
    def containers(self) -> list[Document]:
        return [*self.spec.get("initContainers", ()), *self.spec["containers"], *self.added]


def rendered(folder: str | Path) -> list[Document]:
    """The documents of a folder below `cluster/kuberay` (or anywhere), new objects at every call.

    Skips the test, named, without a kubectl that has Kustomize 5.
    """
    text = _text(KUBERAY / folder)
    if text is None:
        pytest.skip("needs kubectl 1.27 or newer (its Kustomize 5 renders the manifests)")
    return list(yaml.load_all(text, yaml.CSafeLoader))


@lru_cache
def _text(folder: Path) -> str | None:
    if not _has_kustomize_5():
        return None
    command = ("kubectl", "kustomize", str(folder))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@lru_cache
def _has_kustomize_5() -> bool:
    if shutil.which("kubectl") is None:
        return False
    command = ("kubectl", "version", "--client", "--output=json")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    version = json.loads(done.stdout or "{}").get("kustomizeVersion", "v0")
    return int(version.lstrip("v").partition(".")[0]) >= 5


def ray_clusters(documents: list[Document]) -> Iterator[Document]:
    """The specs of the Ray clusters, also those inside a RayJob."""
    for document in documents:
        if document["kind"] == "RayCluster":
            yield document["spec"]
        if document["kind"] == "RayJob":
            yield document["spec"]["rayClusterSpec"]


def pods(documents: list[Document]) -> Iterator[Pod]:
    """Every pod that the documents make."""
    for spec in ray_clusters(documents):
        options = spec.get("autoscalerOptions", {})
        autoscaler = {"name": "autoscaler", **options}
        yield _pod("head", spec["headGroupSpec"]["template"], (autoscaler,), {NODE_TYPE: "head"})
        for group in spec["workerGroupSpecs"]:
            yield _pod(group["groupName"], group["template"], labels={NODE_TYPE: "worker"})
    for document in documents:
        if document["kind"] == "RayJob":
            yield _pod("submitter", document["spec"]["submitterPodTemplate"])
        if document["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            yield _pod(document["metadata"]["name"], document["spec"]["template"])
        if document["kind"] == "Pod":
            yield _pod(document["metadata"]["name"], document)


def _pod(
    name: str, template: Document, added: tuple[Document, ...] = (), labels: dict[str, str] | None = None
) -> Pod:
    own = template.get("metadata", {}).get("labels", {})
    return Pod(name, own | (labels or {}), template["spec"], added)
