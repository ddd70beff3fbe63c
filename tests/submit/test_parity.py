from __future__ import annotations

from typing import Any

import pytest
from packaging.requirements import Requirement

from syn2co_ray.spec.errors import ClusterError
from syn2co_ray.submit.parity import check_parity, same
from syn2co_ray.submit.probe import PACKAGE, versions_here

HERE = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.15.0+cpu", PACKAGE: "code 0123456789ab"}


def test_versions_here_are_known():
    versions = versions_here()
    assert all(versions.values())
    assert versions[PACKAGE].startswith("code ")


@pytest.mark.parametrize(
    ("name", "here", "there", "alike"),
    [
        ("python", "3.11.7", "3.11.2", True),
        ("python", "3.11.7", "3.12.7", False),
        ("torch", "2.15.0+cpu", "2.15.0+cu128", True),
        ("torch", "2.15.0", "2.14.0", False),
        ("ray", "2.60.0", "2.60.1", False),
        ("ray", "2.60.0", None, False),
    ],
)
def test_python_may_differ_in_its_last_number_and_torch_in_its_build(name, here, there, alike):
    assert same(name, here, there) is alike


def test_equal_clusters_are_accepted():
    check_parity(HERE, [{**HERE, "torch": "2.15.0+cu128", "node": "head"}, {**HERE, "node": "gpu-1"}])


def test_every_difference_is_told_once_with_its_fix():
    head = {**HERE, "node": "the head", "python": "3.12.1"}
    other = {**head, "node": "gpu-1", "torch": None, PACKAGE: "code ba9876543210"}
    with pytest.raises(ClusterError) as caught:
        check_parity(HERE, [head, other])
    told = str(caught.value)
    assert (
        told.count("python: 3.12.1 on the head; allowed: 3.11.7, as here; next: submit from a Python 3.12.1")
        == 1
    )
    assert "or use an image of the cluster with Python 3.11.7" in told
    assert "torch: missing on gpu-1; allowed: 2.15.0+cpu, as here; next: install torch 2.15.0+cpu on" in told
    assert (
        "ba9876543210 on gpu-1; allowed: code 0123456789ab, as here; next: submit with --working-tree" in told
    )
    assert "\n  ray:" not in told
    assert caught.value.exit_code == 5


LIBRARIES = [
    Requirement(line) for line in ("torch>=2.11", "timm>=1.0.15", "pyarrow>=19", "torchvision>=0.26")
]


def described(name: str, image: str | None = None, **versions: str | None) -> dict[str, Any]:
    """A node that has everything, but for these versions."""
    there = {"torch": "2.15.0", "timm": "1.0.20", "pyarrow": "26.0.0", "torchvision": "0.30.0+cpu"}
    return {**HERE, "node": name, "image": image, "libraries": {**there, **versions}}


def refused(*nodes: dict[str, Any]) -> list[str]:
    """Lines of the differences."""
    with pytest.raises(ClusterError) as caught:
        check_parity(HERE, nodes, LIBRARIES)
    first, *lines = str(caught.value).splitlines()
    assert first == "versions: the cluster differs"
    return [line.strip() for line in lines]


def test_libraries_may_be_others_than_here_and_builds_may_differ_between_nodes():
    cpu, gpu = (
        described("cpu-1", pyarrow="19.0.1"),
        described("gpu-1", pyarrow="19.0.1", torchvision="0.30.0+cu128"),
    )
    check_parity(HERE, [described("the head", pyarrow="19.0.1"), cpu, gpu], LIBRARIES)


def test_a_node_without_a_library_is_refused_and_so_is_one_that_is_too_old_for_it():
    lines = refused(
        described("the head"), described("gpu-1", timm=None), described("gpu-2", timm=None, pyarrow="18.1")
    )
    assert lines == [
        "timm: missing on gpu-1; allowed: >=1.0.15; next: pip install 'timm>=1.0.15' there, or submit with --pip",
        "pyarrow: 18.1 on gpu-2; allowed: >=19; next: pip install 'pyarrow>=19' there, or submit with --pip",
    ]


def test_nodes_with_different_versions_of_a_library_are_refused():
    (line,) = refused(described("the head"), described("gpu-1", pyarrow="25.0.0"))
    assert line.startswith(
        "pyarrow: 25.0.0 on gpu-1; allowed: 26.0.0, as on the head; next: give all nodes the same"
    )


@pytest.mark.parametrize("other", ["registry/syn2co:2", None])
def test_nodes_in_different_images_are_refused(other):
    (line,) = refused(described("the head", "registry/syn2co:1"), described("gpu-1", other))
    assert line.startswith(
        f"image: {other or 'none of ours'} on gpu-1; allowed: registry/syn2co:1, as on the head; next:"
    )
    check_parity(HERE, [described("the head", other), described("gpu-1", other)], LIBRARIES)
