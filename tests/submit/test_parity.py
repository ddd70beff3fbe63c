from __future__ import annotations

import pytest

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
    assert told.count("python: 3.12.1 on the head, 3.11.7 here") == 1
    assert "or use an image of the cluster with Python 3.11.7" in told
    assert "torch: missing on gpu-1, 2.15.0+cpu here: install torch 2.15.0+cpu on the cluster" in told
    assert "code ba9876543210 on gpu-1, code 0123456789ab here: submit with --working-tree" in told
    assert "\n  ray:" not in told
    assert caught.value.exit_code == 5
