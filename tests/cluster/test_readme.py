"""The README of `cluster/`: what it names is there, and its figures are those of the manifests."""

from __future__ import annotations

import re

import pytest

from .house_rules import CHECKPOINT_BYTES, CHECKPOINT_S, STEP_S, UPLOAD_BYTES_PER_S
from .manifests import CLUSTER, KUBERAY, PLATFORMS, pods, rendered

README = (CLUSTER / "README.md").read_text()


def test_every_path_that_it_names_is_there():
    names = re.findall(r"`((?:kuberay|ray_up|image|policies|skypilot)[\w./<>-]*)`", README)
    assert len(names) >= 10
    for name in names:
        platforms = PLATFORMS if "<platform>" in name else ("",)
        assert all((CLUSTER / name.replace("<platform>", platform)).exists() for platform in platforms), name


def test_every_component_and_platform_is_named():
    components = {folder.name for folder in (KUBERAY / "components").iterdir()}
    assert all(f"`{name}`" in README for name in components | set(PLATFORMS))


@pytest.mark.parametrize("folder", ["overlays/eks", "overlays/gke"])
def test_its_seconds_are_those_of_the_manifests(folder):
    workers = [
        pod for pod in pods(rendered(folder)) if pod.name in ("augment", "train", "train-spot", "generate")
    ]
    graces = {pod.spec["terminationGracePeriodSeconds"] for pod in workers}
    drains = {
        variable["value"]
        for pod in workers
        for variable in pod.spec["containers"][0]["env"]
        if variable["name"] == "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
    }
    assert f"{drains.pop()} s announced, {graces.pop()} s until SIGKILL" in README
    assert not drains
    assert not graces


def test_its_estimate_of_a_checkpoint_is_the_one_that_the_rules_use():
    words = " ".join(README.split())
    assert f"is {CHECKPOINT_BYTES / 1e9:g} GB; at {UPLOAD_BYTES_PER_S / 1e6:g} MB/s to the store" in words
    assert f"it takes {CHECKPOINT_S:g} s from the news, a slow step of {STEP_S:g} s included" in words
