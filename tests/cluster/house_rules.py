"""What we hold manifests to beyond what Kubernetes accepts: who runs as what, who can reach it, how it ends."""

from __future__ import annotations

import re
from collections.abc import Iterator

from syn2co_ray.train.elasticity import LOOK_EVERY_S

from .manifests import Document, Pod, pods, ray_clusters

STEP_S = 15.0
"""A slow optimizer step: a run looks at what it is asked between steps."""
CHECKPOINT_BYTES = 1.5e9
"""ViT-B with two encoders and two moments for each trained weight, float32: 4 x 86 million x 4 bytes, and heads."""
UPLOAD_BYTES_PER_S = 50e6
"""To an object store on a busy day."""
CHECKPOINT_S = LOOK_EVERY_S + STEP_S + CHECKPOINT_BYTES / UPLOAD_BYTES_PER_S
"""From the news that a node will go to a whole checkpoint in the store."""
TEARDOWN_S = 15.0
"""What Ray's processes take to end after that."""
SPOT_NOTICE_S = 120.0
"""How long before its end an AWS spot instance is told."""

_SECRET_NAME = re.compile(r"TOKEN|PASSWORD|SECRET|ACCESS_KEY|CREDENTIAL|AUTH$", re.IGNORECASE)


def broken(documents: list[Document]) -> list[str]:
    """Every rule that the documents of one rendering break, as `object: fault`."""
    found = [f"{pod.name}: {fault}" for pod in pods(documents) for fault in _of_pod(pod)]
    for spec in ray_clusters(documents):
        found += [f"RayCluster: {fault}" for fault in _of_ray_cluster(spec)]
    for document in documents:
        found += [f"{document['kind']}: {fault}" for fault in _of_object(document)]
    return found + list(_of_network(documents))


def _of_pod(pod: Pod) -> Iterator[str]:
    spec = pod.spec
    security = spec.get("securityContext", {})
    if security.get("runAsNonRoot") is not True or not security.get("runAsUser"):
        yield "may run as root"
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "has no seccomp profile"
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield f"asks for {key}"
    if any("hostPath" in volume for volume in spec.get("volumes", ())):
        yield "mounts a path of its host"
    if any("emptyDir" in v and "sizeLimit" not in v["emptyDir"] for v in spec.get("volumes", ())):
        yield "has a volume without a size limit"
    if spec.get("automountServiceAccountToken") is not False:
        yield "mounts a token of Kubernetes' API"
    if "terminationGracePeriodSeconds" not in spec:
        yield "has no grace period"
    for container in pod.containers:
        yield from (f"{container['name']} {fault}" for fault in _of_container(container))


def _of_container(container: Document) -> Iterator[str]:
    security = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False or security.get("privileged"):
        yield "may gain privileges"
    if security.get("readOnlyRootFilesystem") is not True:
        yield "may write to its image"
    if security.get("capabilities", {}).get("drop") != ["ALL"]:
        yield "keeps capabilities"
    if security.get("runAsUser") == 0 or security.get("runAsNonRoot") is False:
        yield "runs as root"
    for kind in ("limits", "requests"):
        if not {"cpu", "memory"} <= container.get("resources", {}).get(kind, {}).keys():
            yield f"has no {kind} of CPU and memory"
    if any("hostPort" in port for port in container.get("ports", ())):
        yield "takes a port of its host"
    for variable in container.get("env", ()):
        if _SECRET_NAME.search(variable["name"]) and "value" in variable:
            yield f"holds {variable['name']} in the open"
    if container.get("image", "x:1").endswith(":latest") or ":" not in container.get("image", "x:1"):
        yield f"runs whatever {container['image']} is that day"


def _of_ray_cluster(spec: Document) -> Iterator[str]:
    if spec.get("authOptions", {}).get("mode") != "token":
        yield "asks for no token"
    options = spec.get("autoscalerOptions", {})
    if not spec.get("enableInTreeAutoscaling") or options.get("version") != "v2":
        yield "has no autoscaler v2"
    head = spec["headGroupSpec"]
    if head.get("enableIngress") or head.get("serviceType", "ClusterIP") != "ClusterIP":
        yield "shows its dashboard outside"
    if head.get("rayStartParams", {}).get("num-cpus") != "0":
        yield "runs tasks on its head"
    if "password" in str(spec.get("gcsFaultToleranceOptions", {}).get("redisPassword", {}).get("value", "")):
        yield "holds Redis's password in the open"
    yield from _of_ending(head["template"], "headgroup", drains=False)
    for group in spec["workerGroupSpecs"]:
        lowest, highest = group.get("minReplicas"), group.get("maxReplicas")
        if lowest is None or highest is None or not 0 <= lowest <= highest <= 64:
            yield f"group {group['groupName']} has no limits for the autoscaler"
        yield from _of_ending(group["template"], group["groupName"], drains=True)


def _of_ending(template: Document, name: str, *, drains: bool) -> Iterator[str]:
    """Time for a checkpoint, between the news and SIGKILL."""
    pod = template["spec"]
    container = pod["containers"][0]
    environment = {variable["name"]: variable.get("value") for variable in container.get("env", ())}
    grace_s = pod.get("terminationGracePeriodSeconds", 30)
    if drains:
        announced_s = float(environment.get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S") or 30)
    else:
        hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["", "0"])
        announced_s = min(float(hook[1]), float(environment.get("RAY_JOB_STOP_WAIT_TIME_S") or 3))
    if announced_s < CHECKPOINT_S:
        yield f"{name} leaves {announced_s:g} s for a checkpoint, which takes {CHECKPOINT_S:g} s"
    if grace_s < announced_s + TEARDOWN_S:
        yield f"{name} is killed after {grace_s} s, before the {announced_s:g} s that Ray announces are over"
    if grace_s > SPOT_NOTICE_S:
        yield f"{name} would outlive the notice of a spot instance"
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        if probe not in container:
            yield f"{name} has no {probe}"
    if not any(volume.get("emptyDir", {}).get("medium") == "Memory" for volume in pod.get("volumes", ())):
        yield f"{name} has no shared memory of its own size"


def _of_object(document: Document) -> Iterator[str]:
    if document["kind"] == "Service" and document["spec"].get("type", "ClusterIP") != "ClusterIP":
        yield "is open to the outside"
    if document["kind"] in ("Ingress", "HTTPRoute", "Gateway", "Route"):
        yield "opens a way in"
    if document["kind"] == "Secret":
        yield "is a secret in a file"
    if document["kind"] == "PodDisruptionBudget" and "minAvailable" not in document["spec"]:
        # The eviction API knows maxUnavailable only for owners with a scale; a RayCluster has none.
        yield "would not be kept for pods of a RayCluster"
    if document["kind"] != "Namespace" and "namespace" not in document["metadata"]:
        yield f"{document['metadata']['name']} goes into whatever namespace is set"


def _of_network(documents: list[Document]) -> Iterator[str]:
    policies = [document["spec"] for document in documents if document["kind"] == "NetworkPolicy"]
    if not any(p["podSelector"] == {} and not p.get("ingress") and not p.get("egress") for p in policies):
        yield "NetworkPolicy: what is not allowed is not refused"
    for policy in policies:
        if any(not rule.get("from") for rule in policy.get("ingress", ())):
            yield "NetworkPolicy: lets anybody in"
        for rule in policy.get("egress", ()):
            everywhere = any(to.get("ipBlock", {}).get("cidr") == "0.0.0.0/0" for to in rule.get("to", [{}]))
            ports = {port.get("port") for port in rule.get("ports", ())}
            if not rule.get("to") or (everywhere and not ports):
                yield "NetworkPolicy: lets pods out to anywhere"
    for pod in pods(documents):
        if not any(_selects(policy["podSelector"], pod) and policy["podSelector"] for policy in policies):
            yield f"NetworkPolicy: none is about {pod.name}"


def _selects(selector: Document, pod: Pod) -> bool:
    return selector.get("matchLabels", {}).items() <= pod.labels.items()
