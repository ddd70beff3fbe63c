from __future__ import annotations

import os
import socket
from dataclasses import replace
from importlib.metadata import PackageNotFoundError

import pytest

from syn2co_ray.spec.errors import ClusterError
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import list_files, open_store
from syn2co_ray.submit import doctor_cluster, doctor_machine
from syn2co_ray.submit.doctor import Finding, examine, exit_code, skew_finding
from syn2co_ray.submit.doctor_cluster import cluster_findings, head_port_findings
from syn2co_ray.submit.doctor_machine import (
    gloo_finding,
    gpu_findings,
    libraries_finding,
    name_finding,
    port_findings,
    shared_memory_finding,
)
from syn2co_ray.submit.doctor_store import store_findings
from syn2co_ray.submit.local_node import free_port

from ..cluster.test_policies import POLICY, act_as, governed
from .job_server import JobServer, serving


def test_a_store_that_does_all_is_measured_and_left_clean(place):
    found = list(store_findings(place, probe_bytes=300_000))
    assert exit_code(found) == 0
    assert "0 MB in" in found[0].seen
    assert "MB/s" in found[0].seen
    assert [finding.what for finding in found[1:]] == ["list", "clock of the store", "read", "delete"]
    assert list_files(open_store(place, ObjectStoreSpec()), missing_ok=True) == []


@pytest.mark.object_store
def test_a_wrong_key_is_a_fault_of_the_store(s3_environment, monkeypatch):
    bucket = s3_environment.make_bucket("doctor")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    found = list(examine(None, bucket))
    assert exit_code(found) == 3
    assert found[-1].remedy


@pytest.mark.object_store
@pytest.mark.parametrize(
    ("action", "faults", "remedy"),
    [
        ("s3:PutObject", ["storage"], "check the policy"),
        ("s3:ListBucket", ["list"], "s3:ListBucket"),
        # pyarrow looks for what it deletes.
        ("s3:GetObject", ["read", "delete"], "s3:GetObject"),
        ("s3:DeleteObject", ["delete"], "s3:DeleteObject"),
    ],
)
def test_each_right_that_credentials_lack_is_a_fault(object_store, monkeypatch, action, faults, remedy):
    monkeypatch.setattr(doctor_machine, "machine_findings", lambda: iter(()))
    place = ["arn:aws:s3:::my-runs", "arn:aws:s3:::my-runs/*"]
    # Refused outright: whoever has written an object may read it here whatever he is not allowed.
    refusal = {"Sid": "No", "Effect": "Deny", "Action": [action], "Resource": place}
    with governed(object_store, [*POLICY["Statement"], refusal]) as (_, runs, user):
        act_as(monkeypatch, user)
        found = list(examine(None, f"s3://{runs}/runs"))
    wrong = [finding for finding in found if finding.exit_code]
    assert [finding.what.split()[0] for finding in wrong] == faults
    assert exit_code(found) == 3
    assert remedy in wrong[0].remedy


def test_a_folder_that_cannot_be_made_is_a_fault_of_the_store(tmp_path):
    (tmp_path / "file").write_text("")
    fault = list(examine(None, str(tmp_path / "file" / "runs")))[-1]
    assert fault.exit_code == 3
    assert str(tmp_path / "file") in fault.line


def test_a_head_that_takes_the_token_and_refuses_without_is_well():
    with serving(JobServer(token="right")) as server:
        found = list(cluster_findings(server.dashboard))
        assert found[0].line == f"ok     cluster {server.dashboard.url}: answers and takes the token"
        with pytest.raises(ClusterError, match="asks for a token, and none is given"):
            list(cluster_findings(replace(server.dashboard, token=None)))
    assert exit_code(found) == 0
    assert {"cluster's Ray", "cluster's nodes", "clock of the head"} <= {finding.what for finding in found}


@pytest.mark.parametrize("token", [None, "of-another-cluster"])
def test_a_head_that_answers_without_a_token_is_a_fault_whatever_token_is_shown(token):
    with serving(JobServer()) as server:
        found = list(cluster_findings(replace(server.dashboard, token=token)))
    assert exit_code(found) == 5
    assert found[0].seen == "answers without a token: whoever reaches it can run code there"
    assert "RAY_AUTH_MODE=token" in found[0].remedy


def test_ports_of_a_head_that_are_open_to_others_are_told_and_closed_ones_are_well(monkeypatch):
    shut = free_port()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        monkeypatch.setattr(doctor_cluster, "HEAD_PORTS", {port: "control service", shut: "Ray Client"})
        tunnel = list(head_port_findings(f"http://127.0.0.1:{port}"))
        # This machine by an address that is not loopback's, as others would reach it.
        direct = list(head_port_findings(f"http://0.0.0.0:{port}"))
    assert [finding.seen for finding in tunnel] == [
        "open on loopback",
        "closed from here, and not needed to send jobs",
    ]
    assert not any(finding.remedy for finding in tunnel)
    reached, closed, plain = direct
    assert "firewall, NetworkPolicy" in reached.remedy
    assert closed.remedy == ""
    assert plain.seen == "0.0.0.0 answers without TLS: the token can be read on its way"
    assert f"ssh -L 8265:127.0.0.1:{port} 0.0.0.0" in plain.remedy
    assert exit_code(direct) == 0


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


def test_no_shared_memory_is_told_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor_machine, "SHARED_MEMORY", tmp_path / "none")
    note = shared_memory_finding()
    assert f"mount -t tmpfs tmpfs {tmp_path / 'none'}" in note.remedy
    assert note.exit_code == 0


def test_a_taken_port_is_told_with_what_to_do_and_a_free_one_is_well(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        taken, free = listening.getsockname()[1], free_port()
        monkeypatch.setattr(doctor_machine, "PORTS", {taken: "Ray's head", free: "Ray's dashboard"})
        first, second = port_findings()
    assert (first.what, first.seen) == (f"port {taken} (Ray's head)", "taken")
    assert "ss -ltnp" in first.remedy
    assert (second.what, second.seen, second.remedy) == (f"port {free} (Ray's dashboard)", "free", "")


def test_gpus_that_the_driver_lists_and_torch_cannot_use_are_a_fault(monkeypatch):
    monkeypatch.setattr(doctor_machine, "_gpus_of_the_driver", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: False)
    gpus, nccl = gpu_findings()
    assert (gpus.seen, gpus.exit_code) == ("the driver lists 2, torch can use 0", 5)
    assert "install a torch built for CUDA" in gpus.remedy
    assert nccl.line == "ok     NCCL: not in this torch, and not needed without GPUs"


def test_gpus_are_named_and_a_torch_without_nccl_is_a_fault_beside_them(monkeypatch):
    monkeypatch.setattr(doctor_machine, "_gpus_of_the_driver", lambda: 1)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda number: f"GPU {number}")
    monkeypatch.setattr("torch.cuda.nccl.version", lambda: (2, 27, 3))
    monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: True)
    assert [finding.line for finding in gpu_findings()] == ["ok     GPUs: 1: GPU 0", "ok     NCCL: 2.27.3"]
    monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: False)
    _, nccl = gpu_findings()
    assert (nccl.exit_code, nccl.remedy) == (5, "install a torch build with NCCL")


def test_a_machine_without_gpus_trains_on_cpus(monkeypatch):
    monkeypatch.setattr(doctor_machine, "_gpus_of_the_driver", lambda: 0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    gpus, _ = gpu_findings()
    assert gpus.line == "ok     GPUs: none; workers train on CPUs (gpus_each: 0)"


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
