from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError

import pytest

from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import list_files, open_store
from syn2co_ray.submit import doctor_machine
from syn2co_ray.submit.doctor import Finding, examine, exit_code, skew_finding
from syn2co_ray.submit.doctor_machine import (
    gloo_finding,
    libraries_finding,
    name_finding,
    shared_memory_finding,
)
from syn2co_ray.submit.doctor_store import store_findings
from syn2co_ray.submit.local_node import free_port


def test_a_store_that_does_all_is_measured_and_left_clean(place):
    found = list(store_findings(place, probe_bytes=300_000))
    assert exit_code(found) == 0
    assert "0 MB in" in found[0].seen
    assert "MB/s" in found[0].seen
    assert [finding.what for finding in found[1:]] == ["list", "clock of the store", "read", "delete"]
    assert list_files(open_store(place, ObjectStoreSpec()), missing_ok=True) == []


@pytest.mark.object_store
def test_credentials_that_may_only_read_are_a_fault_of_the_store(s3_environment, monkeypatch):
    bucket = s3_environment.make_bucket("doctor")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    found = list(examine(None, bucket))
    assert exit_code(found) == 3
    assert found[-1].remedy


def test_a_folder_that_cannot_be_made_is_a_fault_of_the_store(tmp_path):
    (tmp_path / "file").write_text("")
    fault = list(examine(None, str(tmp_path / "file" / "runs")))[-1]
    assert fault.exit_code == 3
    assert str(tmp_path / "file") in fault.line


def test_a_head_that_does_not_answer_is_a_fault_with_what_to_do():
    fault = list(examine(f"http://127.0.0.1:{free_port()}", None))[-1]
    assert fault.exit_code == 5
    assert fault.line.startswith("FAULT  cluster http://127.0.0.1:")
    assert "next: start one with" in fault.line


@pytest.mark.parametrize(("ahead_s", "code"), [(5, 0), (-59, 0), (61, 3), (-3600, 3)])
def test_clocks_that_are_off_by_more_than_a_minute_are_a_fault(ahead_s, code):
    assert skew_finding("clock", ahead_s, 3).exit_code == code


def test_a_library_that_is_missing_or_too_old_is_named(monkeypatch):
    assert libraries_finding().exit_code == 0
    versions = {"timm": "0.9.2"}

    def installed(name: str) -> str:
        if name == "pyarrow":
            raise PackageNotFoundError(name)
        return versions.get(name, "99999")

    monkeypatch.setattr(doctor_machine, "version", installed)
    fault = libraries_finding()
    assert fault.exit_code == 5
    assert "pyarrow is missing" in fault.seen
    assert "timm 0.9.2, needed >=1.0.15" in fault.seen


def test_too_little_shared_memory_is_a_fault(monkeypatch):
    monkeypatch.setattr(doctor_machine, "SHARED_MEMORY_SHARE", 1000.0)
    assert "--shm-size=" in shared_memory_finding().remedy


def test_a_name_that_others_cannot_dial_is_told():
    assert "GLOO_SOCKET_IFNAME" in name_finding("localhost").remedy
    assert name_finding("no-such-host.invalid").exit_code == 5


def test_gloo_works_here_and_says_so_when_it_has_no_interface(monkeypatch):
    assert gloo_finding().seen == "works"
    if os.uname().sysname == "Linux":
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nothing0")
        assert gloo_finding().exit_code == 5


def test_the_exit_code_is_that_of_the_first_fault():
    well, store, machine = Finding("a", "b"), Finding("a", "b", "c", 3), Finding("a", "b", "c", 5)
    assert exit_code([well, Finding("a", "b", "only worth knowing")]) == 0
    assert exit_code([well, machine, store]) == 5
    assert exit_code([store, machine]) == 3
