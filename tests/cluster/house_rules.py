"""What we hold manifests to beyond what Kubernetes accepts: who runs as what, who can reach it, how it ends."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from syn2co_ray.submit.autoscaler import GROUPS, limits_of
from syn2co_ray.train.elasticity import LOOK_EVERY_S

from .manifests import NODE_TYPE, Document, Pod, pods, ray_clusters

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

EKS_ROLE = "eks.amazonaws.com/role-arn"
"""The annotation of a service account by which EKS gives its pods an IAM role."""

_SECRET_NAME = re.compile(r"TOKEN|PASSWORD|SECRET|ACCESS_KEY|CREDENTIAL|AUTH$", re.IGNORECASE)
_VARIABLE = re.compile(r"\$[({]?(\w+)")
_HERE_DOCUMENT = re.compile(r"<<(\w+)\n.*?^\1$", re.DOTALL | re.MULTILINE)


def broken(documents: list[Document], *, on_a_laptop: bool = False) -> list[str]:
    """Every rule that the documents of one rendering break, as `object: fault`.

    Args:
        documents: what is applied together.
        on_a_laptop: the head's state may die with it.
    """
    found = [f"{pod.name}: {fault}" for pod in pods(documents) for fault in _of_pod(pod)]
    for spec in ray_clusters(documents):
        found += [f"RayCluster: {fault}" for fault in _of_ray_cluster(spec)]
        if not on_a_laptop and "redisAddress" not in spec.get("gcsFaultToleranceOptions", {}):
            found.append("RayCluster: loses its state with its head")
    for document in documents:
        found += [f"{document['kind']}: {fault}" for fault in _of_object(document)]
    return [*found, *_of_network(documents), *_of_budgets(documents), *_of_roles(documents)]


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
    for words in _commands(container):
        for name in _secrets_among(words):
            yield f"has {name} on a command line"


def _commands(container: Document) -> Iterator[list[str]]:
    """The words of everything that is run in a container: its own command, probes, hooks."""
    yield [*container.get("command", ()), *container.get("args", ())]
    hooks = container.get("lifecycle", {})
    for place in [container.get(f"{kind}Probe", {}) for kind in ("startup", "liveness", "readiness")] + [
        hooks.get(kind, {}) for kind in ("postStart", "preStop")
    ]:
        yield place.get("exec", {}).get("command", [])


def _secrets_among(words: list[str]) -> list[str]:
    """Variables with secrets that Kubernetes or a shell puts among a command's words; its input is none of these."""
    command = _HERE_DOCUMENT.sub("", "\n".join(words))
    return [name for name in _VARIABLE.findall(command) if _SECRET_NAME.search(name)]


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
    for group in (head, *spec["workerGroupSpecs"]):
        for name in _secrets_among(list(group.get("rayStartParams", {}).values())):
            yield f"has {name} on a command line"
    yield from _of_ending(head["template"], "headgroup", drains=False)
    for group in spec["workerGroupSpecs"]:
        lowest, highest = group.get("minReplicas"), group.get("maxReplicas")
        if lowest is None or highest is None or not 0 <= lowest <= highest <= 64:
            yield f"group {group['groupName']} has no limits for the autoscaler"
        elif _told_of(group["groupName"], head) != _read_by_ray(group):
            yield f"tells its drivers other limits of {group['groupName']} than it has"
        yield from _of_ending(group["template"], group["groupName"], drains=True)
    names = {group["groupName"] for group in spec["workerGroupSpecs"]}
    for name in sorted(_told(head).keys() - names):
        yield f"tells its drivers of a group {name} that it lacks"


def _told(head: Document) -> Document:
    """The groups that drivers on the head are told of, for what the autoscaler may add."""
    variables = head["template"]["spec"]["containers"][0].get("env", ())
    told = [variable["value"] for variable in variables if variable["name"] == GROUPS]
    return json.loads(told[0]) if told else {}


def _told_of(name: str, head: Document) -> dict[str, Any] | None:
    return limits_of({"available_node_types": {name: _told(head).get(name, {})}})


def _read_by_ray(group: Document) -> dict[str, Any] | None:
    """The limits that Ray's own autoscaler reads from a group of a RayCluster; of resources, what syn2co counts."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _node_type_from_group_spec

    kind = _node_type_from_group_spec(group, is_head=False)
    kind["resources"] = {name: amount for name, amount in kind["resources"].items() if name in ("CPU", "GPU")}
    return limits_of({"available_node_types": {group["groupName"]: kind}})


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


def _of_budgets(documents: list[Document]) -> Iterator[str]:
    """What a run cannot do without is not evicted when a node is drained: its head, and what keeps the head's state."""
    selectors = [d["spec"]["selector"] for d in documents if d["kind"] == "PodDisruptionBudget"]
    kept = {d["metadata"]["name"] for d in documents if d["kind"] == "StatefulSet"}
    for pod in pods(documents):
        needed = pod.labels.get(NODE_TYPE) == "head" or pod.name in kept
        if needed and not any(_selects(selector, pod) for selector in selectors):
            yield f"PodDisruptionBudget: none is about {pod.name}"


def _of_roles(documents: list[Document]) -> Iterator[str]:
    """Pods that go to machines of EKS reach buckets by the role of their service account."""
    roles = {
        d["metadata"]["name"]: d["metadata"].get("annotations", {}).get(EKS_ROLE)
        for d in documents
        if d["kind"] == "ServiceAccount"
    }
    for pod in pods(documents):
        on_eks = any(key.startswith("eks.amazonaws.com/") for key in pod.spec.get("nodeSelector", {}))
        if on_eks and not roles.get(pod.spec.get("serviceAccountName")):
            yield f"ServiceAccount: {pod.name} has no role on AWS"


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
