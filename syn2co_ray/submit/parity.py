"""Versions that must be the same where a job is submitted and where it runs, or on all nodes that run it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from packaging.requirements import Requirement

from ..spec.errors import ClusterError, Fault
from .probe import PACKAGE

FIXES = {
    "python": "submit from a Python {there}, or use an image of the cluster with Python {here}",
    "ray": "pip install 'ray=={there}' where you submit from, or use an image of the cluster with Ray {here}",
    "torch": "install torch {there} here or {here} there, or submit with --pip, which installs it there",
    PACKAGE: "submit with --working-tree, which sends the code from here, or install the same on the cluster",
}
MISSING = {
    "ray": "its `python` is the first of the PATH of the head's process: start the head from an environment "
    "that is activated and has Ray",
    "torch": "install torch {here} on the cluster, or submit with --pip",
    PACKAGE: "submit with --working-tree (the code from here) and, where its libraries are missing, "
    "--pip; or build the cluster's image with this package",
}
OTHER_LIBRARIES = "install the missing library on the cluster, or submit with --pip"
ONE_ENVIRONMENT = "give all nodes the same environment (one image), or submit with --pip"
ONE_IMAGE = "give the head and all groups of workers the same image"
COMPARED_APART = frozenset({"ray", "torch"})
"""Libraries that must be the same here as well; of the others any version that this package takes will do."""


def same(name: str, here: str | None, there: str | None) -> bool:
    """Whether two versions may work together: Python's minor versions, torch's whatever its build."""
    if here is None or there is None:
        return here == there
    if name == "python":
        return here.split(".")[:2] == there.split(".")[:2]
    return here.partition("+")[0] == there.partition("+")[0] if name == "torch" else here == there


def check_parity(
    here: Mapping[str, str | None],
    nodes: Sequence[Mapping[str, Any]],
    libraries: Sequence[Requirement] = (),
) -> None:
    """Refuse a cluster with other versions.

    Args:
        here: of this process, as `probe.versions_here` gives them.
        nodes: the same of the cluster's nodes, the head first, each with its name as `node`, its `image`, and
            the versions of the `libraries`.
        libraries: what each node must have, all of them in the same version.

    Raises:
        ClusterError: with every difference and how to end it.
    """
    faults: dict[str, Fault] = {}
    for node in nodes:
        found = (*_version_faults(here, node), *_library_faults(libraries, nodes[0], node))
        for fault in (*found, *_image_faults(nodes[0], node)):
            faults.setdefault(fault.where, fault)
    if faults:
        differences = "\n  ".join(fault.render() for fault in faults.values())
        raise ClusterError("versions", f"the cluster differs\n  {differences}")


def _version_faults(here: Mapping[str, str | None], node: Mapping[str, Any]) -> Iterator[Fault]:
    for name, fix in FIXES.items():
        mine, theirs = here.get(name), node.get(name)
        if not same(name, mine, theirs):
            words = MISSING.get(name, fix) if theirs is None else fix
            got = f"{theirs or 'missing'} on {node['node']}"
            yield Fault(name, got, f"{mine or 'none'}, as here", words.format(here=mine, there=theirs))


def _library_faults(
    libraries: Sequence[Requirement], head: Mapping[str, Any], node: Mapping[str, Any]
) -> Iterator[Fault]:
    for wanted in libraries:
        if wanted.name in COMPARED_APART:
            continue
        theirs, of_head = node["libraries"][wanted.name], head["libraries"][wanted.name]
        got = f"{theirs or 'missing'} on {node['node']}"
        if theirs is None or not wanted.specifier.contains(theirs, prereleases=True):
            step = f"pip install '{wanted.name}{wanted.specifier}' there, or submit with --pip"
            yield Fault(wanted.name, got, str(wanted.specifier), step)
        elif of_head is None or theirs.partition("+")[0] != of_head.partition("+")[0]:
            yield Fault(wanted.name, got, f"{of_head}, as on {head['node']}", ONE_ENVIRONMENT)


def _image_faults(head: Mapping[str, Any], node: Mapping[str, Any]) -> Iterator[Fault]:
    theirs, of_head = (each.get("image") or "none of ours" for each in (node, head))
    if theirs != of_head:
        got, allowed = f"{theirs} on {node['node']}", f"{of_head}, as on {head['node']}"
        yield Fault("image", got, allowed, ONE_IMAGE)
