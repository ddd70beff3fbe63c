"""Joining the ranks of a start into a torch process group, and leaving it.

Ray Train's own torch set-up would import torch in the driver and in its controller, one after the other
on the way to the first step; joining here needs it in the workers only.
"""

from __future__ import annotations

import contextlib
import datetime
import re
import socket
from collections.abc import Iterator
from typing import Any

import ray.train.collective
import ray.util
import torch
import torch.distributed as dist


@contextlib.contextmanager
def joined(rank: int, world_size: int, device: torch.device, timeout_s: float) -> Iterator[Any]:
    """Be part of the default group (NCCL on GPUs, else gloo) for the time of the block.

    Args:
        timeout_s: longest wait for another rank in a collective.

    Yields:
        A gloo group of the same ranks for decisions on the CPU, or None with one rank.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world_size == 1:
        yield None
        return
    address = ray.train.collective.broadcast_from_rank_zero(_free_address() if rank == 0 else None)
    timeout = datetime.timedelta(seconds=timeout_s)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=world_size, timeout=timeout)
    yield dist.group.WORLD if backend == "gloo" else dist.new_group(backend="gloo", timeout=timeout)
    # Not after an error: the other ranks may be gone, and Ray ends this process anyway.
    dist.destroy_process_group()


def is_timeout(error: RuntimeError) -> bool:
    """Whether a collective gave up waiting for another rank (gloo's and NCCL's words)."""
    return re.search(r"Timed out waiting|ran for .* before timing out", str(error)) is not None


def _free_address() -> str:
    host = ray.util.get_node_ip_address()
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"tcp://{host}:{probe.getsockname()[1]}"
