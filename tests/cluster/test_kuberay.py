"""KubeRay manifests: what an API server and our own rules say of them, and of ones that were broken on purpose."""

from __future__ import annotations

import copy
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from syn2co_ray.spec.load import load_job
from syn2co_ray.submit.resources import choose_workers

from .house_rules import CHECKPOINT_S, broken
from .manifests import FOLDERS, KUBERAY, Document, pods, ray_clusters, rendered

Change = Callable[[Document], Any]

each_folder = pytest.mark.parametrize("folder", FOLDERS)


@pytest.fixture(scope="session")
def crds(shared_dir: Path) -> Path:
    """KubeRay's CustomResourceDefinitions, v1.7.0."""
    folder = shared_dir / "crds"
    if not folder.is_dir():
        pytest.skip(f"needs KubeRay's CustomResourceDefinitions v1.7.0 in {folder}")
    return folder


@pytest.fixture(scope="session")
def schema_faults(crds: Path) -> Callable[[Document], list[str]]:
    """What an API server would refuse of a manifest."""
    for package in ("kubernetes_validate", "jsonschema", "cel"):
        pytest.importorskip(package, reason=f"needs {package} (the extra `test`)")
    from .kubernetes_schemas import faults

    return lambda document: faults(document, crds)


def ray_cluster_of(documents: list[Document]) -> Document:
    return next(document for document in documents if document["kind"] == "RayCluster")


def test_no_folder_that_users_apply_is_missing_or_unlisted():
    found = {
        str(file.parent.relative_to(KUBERAY))
        for top in ("overlays", "jobs")
        for file in (KUBERAY / top).glob("*/*ization.yaml")
    }
    assert found == set(FOLDERS)


@each_folder
def test_api_server_takes_every_manifest(folder, schema_faults):
    documents = rendered(folder)
    assert {fault for document in documents for fault in schema_faults(document)} == set()
    assert len(documents) >= 8


@each_folder
def test_house_rules_hold(folder):
    assert broken(rendered(folder), on_a_laptop=folder.endswith("/kind")) == []


@pytest.mark.parametrize(
    ("folder", "groups"),
    [
        ("kind", ["augment"]),
        ("on_prem", ["augment", "train", "generate"]),
        ("eks", ["augment", "train", "train-spot", "generate"]),
        ("gke", ["augment", "train", "train-spot", "generate"]),
    ],
)
def test_platform_has_its_groups_and_a_job_gets_the_same_cluster(folder, groups):
    (standing,) = ray_clusters(rendered(f"overlays/{folder}"))
    (of_job,) = ray_clusters(rendered(f"jobs/{folder}"))
    assert [group["groupName"] for group in standing["workerGroupSpecs"]] == groups
    assert of_job == standing


@pytest.mark.parametrize("platform", ["on_prem", "eks", "gke"])
def test_components_go_on_top_of_an_overlay(platform, tmp_path, schema_faults):
    kuberay = os.path.relpath(KUBERAY, tmp_path)
    components = [f"{kuberay}/components/{name}" for name in ("cpu_only", "tls", "job")]
    own = {
        "namespace": "syn2co",
        "resources": [f"{kuberay}/overlays/{platform}"],
        "components": components,
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(own))
    documents = rendered(tmp_path)
    (spec,) = ray_clusters(documents)
    assert [group["groupName"] for group in spec["workerGroupSpecs"]] == ["augment"]
    assert spec["tlsOptions"] == {"enabled": True}
    assert {fault for document in documents for fault in schema_faults(document)} == set()
    assert broken(documents) == []


@pytest.mark.parametrize("folder", ["overlays/eks", "overlays/gke"])
def test_spot_groups_go_to_spot_machines_and_the_others_do_not(folder):
    (spec,) = ray_clusters(rendered(folder))
    spot = {"eks.amazonaws.com/capacityType": "SPOT", "cloud.google.com/gke-spot": "true"}
    on_spot, tolerating = set(), set()
    for group in spec["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        if any(pod.get("nodeSelector", {}).get(key) == value for key, value in spot.items()):
            on_spot.add(group["groupName"])
        if any("spot" in toleration["key"] for toleration in pod.get("tolerations", ())):
            tolerating.add(group["groupName"])
    assert on_spot == tolerating == {"augment", "train-spot", "generate"}
    assert "tolerations" not in spec["headGroupSpec"]["template"]["spec"]


@each_folder
def test_gpu_groups_ask_for_gpus_and_tolerate_their_taint_and_shared_memory_fits(folder):
    for pod in pods(rendered(folder)):
        limits = pod.spec["containers"][0]["resources"]["limits"]
        tolerates = any(taint["key"] == "nvidia.com/gpu" for taint in pod.spec.get("tolerations", ()))
        assert ("nvidia.com/gpu" in limits) == tolerates == (pod.name in ("train", "train-spot", "generate"))
        for volume in pod.spec.get("volumes", ()):
            if volume.get("emptyDir", {}).get("medium") == "Memory":
                share = _gibibytes(volume["emptyDir"]["sizeLimit"]) / _gibibytes(limits["memory"])
                assert 0.25 <= share <= 0.45  # Ray's object store takes 30 % of a node's memory


def _gibibytes(quantity: str) -> float:
    assert quantity.endswith("Gi")
    return float(quantity.removesuffix("Gi"))


@pytest.mark.parametrize(("platform", "gpus_each"), [("kind", 0), ("on_prem", 1), ("eks", 1), ("gke", 1)])
def test_run_can_start_on_what_is_always_there(platform, gpus_each):
    (spec,) = ray_clusters(rendered(f"overlays/{platform}"))
    cpus, node_gpus = 0.0, []
    for group in spec["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        cpus += group["minReplicas"] * float(limits["cpu"])
        node_gpus += [float(limits.get("nvidia.com/gpu", 0))] * group["minReplicas"]
    job = load_job(
        KUBERAY.parents[1] / "jobs" / "digits_synby.yaml", [f"train.workers.gpus_each={gpus_each}"]
    )
    assert choose_workers(job, cpus, node_gpus).workers >= 1


@each_folder
def test_rays_version_is_the_one_that_the_package_asks_for(folder):
    project = tomllib.loads((KUBERAY.parents[1] / "pyproject.toml").read_text())["project"]
    (needed,) = [r for r in map(Requirement, project["dependencies"]) if r.name == "ray"]
    assert all(spec["rayVersion"] in needed.specifier for spec in ray_clusters(rendered(folder)))


def test_kubernetes_token_is_in_the_autoscalers_container_alone():
    (spec,) = ray_clusters(rendered("overlays/eks"))
    place = "/var/run/secrets/kubernetes.io/serviceaccount"
    mounts = {
        pod.name: [m["mountPath"] for m in pod.spec["containers"][0].get("volumeMounts", ())]
        for pod in pods(rendered("overlays/eks"))
    }
    assert not any(place in paths for paths in mounts.values())
    assert place in [mount["mountPath"] for mount in spec["autoscalerOptions"]["volumeMounts"]]


def _groups(document: Document) -> list[Document]:
    return document["spec"]["workerGroupSpecs"]


def _container(document: Document, number: int = 0) -> Document:
    return _groups(document)[number]["template"]["spec"]["containers"][0]


SCHEMA_BREAKS: dict[str, tuple[Change, str]] = {
    "misspelt key": (lambda d: d["spec"].update(enableInTreeAutoscalling=True), "enableInTreeAutoscalling"),
    "misspelt key in a pod": (lambda d: _container(d).update(volumeMount=[]), "volumeMount"),
    "number where text is asked for": (
        lambda d: d["spec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
        "num-cpus",
    ),
    "number as a variable's value": (lambda d: _container(d)["env"].append({"name": "A", "value": 1}), "env"),
    "text where a number is asked for": (lambda d: _groups(d)[0].update(maxReplicas="16"), "maxReplicas"),
    "no bounds for the autoscaler": (
        lambda d: (_groups(d)[0].pop("minReplicas"), _groups(d)[0].pop("maxReplicas")),
        "Replicas",
    ),
    "a group without a name": (lambda d: _groups(d)[1].pop("groupName"), "groupName"),
    "an unknown auth mode": (lambda d: d["spec"]["authOptions"].update(mode="password"), "password"),
    "an unknown autoscaler": (lambda d: d["spec"]["autoscalerOptions"].update(version="v3"), "v3"),
    "CEL: managed by a stranger": (lambda d: d["spec"].update(managedBy="example.org/me"), "managedBy"),
    "a kind that is none": (lambda d: d.update(kind="RayClusters"), "RayClusters"),
}


@pytest.mark.parametrize("name", SCHEMA_BREAKS)
def test_broken_ray_cluster_is_refused(name, schema_faults):
    change, word = SCHEMA_BREAKS[name]
    document = copy.deepcopy(ray_cluster_of(rendered("overlays/eks")))
    assert schema_faults(document) == []
    change(document)
    assert any(word in fault for fault in schema_faults(document))


@pytest.mark.parametrize(
    ("strategy", "word"),
    [
        ({"onSuccess": {"policy": "DeleteCluster"}}, "BOTH onSuccess and onFailure"),
        ({"deletionRules": [{"policy": "DeleteCluster", "condition": {}}]}, "requires either"),
        ({"deletionRules": [{"policy": "DeleteCluster", "condition": {"jobStatus": "DONE"}}]}, "DONE"),
    ],
)
def test_broken_ray_job_is_refused(strategy, word, schema_faults):
    document = next(d for d in rendered("jobs/eks") if d["kind"] == "RayJob")
    document["spec"]["deletionStrategy"] = strategy
    assert any(word in fault for fault in schema_faults(document))


@pytest.mark.parametrize(
    ("kind", "change", "word"),
    [
        ("NetworkPolicy", lambda d: d["spec"].update(policyType=["Ingress"]), "policyType"),
        ("PodDisruptionBudget", lambda d: d["spec"].update(minAvailable=[1]), "minAvailable"),
        ("StatefulSet", lambda d: d["spec"].pop("selector"), "selector"),
        ("Service", lambda d: d["spec"]["ports"][0].update(port="redis"), "port"),
        ("Namespace", lambda d: d.update(kind="NameSpace"), "NameSpace"),
    ],
)
def test_broken_manifest_of_kubernetes_own_kinds_is_refused(kind, change, word, schema_faults):
    document = next(d for d in rendered("overlays/eks") if d["kind"] == kind)
    change(document)
    assert any(word in fault for fault in schema_faults(document))


def _head(documents: list[Document]) -> Document:
    return ray_cluster_of(documents)["spec"]["headGroupSpec"]


def _first(documents: list[Document], kind: str) -> Document:
    return next(document for document in documents if document["kind"] == kind)


def _named(documents: list[Document], kind: str, name: str) -> Document:
    return next(d for d in documents if (d["kind"], d["metadata"]["name"]) == (kind, name))


def _redis(documents: list[Document]) -> Document:
    return _first(documents, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]


def _train(documents: list[Document]) -> Document:
    return _groups(ray_cluster_of(documents))[1]


RULE_BREAKS: dict[str, tuple[Callable[[list[Document]], Any], str]] = {
    "root": (
        lambda d: _train(d)["template"]["spec"]["securityContext"].update(runAsNonRoot=False),
        "train: may run as root",
    ),
    "root container": (
        lambda d: _container(ray_cluster_of(d))["securityContext"].update(runAsUser=0),
        "runs as root",
    ),
    "host network": (lambda d: _head(d)["template"]["spec"].update(hostNetwork=True), "hostNetwork"),
    "host path": (
        lambda d: _head(d)["template"]["spec"]["volumes"].append({"name": "h", "hostPath": {"path": "/"}}),
        "path of its host",
    ),
    "writable image": (
        lambda d: _container(ray_cluster_of(d))["securityContext"].update(readOnlyRootFilesystem=False),
        "write to its image",
    ),
    "no limits": (lambda d: _container(ray_cluster_of(d))["resources"].pop("limits"), "no limits"),
    "autoscaler without limits": (
        lambda d: ray_cluster_of(d)["spec"]["autoscalerOptions"].pop("resources"),
        "autoscaler has no limits",
    ),
    "endless volume": (
        lambda d: _head(d)["template"]["spec"]["volumes"][0]["emptyDir"].clear(),
        "size limit",
    ),
    "load balancer": (lambda d: _head(d).update(serviceType="LoadBalancer"), "dashboard outside"),
    "ingress": (lambda d: _head(d).update(enableIngress=True), "dashboard outside"),
    "redis outside": (lambda d: _first(d, "Service")["spec"].update(type="NodePort"), "open to the outside"),
    "no token": (lambda d: ray_cluster_of(d)["spec"].pop("authOptions"), "asks for no token"),
    "token off": (
        lambda d: ray_cluster_of(d)["spec"]["authOptions"].update(mode="disabled"),
        "asks for no token",
    ),
    "secret in the open": (
        lambda d: _container(ray_cluster_of(d))["env"].append(
            {"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}
        ),
        "in the open",
    ),
    "a secret": (
        lambda d: d.append({"kind": "Secret", "metadata": {"name": "x", "namespace": "y"}}),
        "secret in a file",
    ),
    "no bounds": (lambda d: _train(d).pop("maxReplicas"), "no limits for the autoscaler"),
    "upside down bounds": (
        lambda d: _train(d).update(minReplicas=5, maxReplicas=2),
        "no limits for the autoscaler",
    ),
    "Kubernetes' default grace": (
        lambda d: _train(d)["template"]["spec"].pop("terminationGracePeriodSeconds"),
        "no grace period",
    ),
    "Ray's default drain": (
        lambda d: _container(ray_cluster_of(d), 1)["env"].pop(),
        "leaves 30 s for a checkpoint",
    ),
    "killed while draining": (
        lambda d: _train(d)["template"]["spec"].update(terminationGracePeriodSeconds=95),
        "killed after 95 s",
    ),
    "no preStop": (
        lambda d: _head(d)["template"]["spec"]["containers"][0].pop("lifecycle"),
        "headgroup leaves 0 s",
    ),
    "no probe": (lambda d: _container(ray_cluster_of(d)).pop("livenessProbe"), "no livenessProbe"),
    "no network policy": (lambda d: d.remove(_first(d, "NetworkPolicy")), "is not refused"),
    "open network policy": (
        lambda d: d.append(
            {
                "kind": "NetworkPolicy",
                "metadata": {"namespace": "x"},
                "spec": {"podSelector": {}, "ingress": [{}]},
            }
        ),
        "lets anybody in",
    ),
    "budget by maxUnavailable": (
        lambda d: _first(d, "PodDisruptionBudget")["spec"].pop("minAvailable"),
        "would not be kept",
    ),
    "no budget for the head": (
        lambda d: d.remove(_named(d, "PodDisruptionBudget", "syn2co-head")),
        "none is about head",
    ),
    "no budget for Redis": (
        lambda d: d.remove(_named(d, "PodDisruptionBudget", "syn2co-redis")),
        "none is about syn2co-redis",
    ),
    "budget of other pods": (
        lambda d: _named(d, "PodDisruptionBudget", "syn2co-head")["spec"]["selector"]["matchLabels"].update(
            {"ray.io/node-type": "worker"}
        ),
        "none is about head",
    ),
    "head without Redis": (
        lambda d: ray_cluster_of(d)["spec"].pop("gcsFaultToleranceOptions"),
        "loses its state",
    ),
    "no role on AWS": (
        lambda d: _named(d, "ServiceAccount", "syn2co-worker")["metadata"].pop("annotations"),
        "train-spot has no role",
    ),
    "password among a command's words": (
        lambda d: _redis(d)["args"].append("$(REDIS_PASSWORD)"),
        "redis has REDIS_PASSWORD on a command line",
    ),
    "password among a shell's words": (
        lambda d: _redis(d).update(args=["sh", "-c", 'redis-server --requirepass "$REDIS_PASSWORD"']),
        "redis has REDIS_PASSWORD on a command line",
    ),
    "password in a probe": (
        lambda d: _redis(d)["readinessProbe"]["exec"]["command"].extend(["-a", "${REDISCLI_AUTH}"]),
        "redis has REDISCLI_AUTH on a command line",
    ),
    "password of ray start": (
        lambda d: _head(d)["rayStartParams"].update({"redis-password": "$REDIS_PASSWORD"}),
        "RayCluster: has REDIS_PASSWORD on a command line",
    ),
    "a larger group than drivers are told": (
        lambda d: _train(d).update(maxReplicas=5),
        "other limits of train than it has",
    ),
    "other machines than drivers are told": (
        lambda d: _container(ray_cluster_of(d))["resources"]["limits"].update(cpu="30"),
        "other limits of augment than it has",
    ),
    "drivers that are told nothing": (
        lambda d: _head(d)["template"]["spec"]["containers"][0]["env"].pop(0),
        "other limits of augment than it has",
    ),
    "a group that is gone": (
        lambda d: _groups(ray_cluster_of(d)).pop(),
        "of a group generate that it lacks",
    ),
    "whatever image": (lambda d: _container(ray_cluster_of(d)).update(image="syn2co:latest"), "whatever"),
}


@pytest.mark.parametrize("name", RULE_BREAKS)
def test_broken_house_rule_is_seen(name):
    change, words = RULE_BREAKS[name]
    documents = rendered("overlays/eks")
    change(documents)
    assert any(words in fault for fault in broken(documents))


def test_checkpoint_of_the_largest_recipe_fits_into_the_grace_period():
    assert 40 < CHECKPOINT_S < 90
