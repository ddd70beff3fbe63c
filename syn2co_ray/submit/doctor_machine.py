"""What `syn2co doctor` finds about this machine: libraries, GPUs, collectives, shared memory, ports."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from ..spec.errors import first_line
from .doctor import Finding
from .libraries import needed_libraries
from .local_node import is_free
from .probe import PACKAGE, versions_here

FAULT = 5
SHARED_MEMORY = Path("/dev/shm")
SHARED_MEMORY_SHARE = 0.3
"""Ray's object store takes this part of a node's memory, from shared memory."""
COLLECTIVE_TIMEOUT_S = 20.0
PORTS = {6379: "Ray's head", 8265: "Ray's dashboard"}


def machine_findings() -> Iterator[Finding]:
    """All of this file, the quick ones first."""
    known = ", ".join(f"{name} {value or 'missing'}" for name, value in versions_here().items())
    yield Finding("versions", known)
    yield libraries_finding()
    yield shared_memory_finding()
    yield name_finding(socket.gethostname())
    yield from port_findings()
    yield from gpu_findings()
    yield gloo_finding()


def libraries_finding() -> Finding:
    """Whether what this package needs is installed, in versions that it can work with."""
    try:
        needed = needed_libraries()
    except PackageNotFoundError:
        seen = f"{PACKAGE} runs from a folder: what it needs is not known"
        return Finding("libraries", seen, "pip install -e . in its checkout")
    wrong = []
    for wanted in needed:
        try:
            there = version(wanted.name)
        except PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing")
            continue
        if not wanted.specifier.contains(there, prereleases=True):
            wrong.append(f"{wanted.name} {there}, needed {wanted.specifier}")
    if wrong:
        return Finding("libraries", ", ".join(wrong), f"pip install -U {PACKAGE}", FAULT)
    return Finding("libraries", "all there")


def shared_memory_finding() -> Finding:
    """Whether Ray's object store has room in shared memory; else it falls back to the disk."""
    if not SHARED_MEMORY.is_dir():
        remedy = (
            f"on Linux: mkdir {SHARED_MEMORY} && mount -t tmpfs tmpfs {SHARED_MEMORY}; elsewhere there is "
            "none, and Ray's object store is on the disk"
        )
        return Finding("shared memory", f"no {SHARED_MEMORY} on this system", remedy)
    there = shutil.disk_usage(SHARED_MEMORY).total
    wanted = SHARED_MEMORY_SHARE * psutil.virtual_memory().total
    seen = f"{there / 1e9:.1f} GB of {SHARED_MEMORY}, {wanted / 1e9:.1f} GB for Ray's object store"
    if there >= wanted:
        return Finding("shared memory", seen)
    remedy = f"docker run --shm-size={wanted / 1e9:.0f}g, or on Kubernetes an emptyDir of medium Memory there"
    return Finding("shared memory", seen, remedy, FAULT)


def name_finding(name: str) -> Finding:
    """What other hosts are told to dial: ranks find each other by host name."""
    try:
        address = socket.gethostbyname(name)
    except OSError as error:
        remedy = f"add {name} to /etc/hosts or DNS: ranks find each other by host name"
        return Finding("host name", f"{name} does not resolve ({error})", remedy, FAULT)
    if address.startswith("127."):
        remedy = (
            "well on one machine; for training over several, resolve it to an address that the others reach, "
            "or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the interface"
        )
        return Finding("host name", f"{name} is {address}", remedy)
    return Finding("host name", f"{name} is {address}")


def port_findings() -> Iterator[Finding]:
    """Whether Ray's usual ports are free here; taken ones belong to a Ray that is up, as a rule."""
    for port, owner in PORTS.items():
        what = f"port {port} ({owner})"
        if is_free(port):
            yield Finding(what, "free")
        else:
            remedy = (
                "well if a Ray is up here (`ss -ltnp` says who it is); else give `ray start` another, as "
                "`syn2co cluster up` does"
            )
            yield Finding(what, "taken", remedy)


def gpu_findings() -> Iterator[Finding]:
    """GPUs that the driver lists against those that torch can use, and NCCL."""
    import torch
    import torch.distributed

    listed = _gpus_of_the_driver()
    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = ", ".join(torch.cuda.get_device_name(number) for number in range(usable))
    if usable < listed:
        remedy = (
            f"install a torch built for CUDA (this one: {torch.__version__}), update the driver, or check "
            "CUDA_VISIBLE_DEVICES"
        )
        yield Finding("GPUs", f"the driver lists {listed}, torch can use {usable}", remedy, FAULT)
    else:
        yield Finding(
            "GPUs", f"{usable}: {names}" if usable else "none; workers train on CPUs (gpus_each: 0)"
        )
    if torch.distributed.is_nccl_available():
        yield Finding("NCCL", ".".join(map(str, torch.cuda.nccl.version())) if usable else "built in")
    elif usable:
        yield Finding("NCCL", "not in this torch", "install a torch build with NCCL", FAULT)
    else:
        yield Finding("NCCL", "not in this torch, and not needed without GPUs")


def gloo_finding() -> Finding:
    """A group of this process alone: opens the sockets that ranks on CPUs use."""
    import torch
    import torch.distributed as dist

    if not dist.is_gloo_available():
        return Finding("gloo", "not in this torch", "install another build of torch", FAULT)
    with tempfile.TemporaryDirectory() as folder:
        try:
            dist.init_process_group(
                "gloo",
                init_method=f"file://{folder}/store",
                rank=0,
                world_size=1,
                timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S),
            )
            dist.all_reduce(torch.ones(1))
            dist.destroy_process_group()
        except RuntimeError as error:
            remedy = "set GLOO_SOCKET_IFNAME to an interface that is up (`ip -brief address`)"
            return Finding("gloo", first_line(error), remedy, FAULT)
    return Finding("gloo", "works")


def _gpus_of_the_driver() -> int:
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return 0 if listed.returncode else len(listed.stdout.splitlines())
