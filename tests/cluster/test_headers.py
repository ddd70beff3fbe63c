"""Headers of the folders that users apply: what they say can be done, in the order in which it stands there."""

from __future__ import annotations

import re
import subprocess

import pytest

from .manifests import FOLDERS, KUBERAY, Document, rendered

each_folder = pytest.mark.parametrize("folder", FOLDERS)
PARTS = ("up", "submit", "down")
NAMESPACE = "kubectl create namespace syn2co"


def _header(folder: str) -> str:
    return (KUBERAY / folder / "kustomization.yaml").read_text().partition("apiVersion")[0]


def _commands(folder: str) -> dict[str, list[str]]:
    """The commands under `up`, `submit` and `down`, one a line; a job's `up` is that of its overlay."""
    found: dict[str, list[str]] = {part: [] for part in PARTS}
    part = ""
    for line in re.sub(r"\\\n# +", "", _header(folder)).splitlines():
        label, words = re.fullmatch(r"#(?: (\w+):| {10}|.*$) *(.*)", line).groups()
        part = label or part
        if part and re.match(r"kubectl|helm|aws|eksctl|docker|kind|export|syn2co", words):
            found[part].append(words)
    if folder.startswith("jobs/"):
        overlay = folder.replace("jobs/", "overlays/")
        assert f"up:      as {overlay} says, but for its last `kubectl apply`" in _header(folder)
        *before, last = _commands(overlay)["up"]
        assert last.startswith("kubectl apply")
        found["up"] = before
    return found


def _secrets(value: object) -> set[str]:
    """Names of the secrets without which a pod of the documents does not start."""
    if isinstance(value, list):
        return set().union(*map(_secrets, value))
    if not isinstance(value, dict):
        return set()
    own = {
        ref["name"]
        for key in ("secretRef", "secretKeyRef")
        if (ref := value.get(key)) and not ref.get("optional")
    }
    return own.union(*map(_secrets, value.values()))


def _of_kind(folder: str, kind: str) -> list[Document]:
    return [document for document in rendered(folder) if document["kind"] == kind]


@each_folder
def test_header_says_how_to_bring_up_submit_and_take_down(folder):
    header = _header(folder)
    positions = [header.find(f"# {part}:") for part in PARTS]
    assert -1 < positions[0] < positions[1] < positions[2]
    for script in re.findall(r"cluster/[\w./-]+", header):
        assert (KUBERAY.parents[1] / script).exists(), script


@each_folder
def test_every_command_is_bash_and_the_folder_is_applied_and_deleted_once(folder):
    commands = _commands(folder)
    every = [command for part in PARTS for command in commands[part]]
    for command in every:
        subprocess.run(["bash", "-n", "-c", command], check=True, capture_output=True, timeout=20)
    applied = commands["submit" if folder.startswith("jobs/") else "up"]
    assert sum(f"kubectl apply -k cluster/kuberay/{folder}" in command for command in applied) == 1
    assert sum("kubectl apply" in command for command in every) == 1
    assert sum(f"kubectl delete -k cluster/kuberay/{folder}" in command for command in commands["down"]) == 1


@each_folder
def test_the_namespace_is_there_before_anything_is_put_into_it(folder):
    commands = _commands(folder)
    every = [*commands["up"], *commands["submit"]]
    into = [number for number, command in enumerate(every) if "-n syn2co" in command]
    assert every.index(NAMESPACE) < min(into)


@each_folder
def test_secrets_and_the_job_are_there_before_the_pods_that_take_them(folder):
    commands = _commands(folder)
    every = [*commands["up"], *commands["submit"]]
    (applied,) = [number for number, command in enumerate(every) if command.startswith("kubectl apply")]
    made = [
        number for number, command in enumerate(every) if re.search(r"create (secret|configmap)", command)
    ]
    assert all(number < applied for number in made)
    names = {re.search(r"create secret generic (\S+)", every[n]) for n in made} - {None}
    assert _secrets(rendered(folder)) <= {name[1] for name in names}


@each_folder
def test_the_ray_cluster_goes_before_the_redis_that_kuberay_clears_for_it(folder):
    """With the namespace on its way out no pod can start in it, and the RayCluster would wait for one for ever."""
    if not _of_kind(folder, "StatefulSet"):
        assert folder.endswith("/kind")
        return
    first, second = _commands(folder)["down"]
    kind = "rayjob syn2co --cascade=foreground" if folder.startswith("jobs/") else "raycluster syn2co"
    assert re.match(rf"kubectl -n syn2co delete {kind}( |$)", first)
    assert second.startswith("kubectl delete -k")
