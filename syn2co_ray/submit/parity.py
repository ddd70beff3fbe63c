"""Versions that must be the same where a job is submitted and where it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..spec.errors import ClusterError
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


def same(name: str, here: str | None, there: str | None) -> bool:
    """Whether two versions may work together: Python's minor versions, torch's whatever its build."""
    if here is None or there is None:
        return here == there
    if name == "python":
        return here.split(".")[:2] == there.split(".")[:2]
    return here.partition("+")[0] == there.partition("+")[0] if name == "torch" else here == there


def check_parity(here: Mapping[str, str | None], nodes: Sequence[Mapping[str, str | None]]) -> None:
    """Refuse a cluster with other versions.

    Args:
        here: of this process, as `probe.versions_here` gives them.
        nodes: the same of the cluster's nodes, each with its name as `node`.

    Raises:
        ClusterError: with every difference and how to end it.
    """
    found: dict[str, str] = {}
    for node in nodes:
        for name in FIXES:
            mine, theirs = here.get(name), node.get(name)
            if name not in found and not same(name, mine, theirs):
                words = MISSING.get(name, FIXES[name]) if theirs is None else FIXES[name]
                found[name] = (
                    f"{name}: {theirs or 'missing'} on {node['node']}, {mine or 'missing'} here: "
                    + words.format(here=mine, there=theirs)
                )
    if found:
        differences = "\n  ".join(found.values())
        raise ClusterError("versions", f"the cluster differs\n  {differences}", "the same on both sides")
