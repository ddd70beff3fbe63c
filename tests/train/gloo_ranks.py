"""Ranks of a training run as plain processes joined by gloo."""

from __future__ import annotations

import datetime
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

TIMEOUT_S = 120


def run_ranks(worker: Callable[..., Any], world_size: int, folder: Path, *arguments: Any) -> list[Any]:
    """`worker(rank, world_size, group, *arguments)` in each of several processes; their values in rank order.

    A rank's traceback is raised here; a rank that waits too long for another fails instead of hanging.
    """
    spawn = mp.get_context("spawn")
    answers = spawn.SimpleQueue()
    rendezvous = folder / f"rendezvous-{os.urandom(4).hex()}"
    processes = [
        spawn.Process(target=_rank, args=(worker, rank, world_size, rendezvous, answers, arguments))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    found: dict[int, Any] = {}
    while len(found) < world_size:
        rank, value, trace = answers.get()
        if trace:
            for process in processes:
                process.terminate()
            raise AssertionError(f"rank {rank} failed:\n{trace}")
        found[rank] = value
    for process in processes:
        process.join(TIMEOUT_S)
    return [found[rank] for rank in range(world_size)]


def _rank(
    worker: Callable[..., Any],
    rank: int,
    world_size: int,
    rendezvous: Path,
    answers: Any,
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{rendezvous}",
            rank=rank,
            world_size=world_size,
            timeout=datetime.timedelta(seconds=TIMEOUT_S),
        )
        value = worker(rank, world_size, dist.group.WORLD, *arguments)
        dist.barrier()
        dist.destroy_process_group()
        answers.put((rank, value, ""))
    except BaseException:
        answers.put((rank, None, traceback.format_exc()))
